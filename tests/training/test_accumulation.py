"""One batch of eight and eight batches of one are the same step, whatever the padding."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from moonshine_tune.config.resolve import resolve_settings
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.training.run import train

pytestmark = pytest.mark.usefixtures("one_thread")

# The original, before a test wraps it.
_CLIP = torch.nn.utils.clip_grad_norm_

Run = Callable[[int, int], tuple[list[Tensor], list[dict[str, Any]]]]


@pytest.fixture(params=["v1", "streaming"])
def run_steps(
    request: pytest.FixtureRequest,
    speech_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Run:
    """`run_steps(batch_size, accumulation)`: first step's gradients, and what was logged."""
    model: Path = request.getfixturevalue(f"saved_{request.param}")

    def run(batch_size: int, accumulation: int) -> tuple[list[Tensor], list[dict[str, Any]]]:
        gradients: list[Tensor] = []

        def watch(parameters: list[Tensor], bound: float, **how: bool) -> Tensor:
            if not gradients:
                gradients.extend(p.grad.clone() for p in parameters if p.grad is not None)
            return _CLIP(parameters, bound, **how)

        monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", watch)
        content = {
            "model": str(model),
            "data": {name: str(speech_folder / f"{name}.jsonl") for name in ("train", "dev")}
            | {"replay": str(speech_folder / "replay.jsonl")},
            "adapter": {"rank": 4},
            "train": {"steps": 3, "batch_size": batch_size, "accumulation": accumulation},
            "device": {"name": "cpu"},
        }
        out = tmp_path / f"{batch_size}x{accumulation}"
        train(resolve_settings([("test", content)]), out, SilentProgress())
        lines = (out / "metrics.jsonl").read_text().splitlines()
        return gradients, [line for line in map(json.loads, lines) if "loss" in line]

    return run


def test_eight_by_one_and_one_by_eight_are_the_same_steps(run_steps: Run) -> None:
    large, together = run_steps(8, 1)
    small, apart = run_steps(1, 8)
    assert len(large) == len(small) == 40
    # At first B is zero, so only B has a gradient.
    assert sum(bool(gradient.any()) for gradient in large) == 20
    for expected, gradient in zip(large, small, strict=True):
        scale = float(expected.abs().max())
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5 * scale)
    for line, same in zip(together, apart, strict=True):
        assert same["loss"] == pytest.approx(line["loss"], rel=1e-4)
        assert same["replay_kl"] == pytest.approx(line["replay_kl"], rel=1e-2, abs=1e-5)
        assert same["gradient_norm"] == pytest.approx(line["gradient_norm"], rel=1e-3)


def test_another_batch_is_another_step(run_steps: Run) -> None:
    """The comparison above is not empty: half the utterances give another gradient."""
    large, _ = run_steps(8, 1)
    half, _ = run_steps(4, 1)
    differing = [
        float((gradient - smaller).norm() / gradient.norm())
        for gradient, smaller in zip(large, half, strict=True)
        if gradient.any()
    ]
    assert min(differing) > 0.01
