"""A score is worth less on clips that the run of the adapter knows, and says so."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from moonshine_tune.audio.io import write_audio
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.corpus.manifest import Manifest, read_manifest, write_manifest
from moonshine_tune.evaluation.scored_run import known_clips, remarks_on_run
from moonshine_tune.models.files import ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE
from moonshine_tune.runs.folder import RunFolder
from moonshine_tune.runs.recordings import keep_recordings
from moonshine_tune.runs.records import RunRecord


def _clips(folder: Path, names: str) -> Manifest:
    lines = []
    for number, name in enumerate(names):
        tone = 0.1 * np.sin(np.arange(1600) * (200 + number) / 2546)
        write_audio(folder / f"{name}.wav", tone.astype(np.float32))
        lines.append({"id": name, "audio": f"{name}.wav", "text": "one two"})
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return read_manifest(path)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """Trained on a and b, dev is c; d was not used."""
    train = _clips(tmp_path, "abcd")
    run = RunFolder(tmp_path / "run")
    run.adapter_dir.mkdir(parents=True)
    for name in (ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE):
        (run.adapter_dir / name).write_text("{}")
    settings = {"data": {"train": str(train.path)}}
    RunRecord(settings=settings, data={"train": train.sha256}, status="finished").write(
        run.record_path
    )
    spans = [item.span for item in train.utterances]
    used = {"train": spans[:2], "dev": spans[2:3]}
    keep_recordings(run, {"train": train.utterances}, used, SilentProgress())
    return run


def test_clips_of_the_run_are_recognized_under_other_names(run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    for number, name in enumerate("abcd"):
        shutil.copyfile(tmp_path / f"{name}.wav", tmp_path / "test" / f"{number}.wav")
    utterances = read_manifest(tmp_path / "train.jsonl").utterances
    renamed = [
        type(item)(f"t{n}", tmp_path / "test" / f"{n}.wav", item.text)
        for n, item in enumerate(utterances)
    ]
    write_manifest(tmp_path / "test.jsonl", renamed)
    known = known_clips(run.path, read_manifest(tmp_path / "test.jsonl"))
    assert known is not None and known.used == {"train": 2, "dev": 1}
    assert [text.partition(":")[0] for text in known.sentences] == [
        "2 of 4 clips are recordings of train of this run",
        "1 of 4 clips are recordings of dev of this run",
    ]
    write_manifest(tmp_path / "new.jsonl", renamed[3:])
    assert known_clips(run.path, read_manifest(tmp_path / "new.jsonl")) is None


def test_a_manifest_of_the_run_that_changed_is_named(run: RunFolder, tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    assert remarks_on_run(run.path, read_manifest(path)) == []
    path.write_text(path.read_text().replace("one two", "two one"))
    (remark,) = remarks_on_run(run.adapter_dir, read_manifest(path))
    assert remark.startswith("train.jsonl is data.train of this run and has changed since")
    # Not of this run: an adapter that was copied out of it.
    shutil.copytree(run.adapter_dir, tmp_path / "alone")
    assert remarks_on_run(tmp_path / "alone", read_manifest(path)) == []
    assert known_clips(tmp_path / "alone", read_manifest(path)) is None
