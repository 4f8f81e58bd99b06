"""The comparison of a run's device with the CPU; on the CPU itself both must agree."""

from pathlib import Path
from typing import Any

import pytest
import torch

from moonshine_tune.core.errors import MachineError
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.training import sentinel as sentinel_module
from moonshine_tune.training.run import train

pytestmark = pytest.mark.usefixtures("one_thread")


def test_comparisons_agree_and_change_nothing(
    training: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With dropout, which a comparison leaves out."""
    compared: list[str | None] = []
    real = sentinel_module.Sentinel._compare

    def recording(self: Any, *given: Any) -> str | None:
        compared.append(real(self, *given))
        return compared[-1]

    monkeypatch.setattr(sentinel_module.Sentinel, "_compare", recording)
    shared = {"train__steps": 5, "retain__domain_weight": 0.3}
    train(training.settings(**shared), tmp_path / "plain", SilentProgress())
    assert not compared
    settings = training.settings(**shared, device__compare_steps=2)
    train(settings, tmp_path / "compared", SilentProgress())
    # Three at the start, then at steps 3 and 5.
    assert compared == [None] * 5
    assert training.is_same(tmp_path / "plain", tmp_path / "compared")


def test_a_gradient_that_differs_ends_the_run(
    training: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = torch.autograd.grad, []

    def wrong(*given: Any, **named: Any) -> Any:
        calls.append(1)
        return tuple(part * (1.2 if len(calls) == 1 else 1.0) for part in real(*given, **named))

    monkeypatch.setattr(sentinel_module.torch.autograd, "grad", wrong)
    with pytest.raises(MachineError, match="cpu computes wrong at step 1: loss") as caught:
        train(training.settings(device__compare_steps=1), tmp_path / "run", SilentProgress())
    assert "20.0% of it differs" in str(caught.value)
    assert "the longest train-" in str(caught.value)
    assert caught.value.exit_code == 3
