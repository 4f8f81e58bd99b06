"""An adapter is weakened until it drifts no further from the base than it may."""

import json
from pathlib import Path

import pytest
import torch
from tests.training_runs import Training

from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.inference.dataset import read_training_data
from moonshine_tune.models.lora import adapter_parameters, adapter_scale
from moonshine_tune.registry.open import open_model
from moonshine_tune.training.prepare import prepare_training
from moonshine_tune.training.run import train
from moonshine_tune.training.selection import strength_within

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def watched(training: Training, tmp_path_factory: pytest.TempPathFactory) -> Training:
    """Runs with so many replay clips that some are held out."""
    folder = tmp_path_factory.mktemp("speech")
    for name in ("train", "dev", "replay"):
        lines = (training.speech / f"{name}.jsonl").read_text().splitlines()
        copies = -(-30 // len(lines)) if name == "replay" else 1
        rows = [
            row | {"id": f"{row['id']}-{copy}", "audio": str(training.speech / row["audio"])}
            for copy in range(copies)
            for row in map(json.loads, lines)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Training(training.model, folder)


@pytest.mark.parametrize(
    ("bound", "strength", "tried"),
    [(0.01, 1.0, 1), (0.007, 0.8, 2), (0.004, 0.6, 3), (0.001, 0.6, 3), (-1.0, 0.6, 3)],
)
def test_the_largest_strength_within_the_bound_is_taken(
    bound: float, strength: float, tried: int
) -> None:
    calls: list[float] = []

    def drift_at(value: float) -> float:
        calls.append(value)
        return 0.01 * value**2

    assert strength_within(bound, (0.6, 1.0, 0.8), drift_at) == (strength, 0.01 * strength**2)
    assert calls == [1.0, 0.8, 0.6][:tried]


def test_the_drift_is_nothing_without_an_adapter_and_grows_with_it(
    watched: Training,
) -> None:
    settings = watched.settings("replay", adapter__sites="all").settings
    opened = open_model(settings.model, progress=SilentProgress())
    data = read_training_data(settings.data)
    prepared = prepare_training(settings, data, opened, SilentProgress())
    assert prepared.drift is not None
    opened.model.module.eval()
    assert prepared.drift.measure(opened.model) == pytest.approx(0.0, abs=1e-6)
    generator = torch.Generator().manual_seed(0)
    for name, value in adapter_parameters(opened.model.module):
        if ".lora_B." in name:
            value.data.copy_(0.01 * torch.randn(value.shape, generator=generator))
    full = prepared.drift.measure(opened.model)
    with adapter_scale(opened.model, 0.5):
        half = prepared.drift.measure(opened.model)
    assert full > 1e-4
    assert 0 < half < full


@pytest.mark.parametrize(("bound", "is_weakened"), [(-1.0, True), (100.0, False)])
def test_a_run_keeps_the_bound(
    watched: Training, tmp_path: Path, bound: float, is_weakened: bool
) -> None:
    settings = watched.settings("replay", select__max_drift=bound)
    result = train(settings, tmp_path / "run", SilentProgress())
    chosen = json.loads((tmp_path / "run" / "adapter" / "selection.json").read_text())
    assert (result.best.strength < 1.0) == is_weakened == (chosen["strength"] < 1.0)
    assert chosen["drift"] == result.best.drift is not None
    config = json.loads((tmp_path / "run" / "adapter" / "adapter_config.json").read_text())
    assert config["lora_alpha"] == pytest.approx(16.0 * result.best.strength)


def test_one_strength_is_kept_as_it_is(watched: Training, tmp_path: Path) -> None:
    settings = watched.settings("replay", select__max_drift=-1.0, retain__strengths=[1.0])
    assert train(settings, tmp_path / "run", SilentProgress()).best.strength == 1.0
