"""`runs list | show | compare | clean` through the entry point, on folders made by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from moonshine_tune.cli.app import run
from moonshine_tune.corpus.normalizers import normalizer_for
from moonshine_tune.metrics.wer import score_utterance

_SPELLED = normalizer_for("spelled-1")


def _run(path: Path, hypothesis: str | None, wer: float | None, **changes: Any) -> Path:
    (path / "eval").mkdir(parents=True)
    result = {"steps": 4, "train_seconds": 9.0, "canary_held": True,
              "baseline": {"dev_wer": 60.0, "canary_wer": 5.0},
              "best": {"dev_wer": wer, "canary_wer": 6.0}}  # fmt: skip
    record: dict[str, Any] = {
        "schema_version": 1, "status": "finished", "created": "2026-01-02T03:04:05+00:00",
        "settings": {"model": "tiny", "adapter": {"rank": 8}}, "sources": {"adapter.rank": "--set"},
        "data": {"dev": "same"}, "normalizer": "spelled-1", "result": result,
    }  # fmt: skip
    if wer is None:
        record.pop("result")
    (path / "run.json").write_text(json.dumps(record | changes))
    metrics = [{"step": 0, "dev_wer": 60.0}] + ([{"step": 4, "dev_wer": wer}] if wer else [])
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
    if hypothesis is not None:
        scored = score_utterance("u0", "one two three", hypothesis, _SPELLED)
        (path / "eval" / "dev.jsonl").write_text(json.dumps(scored.to_record()) + "\n")
    return path


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    _run(folder / "a-middle", "one too three", 33.3)
    _run(folder / "b-best", "one two three", 2.5)
    _run(
        folder / "c-worst", "won too tree", 90.0, settings={"model": "base", "adapter": {"rank": 2}}
    )
    _run(folder / "d-unfinished", None, None, status="interrupted")
    (folder / "e-torn").mkdir()
    (folder / "e-torn" / "run.json").write_text('{"settings": ')
    return folder


def _json(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def _names(runs: Any) -> list[str]:
    return [Path(item["path"]).name for item in runs]


def test_the_lowest_wer_comes_first_and_runs_without_one_last(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["runs", "list", str(runs)]) == 0
    lines = [line.split()[0] for line in capsys.readouterr().out.splitlines()[2:]]
    assert lines[:3] == ["b-best", "a-middle", "c-worst"]
    assert run(["runs", "list", str(runs), "--json"]) == 0
    listed = _json(capsys)
    assert _names(listed) == ["b-best", "a-middle", "c-worst", "d-unfinished", "e-torn"]
    assert listed[4]["status"] == "torn"
    assert listed[4]["remark"]


def test_runs_are_filtered(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        run(["runs", "list", str(runs), "--status", "finished", "--model", "tiny", "--json"]) == 0
    )
    assert _names(_json(capsys)) == ["b-best", "a-middle"]
    assert run(["runs", "list", str(runs), "--sort", "color"]) == 2


def test_one_run_is_shown_with_where_its_settings_came_from(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["runs", "show", str(runs / "a-middle")]) == 0
    shown = capsys.readouterr().out
    for piece in ("60.00 → 33.30", "adapter.rank", "--set", "33.33 ["):
        assert piece in shown


def test_two_runs_are_compared_word_by_word(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["runs", "compare", str(runs / "c-worst"), str(runs / "b-best")]) == 0
    shown = capsys.readouterr().out
    for piece in ("adapter.rank", "100.00 → 0.00", "better: u0, 3 → 0 errors"):
        assert piece in shown


def test_all_but_the_best_are_cleaned_away(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(item.name for item in runs.iterdir())
    assert run(["runs", "clean", str(runs), "--keep", "1", "--dry-run"]) == 0
    assert sorted(item.name for item in runs.iterdir()) == before
    assert "would remove" in capsys.readouterr().out
    assert run(["runs", "clean", str(runs), "--keep", "1", "--json"]) == 0
    # A damaged run that was written to today may still be running.
    assert sorted(item.name for item in runs.iterdir()) == ["b-best", "e-torn"]
    assert run(["runs", "clean", str(runs), "--keep", "0"]) == 2


def test_the_cache_of_runs_is_cleaned_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MOONSHINE_TUNE_CACHE", str(tmp_path))
    files = {
        name: tmp_path / name
        for name in ("encoder-states/a/s.safetensors", "encoder-states/a/.lock",
                     "base-transcripts/b.json", "checkpoints/tiny/model.safetensors")
    }  # fmt: skip
    for path in files.values():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 1000)
    assert run(["runs", "clean", "--cache", "--dry-run", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["bytes"] == {"encoder-states": 1000, "base-transcripts": 1000}
    assert all(path.is_file() for path in files.values())
    assert run(["runs", "clean", "--cache"]) == 0
    left = {name for name, path in files.items() if path.is_file()}
    assert left == {"encoder-states/a/.lock", "checkpoints/tiny/model.safetensors"}
    assert run(["runs", "clean"]) == 2
    assert run(["runs", "clean", str(tmp_path), "--cache"]) == 2
