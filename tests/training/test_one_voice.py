"""One voice from import to report: nothing refuses it, and each number says whose voice it is."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.command_line import Answer

from moonshine_tune.cli.app import run
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.corpus.manifest import read_manifest
from moonshine_tune.release.inputs import public_run
from moonshine_tune.runs.records import EvaluationRecord, RunRecord
from moonshine_tune.training.run import train

pytestmark = pytest.mark.usefixtures("one_thread")
_STEPS = ("--set", "train.steps=2", "--set", "select.every_steps=2", "--set", "adapter.rank=4",
          "--set", "train.batch_size=4", "--set", "device.name=cpu")  # fmt: skip
_SENTENCE = "for this voice (petewarden): says nothing about other voices"


@pytest.mark.shared_data
def test_a_real_speaker_alone_goes_all_the_way(
    shared_data: Path,
    saved_v1: Path,
    tmp_path: Path,
    ask: Callable[..., Answer],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = shared_data / "alphanumeric"
    # Half of the readings, so that the test takes seconds.
    own = [
        item
        for item in read_manifest(folder / "manifest.jsonl").utterances
        if item.speaker == "petewarden" and item.id[-1] in "01"
    ]
    with Path("words.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file", "text", "speaker"])
        table.writerows([item.audio, (item.text or "").lower(), item.speaker] for item in own)
    code, _ = ask("data", "import", folder, "--table", "words.csv", "--out", "all.jsonl")
    assert code == 0
    code, split = ask("data", "split", "all.jsonl", "--out", "data")
    assert code == 0 and split["by"] == "text" and split["leaks"]["texts"] == []
    assert [side["voices"] for side in split["sides"]] == [
        None, *[{"kind": "one voice", "names": ["petewarden"]}] * 2
    ]  # fmt: skip
    manifests = [f"data/{name}.jsonl" for name in ("train", "dev", "test")]
    code, check = ask("data", "check", *manifests)
    kinds = {finding["kind"] for finding in check["findings"]}
    assert "known_voices" in kinds and not {"leaked_speakers", "leaked_recordings"} & kinds

    words = ("train", "--model", saved_v1, "--train", manifests[0], *_STEPS, "--out")
    for out, dev in (("runs/dev", ["--dev", manifests[1]]), ("runs/held-out", [])):
        capsys.readouterr()
        # Two steps of a random model may be no better than none: exit code 1.
        code, trained = ask(*words, out, *dev)
        assert code in (0, 1) and trained["voices"]["kind"] == "one voice"
        record = RunRecord.read(Path(out) / "run.json")
        assert f"dev: {_SENTENCE}" in record.remarks and record.voices is not None
        assert "petewarden" not in json.dumps(public_run(record).voices.to_json())  # type: ignore[union-attr]
        assert run(["report", out]) == 0
        assert _SENTENCE in (Path(out) / "report.html").read_text(encoding="utf-8")

    capsys.readouterr()
    words = ("evaluate", "--adapter", "runs/dev", "--manifest", manifests[2], "--out", "eval")
    assert run([str(word) for word in words]) == 0
    assert _SENTENCE in capsys.readouterr().out
    assert EvaluationRecord.read(Path("eval/result.json")).voices is not None
    assert run(["report", "eval"]) == 0
    assert _SENTENCE in (Path("eval") / "report.html").read_text(encoding="utf-8")


def _renamed(training: Any, folder: Path, names: tuple[str | None, ...]) -> Path:
    """The training clips of the shared folder under other names, without their split."""
    lines = []
    source = training.speech / "train.jsonl"
    for index, line in enumerate(source.read_text(encoding="utf-8").splitlines()):
        record = json.loads(line)
        record |= {"audio": str(training.speech / record["audio"]),
                   "speaker": names[index % len(names)]}  # fmt: skip
        lines.append(json.dumps(record) + "\n")
    path = folder / "all.jsonl"
    path.write_text("".join(lines), encoding="utf-8")
    return path


def test_two_voices_that_were_split_by_text_are_trained_and_labeled(
    training: Any, tmp_path: Path, ask: Callable[..., Answer]
) -> None:
    source = _renamed(training, tmp_path, ("anna", "ben"))
    code, split = ask("data", "split", source, "--out", tmp_path / "data")
    assert code == 0 and split["by"] == "text"
    paths = {name: str(tmp_path / "data" / f"{name}.jsonl") for name in ("train", "dev")}
    settings = training.settings(data__train=paths["train"], data__dev=paths["dev"], train__steps=1)
    result = train(settings, tmp_path / "run", SilentProgress())
    assert any("for" in remark and "other voices" in remark for remark in result.remarks)
    # Without the record, sharing voices is a fault of the split.
    (tmp_path / "data" / "split.json").unlink()
    code, refused = ask("train", "--model", training.model, "--train", paths["train"], "--dev",
                       paths["dev"], "--out", tmp_path / "other", *_STEPS)  # fmt: skip
    assert code == 2 and "dev shares 2 speakers" in refused["error"]["message"]


def test_unnamed_clips_are_labeled_where_the_split_says_so(training: Any, tmp_path: Path) -> None:
    source = _renamed(training, tmp_path, (None,))
    settings = training.settings(data__train=str(source), data__dev=None, train__steps=1)
    result = train(settings, tmp_path / "run", SilentProgress())
    assert result.voices is not None and result.voices.kind == "unnamed voices"
    assert any("which are not named" in remark for remark in result.remarks)
