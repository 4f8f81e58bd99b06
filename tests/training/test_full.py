"""Full fine-tuning: which weights train, resume, what is saved, what it exports, what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.models.checkpoint import load_checkpoint
from moonshine_tune.training.result import TrainResult
from moonshine_tune.training.run import train

pytestmark = pytest.mark.usefixtures("one_thread")

# Of a small random model, which learns nothing at the rates of a trained one.
_FULL = {"adapter": {"kind": "full", "sites": "all", "rank": 8, "dropout": 0.0},
         "train": {"learning_rate": 1e-3, "encoder_learning_rate": 1e-3, "steps": 12,
                   "batch_size": 4, "seed": 3}}  # fmt: skip


def _settings(training: Any, *names: str, **changes: Any) -> Any:
    from tests.training_runs import resolve

    return resolve(training.content(*names) | _FULL, **changes)


@pytest.fixture(scope="module")
def full_run(training: Any, tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Any:
    settings = _settings(training, "canary", "replay")
    out = tmp_path_factory.mktemp("full") / "run"
    result = train(settings, out, SilentProgress())
    return out, settings, result


def test_a_run(full_run: Any, training: Any) -> None:
    out, _, result = full_run
    assert isinstance(result, TrainResult)
    print(result.first_loss, result.last_loss, result.best)
    saved = load_file(out / "adapter" / "adapter_model.safetensors")
    base = dict(load_checkpoint(training.model).module.named_parameters())
    assert len(saved) == 32
    for name, value in saved.items():
        assert not torch.equal(value, base[name])


def test_resume(full_run: Any, training: Any, tmp_path: Path) -> None:
    out, settings, _ = full_run
    train(settings, tmp_path / "run", training.Watcher.interrupting(6))
    train(settings, tmp_path / "run", SilentProgress(), resume=True)
    assert training.is_same(out, tmp_path / "run")
