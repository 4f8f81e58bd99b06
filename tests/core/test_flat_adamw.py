"""AdamW over one flat tensor per group computes what AdamW computes on each parameter."""

import pytest
import torch
from torch import Tensor, nn

from moonshine_tune.core.flat_adamw import (
    FlatAdamW,
    adamw,
    clip_gradients,
    load_slots,
    read_slots,
)

_SHAPES = ((3, 4), (5,), (2, 2))


def _parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in _SHAPES]


def _groups(values: list[nn.Parameter]) -> list[dict[str, object]]:
    return [{"params": values[:2], "lr": 0.1}, {"params": values[2:], "lr": 0.02}]


def _steps(
    optimizer: torch.optim.Optimizer, values: list[nn.Parameter], numbers: range
) -> list[float]:
    norms = []
    for number in numbers:
        generator = torch.Generator().manual_seed(number)
        for value in values:
            value.grad = torch.randn(value.shape, generator=generator)
        norms.append(float(clip_gradients(optimizer, values, 1.0)))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        assert all(value.grad is None for value in values)
    return norms


def _is_near(first: list[nn.Parameter], second: list[nn.Parameter]) -> bool:
    return all(torch.allclose(a, b, atol=1e-6) for a, b in zip(first, second, strict=True))


def test_steps_and_norms_are_those_of_separate_tensors() -> None:
    plain, flat = _parameters(), _parameters()
    expected = _steps(adamw(_groups(plain), torch.device("cpu")), plain, range(4))
    optimizer = FlatAdamW(_groups(flat))
    assert _steps(optimizer, flat, range(4)) == pytest.approx(expected, rel=1e-6)
    assert _is_near(flat, plain)
    assert len(optimizer.flat) == 2
    assert flat[0].untyped_storage().data_ptr() == flat[1].untyped_storage().data_ptr()


def test_a_parameter_without_a_gradient_counts_as_zero() -> None:
    values = _parameters()
    before = [value.detach().clone() for value in values]
    optimizer = FlatAdamW([{"params": values}], lr=0.1, weight_decay=0.0)
    values[0].grad = torch.ones_like(values[0])
    optimizer.step()
    assert torch.equal(values[1], before[1])
    assert not torch.equal(values[0], before[0])


@pytest.mark.parametrize("saved_flat", [True, False])
@pytest.mark.parametrize("loaded_flat", [True, False])
def test_either_form_continues_from_what_the_other_has_saved(
    saved_flat: bool, loaded_flat: bool
) -> None:
    def build(flat: bool, values: list[nn.Parameter]) -> torch.optim.Optimizer:
        return FlatAdamW(_groups(values)) if flat else adamw(_groups(values), torch.device("cpu"))

    expected = _parameters()
    _steps(build(False, expected), expected, range(5))
    values = _parameters()
    first = build(saved_flat, values)
    assert not read_slots(first)
    _steps(first, values, range(3))
    slots = read_slots(first)
    saved: list[dict[str, Tensor]] = [
        {key: number.clone() for key, number in slots[value].items()} for value in values
    ]
    assert {key for own in saved for key in own} == {"step", "exp_avg", "exp_avg_sq"}
    continued = [nn.Parameter(value.detach().clone()) for value in values]
    second = build(loaded_flat, continued)
    load_slots(second, dict(zip(continued, saved, strict=True)))
    _steps(second, continued, range(3, 5))
    assert _is_near(continued, expected)
