"""The finished adapter is filtered by general speech, unless dev shows that it is worse."""

import json
from pathlib import Path

import pytest
import torch
from tests.training_runs import Training, Watcher

from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.models.files import ADAPTER_WEIGHTS_FILE
from moonshine_tune.models.lora import read_matrices
from moonshine_tune.runs.folder import RunFolder
from moonshine_tune.training.run import train

pytestmark = pytest.mark.usefixtures("one_thread")
_STEPS = {"train__steps": 4, "select__every_steps": 2}


def _matrices(run: Path) -> dict[str, torch.Tensor]:
    return read_matrices(RunFolder(run).adapter_dir / ADAPTER_WEIGHTS_FILE)


def test_a_filtered_adapter_is_kept_and_said(training: Training, tmp_path: Path) -> None:
    watcher = Watcher()
    settings = training.settings(
        "replay", **_STEPS, adapter__sites="all", retain__filter_weight=2.0
    )
    result = train(settings, tmp_path / "run", watcher)
    (line,) = [item for item in watcher.messages if item.startswith("filtered by")]
    lines = [json.loads(item) for item in RunFolder(result.run).metrics_path.open()]
    (tried,) = [item for item in lines if "filter_weight" in item]
    assert tried["filter_weight"] == 2.0 and "filtered_dev_wer" in tried
    assert line.endswith("kept") == (result.best.filter_weight == 2.0)
    record = json.loads(RunFolder(result.run).selection_path.read_text())
    assert record.get("filter_weight", 0.0) == result.best.filter_weight


def test_only_the_matrices_that_read_are_changed(training: Training, tmp_path: Path) -> None:
    options = {**_STEPS, "retain__strengths": (1.0,), "adapter__sites": "all"}
    train(
        training.settings("replay", **options, retain__filter_weight=0.0),
        tmp_path / "a",
        SilentProgress(),
    )
    slightly = training.settings("replay", **options, retain__filter_weight=0.01)
    result = train(slightly, tmp_path / "b", SilentProgress())
    assert result.best.filter_weight == 0.01, "nearly the same on dev"
    before, after = _matrices(tmp_path / "a"), _matrices(tmp_path / "b")
    for name, value in before.items():
        is_reading = ".lora_A." in name
        assert torch.equal(value, after[name]) is not is_reading, name


def test_resumed_after_the_end_it_is_the_same(training: Training, tmp_path: Path) -> None:
    settings = training.settings("replay", **_STEPS, adapter__sites="all")
    train(settings, tmp_path / "run", SilentProgress())
    before = _matrices(tmp_path / "run")
    train(settings, tmp_path / "run", SilentProgress(), resume=True)
    after = _matrices(tmp_path / "run")
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize(
    "changes", [{"retain__filter_weight": 0.0}, {"retain__weight": 0.0}, {"adapter__dora": True}]
)
def test_without_general_speech_or_weight_nothing_is_filtered(
    training: Training, tmp_path: Path, changes: dict[str, float]
) -> None:
    watcher = Watcher()
    result = train(training.settings("replay", **_STEPS, **changes), tmp_path / "run", watcher)
    assert result.best.filter_weight == 0.0
    assert not [item for item in watcher.messages if "filtered" in item]
