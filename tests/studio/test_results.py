"""Runs as the page shows them, of folders that the command line has made."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from tests.studio.running_studio import running_studio, speech, wav

from moonshine_tune.core.files import write_jsonl_atomic
from moonshine_tune.corpus.normalizers import normalizer_for
from moonshine_tune.metrics.wer import score_utterance
from moonshine_tune.runs.folder import RunFolder
from moonshine_tune.runs.records import EvaluationRecord

_TEXTS = {"a": ("turn left", "turn left now", "turn left"), "b": ("go home", "go home", "go hum")}


def _scored(side: int) -> list[dict[str, Any]]:
    normalizer = normalizer_for("basic-1")
    return [
        score_utterance(name, texts[0], texts[side], normalizer).to_record()
        for name, texts in _TEXTS.items()
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project with a run, its scores on test, and exported files."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.wav").write_bytes(wav(speech()))
    rows = [{"id": name, "audio": "a.wav", "text": texts[0]} for name, texts in _TEXTS.items()]
    for name in ("train", "dev", "test"):
        write_jsonl_atomic(data / f"{name}.jsonl", rows)
    run = RunFolder.create(tmp_path / "runs" / "first")
    paths = {name: str(data / f"{name}.jsonl") for name in ("train", "dev")}
    run.write_record(
        settings={"model": "tiny", "data": paths, "train": {"steps": 4}}, status="finished"
    )
    for step, values in enumerate(
        [{"dev_wer": 20.0}, {"loss": 1.5}, {"loss": 1.0, "dev_wer": 5.0}]
    ):
        run.append_metrics({"step": step, **values})
    write_jsonl_atomic(run.dev_hypotheses_path, _scored(2))
    for side, wer in ((1, 25.0), (2, 50.0)):
        out = tmp_path / "evaluations" / "first" / ("base", "adapted")[side - 1]
        out.mkdir(parents=True)
        EvaluationRecord(wer=wer, normalizer="basic-1").write(out / "result.json")
        write_jsonl_atomic(out / "hypotheses.jsonl", _scored(side))
    (tmp_path / "exported" / "first").mkdir(parents=True)
    (tmp_path / "exported" / "first" / "export.json").write_text("{}", encoding="utf-8")
    (tmp_path / "exported" / "outside").symlink_to("/etc")
    return tmp_path


def test_a_run_of_the_command_line_is_shown_with_its_curve_and_scores(folder: Path) -> None:
    with running_studio(folder) as page:
        (listed,) = page.ask("GET", "/api/runs")
        assert (listed["name"], listed["state"]) == ("first", "finished")
        assert (listed["scores"]["base_dev"], listed["scores"]["dev"]) == (20.0, 5.0)
        assert (listed["scores"]["base_test"], listed["scores"]["test"]) == (25.0, 50.0)
        detail = page.ask("GET", "/api/runs/first")
        assert [(p["step"], p["loss"], p["dev_wer"]) for p in detail["curve"]] == [
            (0, None, 20.0), (1, 1.5, None), (2, 1.0, 5.0)
        ]  # fmt: skip
        assert [item["adapted"] for item in detail["transcripts"]] == ["turn left", "go hum"]
        assert page.refusal("GET", "/api/runs/second")[0] == 404


def test_both_models_are_side_by_side_with_what_is_wrong(folder: Path) -> None:
    with running_studio(folder) as page:
        better, worse = page.ask("GET", "/api/runs/first/side-by-side")
        assert (better["id"], better["base"], better["adapted"]) == (
            "a", "turn left now", "turn left"
        )  # fmt: skip
        assert better["base_diff"][-1] == {"op": "inserted", "ref": "", "hyp": "now"}
        assert worse["adapted_diff"][-1] == {"op": "substituted", "ref": "home", "hyp": "hum"}
        status, headers, content = page.send("GET", better["audio"])
        assert (status, headers["content-type"], content[:4]) == (200, "audio/wav", b"RIFF")
        tried = page.ask("POST", "/api/try?run=first", wav(speech()))
        assert tried["base"] and tried["adapted"]
        assert page.refusal("POST", "/api/try?run=../first", wav(speech()))[0] == 404


def test_an_export_is_downloaded_as_one_file(folder: Path) -> None:
    with running_studio(folder) as page:
        status, headers, content = page.send("GET", "/api/exports/first/download")
        assert status == 200 and 'filename="first.zip"' in headers["content-disposition"]
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            assert archive.namelist() == ["first/export.json"]
        # A link is not followed out of the project.
        assert page.refusal("GET", "/api/exports/outside/download")[0] == 404
        assert page.refusal("GET", "/api/packages/first/download")[0] == 404
        project = Path(page.ask("GET", "/api/project")["folder"])
        assert not list((project / ".studio").glob("*.zip"))
    assert json.loads((folder / "studio.json").read_text(encoding="utf-8"))["port"] == page.port
