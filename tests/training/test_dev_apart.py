"""A dev set that overlaps with train is refused: training clips in it, or training voices."""

import json
from pathlib import Path
from typing import Any

import pytest

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.training.run import train

pytestmark = pytest.mark.usefixtures("one_thread")


def _manifests(training: Any, folder: Path, **speakers: list[str]) -> dict[str, str]:
    """The recordings of the shared folder under other speakers' names, by manifest."""
    paths = {}
    for name, voices in speakers.items():
        source = training.speech / f"{name}.jsonl"
        lines = []
        for index, line in enumerate(source.read_text(encoding="utf-8").splitlines()):
            record = json.loads(line)
            record["audio"] = str(training.speech / record["audio"])
            lines.append(json.dumps(record | {"speaker": voices[index % len(voices)]}) + "\n")
        path = folder / f"{name}.jsonl"
        path.write_text("".join(lines), encoding="utf-8")
        paths[f"data__{name}"] = str(path)
    return paths


def test_speakers_on_both_sides_are_refused_by_name(training: Any, tmp_path: Path) -> None:
    paths = _manifests(training, tmp_path, train=["anna", "ben", "cleo"], dev=["dora", "ben"])
    with pytest.raises(RequestError, match=r"dev shares 1 speakers with train \(ben\)") as caught:
        train(training.settings(**paths), tmp_path / "run", SilentProgress())
    assert caught.value.exit_code == 2
    assert caught.value.where == str(tmp_path / "dev.jsonl")
    assert "data.shared_speakers=true" in (caught.value.hint or "")


def test_shared_speakers_can_be_allowed_and_stay_on_record(training: Any, tmp_path: Path) -> None:
    paths = _manifests(training, tmp_path, train=["anna", "ben", "cleo"], dev=["dora", "ben"])
    settings = training.settings(**paths, data__shared_speakers=True, train__steps=1)
    result = train(settings, tmp_path / "run", SilentProgress())
    assert "dev: shares 1 speakers with train (ben), as allowed" in result.remarks


def test_a_single_voice_gets_a_remark(training: Any, tmp_path: Path) -> None:
    paths = _manifests(training, tmp_path, train=["anna"], dev=["anna"])
    watcher = training.Watcher()
    result = train(training.settings(**paths, train__steps=1), tmp_path / "run", watcher)
    assert any("for this voice (anna)" in remark for remark in result.remarks)
    # A random model makes up words, as any model does on texts of other recordings.
    (doubt,) = [text for text in watcher.messages if "% of dev wrong" in text]
    assert "a wrong sample rate" in doubt and "data audit" in doubt


def test_training_clips_in_dev_are_refused_whatever_is_allowed(
    training: Any, tmp_path: Path
) -> None:
    settings = training.settings(
        data__dev=str(training.speech / "train.jsonl"), data__shared_speakers=True
    )
    with pytest.raises(RequestError, match="8 of 8 dev clips are also training clips"):
        train(settings, tmp_path / "run", SilentProgress())
