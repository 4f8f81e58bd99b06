"""The finished adapter is filtered by general speech, unless dev shows that it is worse."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.training_runs import Training, Watcher

from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.inference.dataset import read_training_data
from moonshine_tune.models.base import SpeechModel
from moonshine_tune.models.files import ADAPTER_WEIGHTS_FILE
from moonshine_tune.models.input_covariance import InputCovariance
from moonshine_tune.models.lora import read_matrices
from moonshine_tune.registry.open import open_model
from moonshine_tune.runs.folder import RunFolder
from moonshine_tune.training.distributed import Distributed
from moonshine_tune.training.objective import Objective
from moonshine_tune.training.prepare import prepare_training
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
    time = RunFolder(result.run).read_record().result.time
    assert set(time) == {
        "starting", "encoding", "teacher", "reading", "baseline", "writing", "steps", "replay",
        "filter", "scoring", "choice",
    }  # fmt: skip
    assert sum(time.values()) <= (result.seconds or 0) + 1.0


def test_a_run_that_was_interrupted_is_filtered_as_any_other(
    training: Training, tmp_path: Path
) -> None:
    settings = training.settings("replay", **_STEPS, adapter__sites="all")
    train(settings, tmp_path / "whole", SilentProgress())
    train(settings, tmp_path / "parts", Watcher.interrupting(3))
    result = train(settings, tmp_path / "parts", SilentProgress(), resume=True)
    assert result.stopped == "finished"
    expected, matrices = _matrices(tmp_path / "whole"), _matrices(tmp_path / "parts")
    assert all(torch.equal(value, matrices[name]) for name, value in expected.items())


def test_a_filtered_run_is_another_from_its_first_score_on(
    training: Training, tmp_path: Path
) -> None:
    losses = {}
    for weight in (0.0, 3.0):
        settings = training.settings(
            "replay", **_STEPS, adapter__sites="all", retain__filter_weight=weight
        )
        run = tmp_path / str(weight)
        train(settings, run, SilentProgress())
        lines = [json.loads(item) for item in RunFolder(run).metrics_path.open()]
        losses[weight] = [line["loss"] for line in lines if "loss" in line]
    assert losses[0.0][:2] == losses[3.0][:2]
    assert losses[0.0][2] != losses[3.0][2]


def test_resumed_after_the_end_it_is_the_same(training: Training, tmp_path: Path) -> None:
    settings = training.settings("replay", **_STEPS, adapter__sites="all")
    train(settings, tmp_path / "run", SilentProgress())
    before = _matrices(tmp_path / "run")
    train(settings, tmp_path / "run", SilentProgress(), resume=True)
    after = _matrices(tmp_path / "run")
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def _inputs(model: SpeechModel, run: Callable[[], object]) -> dict[str, torch.Tensor]:
    covariance = InputCovariance()
    with torch.no_grad(), covariance.collect(model):
        run()
    return {name: torch.from_numpy(covariance.mean(name)) for name in covariance.names}


def _objective(training: Training, domain_weight: float) -> tuple[SpeechModel, Objective]:
    settings = training.settings(
        "replay", adapter__sites="all", retain__domain_weight=domain_weight
    ).settings
    opened = open_model(settings.model, progress=SilentProgress())
    data = read_training_data(settings.data)
    prepared = prepare_training(settings, data, opened, SilentProgress())
    opened.model.module.eval()
    distributed = Distributed(torch.device("cpu"), torch.float32)
    return opened.model, Objective(settings.retain, opened.model, prepared, distributed)


@pytest.mark.parametrize("max_batch", [0, 1])
def test_inputs_are_those_of_the_losses_without_the_base(
    training: Training, max_batch: int
) -> None:
    """Padding is none of them, nor is the base's own pass over training clips."""
    model, objective = _objective(training, 0.0)
    domain = _inputs(model, lambda: objective.run_domain_clips(1, max_batch))
    general = _inputs(model, lambda: objective.run_replay_clips(1, max_batch))
    near = {"rtol": 1e-3, "atol": 1e-4}
    losses = _inputs(model, lambda: [*objective.domain_terms(1, 1)])
    torch.testing.assert_close(domain, losses, **near)
    losses = _inputs(model, lambda: [*objective.replay_terms(1, 1)])
    torch.testing.assert_close(general, losses, **near)
    model, pulled = _objective(training, 1.0)
    inputs = _inputs(model, lambda: pulled.run_domain_clips(1, max_batch))
    torch.testing.assert_close(domain, inputs, **near)


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
