"""The guide `my-own-voice`, as one person follows it, with real speech and the real tiny model."""

import csv
import shlex
import shutil
from pathlib import Path

import pytest
from tests.documentation import DOCS, commands_of, runnable

from moonshine_tune.cli.app import run
from moonshine_tune.corpus.manifest import Utterance, read_manifest
from moonshine_tune.runs.records import EvaluationRecord, RunRecord

pytestmark = [
    pytest.mark.real_model,
    pytest.mark.shared_data,
    pytest.mark.usefixtures("one_thread", "real_tiny"),
]
_SHORT = [
    "--set", "train.steps=2", "--set", "train.batch_size=2", "--set", "device.name=cpu",
    "--set", "data.replay=none",
]  # fmt: skip
# Two steps may be no better than none, and a clip or two decide nothing about exported files.
_MAY_SAY_NO = ("train", "export")


def _record(folder: Path, clips: list[Utterance]) -> dict[str, str]:
    """The recordings of a folder, and their texts by name."""
    folder.mkdir()
    texts = {}
    for number, item in enumerate(clips, start=1):
        name = f"take {number:02d}.flac"
        shutil.copyfile(item.audio, folder / name)
        texts[name] = item.reference
    return texts


def _table(path: Path, heading: list[str], rows: list[list[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([heading, *rows])


@pytest.fixture
def desk(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the guide starts from: one speaker's recordings and table, and two logs."""
    clips = read_manifest(shared_data / "accent" / "test.jsonl").utterances
    own = [item for item in clips if item.speaker == clips[0].speaker][:13]
    texts = _record(tmp_path / "my-recordings", own[:9])
    _table(tmp_path / "my-words.csv", ["file", "text", "speaker"],
           [[name, text, "anna"] for name, text in texts.items()])  # fmt: skip
    logs = {"my-log.csv": texts, "next-log.csv": _record(tmp_path / "next-week", own[9:])}
    for name, corrected in logs.items():
        # A recognizer that gets the first word wrong everywhere.
        rows = [[file, f"xyzzy {text.partition(' ')[2]}", text] for file, text in corrected.items()]
        _table(tmp_path / name, ["audio", "raw_text", "corrected_text"], rows)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_from_recordings_to_runtime_files_and_on_to_the_next_week(desk: Path) -> None:
    blocks = runnable(DOCS / "guides" / "my-own-voice.md")
    for line in [line for block in blocks for line in commands_of(block.text)]:
        words = shlex.split(line)[1:]
        code = run([*words, *(_SHORT if words[0] == "train" else ())])
        assert code in ((0, 1) if words[0] in _MAY_SAY_NO else (0,)), line
    assert (desk / "my-exported" / "decoder_model_merged.ort").is_file()
    record = RunRecord.read(desk / "runs" / "next-week" / "run.json")
    assert [Path(item.path).name for item in record.lineage] == ["my-voice"]
    scored = EvaluationRecord.read(desk / "eval" / "next-week" / "result.json")
    assert [item.side for item in scored.systems] == ["base", "parent", "adapted"]
