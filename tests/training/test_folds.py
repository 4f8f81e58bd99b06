"""Folds: each training holds out other clips, and the adapter is the mean of all."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.training_runs import Training

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.corpus.manifest import read_manifest
from moonshine_tune.report.contrasts import contrasts
from moonshine_tune.report.reading import read_report_input
from moonshine_tune.runs.folder import RunFolder
from moonshine_tune.runs.records import BETTER
from moonshine_tune.training import trainer
from moonshine_tune.training.result import TrainResult
from moonshine_tune.training.run import train

pytestmark = pytest.mark.usefixtures("one_thread")

_SHORT = {"train__steps": 4, "train__folds": 2}


@pytest.fixture(autouse=True, scope="module")
def _every_adapter_is_better() -> Iterator[None]:
    """A small random model learns nothing in four steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "verdict_on", lambda *_: BETTER)
        yield


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def _change(tensors: dict[str, torch.Tensor], name: str, scale: float) -> torch.Tensor:
    return scale * tensors[f"{name}.lora_B.weight"] @ tensors[f"{name}.lora_A.weight"]


@pytest.fixture(scope="module")
def run(training: Training, tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    """A finished run of two folds. Read only."""
    out = tmp_path_factory.mktemp("folds") / "run"
    train(training.settings(**_SHORT), out, SilentProgress())
    return out


def test_the_adapter_is_the_mean_of_all_folds(run: Path, training: Training) -> None:
    mean, parts = _tensors(run), [_tensors(run / "folds" / number) for number in ("1", "2")]
    config = json.loads((run / "folds" / "1" / "adapter" / "adapter_config.json").read_text())
    scale = config["lora_alpha"] / config["r"]
    for name in {key.rpartition(".lora_")[0] for key in mean}:
        wanted = sum(_change(part, name, scale) for part in parts) / 2
        torch.testing.assert_close(_change(mean, name, 1.0), wanted)
    record = RunFolder(run).read_record()
    assert [fold.adapter for fold in record.result.folds] == ["folds/1/adapter", "folds/2/adapter"]
    assert record.status == "finished"
    assert any("score it on a test set" in line for line in record.remarks)


def test_each_fold_holds_out_other_clips_and_all_are_learned_from(
    run: Path, training: Training
) -> None:
    def ids(path: Path) -> set[str]:
        return {item.id for item in read_manifest(path).utterances}

    given = [ids(training.speech / f"{name}.jsonl") for name in ("train", "dev")]
    fold = [ids(run / "folds" / f"2-{name}.jsonl") for name in ("train", "dev")]
    assert fold[0] | fold[1] == given[0] | given[1]
    assert not fold[0] & fold[1]
    assert fold[1] <= given[0]
    assert given[1] <= fold[0]


def test_a_run_that_is_stopped_between_folds_goes_on(
    run: Path, training: Training, tmp_path: Path
) -> None:
    class InSecondFold(Training.Watcher):
        def say(self, text: str) -> None:
            super().say(text)
            if text.startswith("fold 2"):
                self._step = 2

    other, watcher = tmp_path / "other", InSecondFold.interrupting(0)
    settings = training.settings(**_SHORT)
    first = train(settings, other, watcher)
    assert first.stopped == "interrupted"
    assert RunFolder(other).read_record().status == "interrupted"
    second: TrainResult = train(settings, other, SilentProgress(), resume=True)
    assert second.stopped == "finished"
    assert Training.adapter(other) == Training.adapter(run)


def test_more_folds_than_clips_are_refused_before_the_training(
    training: Training, tmp_path: Path
) -> None:
    with pytest.raises(RequestError, match="cannot be held out in 10 ways"):
        train(
            training.settings(train__folds=10, train__steps=4), tmp_path / "run", SilentProgress()
        )
    assert not (tmp_path / "run").exists()


def test_report_says_whose_scores_are_shown(run: Path) -> None:
    result = RunFolder(run).read_record().result
    assert result.scored_adapter == "of the first fold alone, not of the mean of 2"
    (row,) = [row for row in contrasts(read_report_input(run)) if row.set_name == "dev"]
    assert "not of the mean of 2" in row.voices
