"""AdamW over one flat tensor per group, for devices on which every kernel costs.

An adapter is more than a hundred small matrices. One by one, clipping and AdamW take ten kernels
for each; on Apple's GPU that is half of the kernels of a training step. Over one flat tensor, of
which the matrices are views, they take a dozen in all.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from moonshine_tune.core.device import is_launch_bound, supports_foreach, supports_fused

_STEP = "step"
Slots = Mapping[Tensor, Mapping[str, Tensor]]
"""The optimizer's numbers by parameter and name: `step`, `exp_avg`, `exp_avg_sq`."""


class FlatAdamW(torch.optim.AdamW):
    """Updates the parameters of each group as one tensor, by torch's fused kernel.

    The numbers are those of AdamW on each parameter. A parameter without a gradient counts as one
    whose gradient is zero.

    Args:
        groups: as for torch's optimizers; the parameters become views of one tensor per group.
    """

    def __init__(self, groups: Iterable[Mapping[str, Any]], **options: Any) -> None:
        flat_groups = []
        self._members: list[list[Tensor]] = []
        for group in groups:
            members = list(group["params"])
            self._members.append(members)
            flat = nn.Parameter(torch.cat([value.detach().flatten() for value in members]))
            for value, view in zip(members, _views(flat, members), strict=True):
                value.data = view
            flat_groups.append({**group, "params": [flat]})
        super().__init__(flat_groups, fused=True, **options)

    @property
    def flat(self) -> list[nn.Parameter]:
        """The flat tensor of each group."""
        return [group["params"][0] for group in self.param_groups]

    def gather_gradients(self) -> None:
        """Move the gradients of the parameters into those of the flat tensors."""
        for flat, members in zip(self.flat, self._members, strict=True):
            parts = [
                torch.zeros_like(value) if value.grad is None else value.grad for value in members
            ]
            flat.grad = torch.cat([part.flatten() for part in parts])
            for value in members:
                value.grad = None

    def step(self, closure: Any = None) -> Any:
        """Update all parameters, with the gradients gathered if they are not yet."""
        if any(flat.grad is None for flat in self.flat):
            self.gather_gradients()
        return super().step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients."""
        super().zero_grad(set_to_none)
        for members in self._members:
            for value in members:
                value.grad = None

    def slots(self) -> Slots:
        """The numbers of each parameter: views of those of the flat tensors."""
        slots: dict[Tensor, dict[str, Tensor]] = {}
        for flat, members in zip(self.flat, self._members, strict=True):
            for key, numbers in self.state.get(flat, {}).items():
                shared = key == _STEP
                views = [numbers] * len(members) if shared else _views(numbers, members)
                for value, own in zip(members, views, strict=True):
                    slots.setdefault(value, {})[key] = own
        return slots

    def load_slots(self, slots: Slots) -> None:
        """Continue from the numbers of `slots`, of this or of another optimizer."""
        for flat, members in zip(self.flat, self._members, strict=True):
            known = [slots.get(value, {}) for value in members]
            if not all(known):
                continue
            self.state[flat] = {
                key: known[0][key].to(flat.device)
                if key == _STEP
                else torch.cat([own[key].to(flat.device).flatten() for own in known])
                for key in known[0]
            }


def _views(flat: Tensor, members: Sequence[Tensor]) -> list[Tensor]:
    """Consecutive parts of a flat tensor in the shapes of `members`."""
    parts = torch.split(flat.detach(), [value.numel() for value in members])
    return [part.view(value.shape) for part, value in zip(parts, members, strict=True)]


def adamw(
    groups: Iterable[Mapping[str, Any]], device: torch.device, **options: Any
) -> torch.optim.AdamW:
    """AdamW in the form that is fastest on the device.

    Args:
        groups: dictionaries with `params`, and what differs between the groups.
        options: of torch's AdamW, such as `lr`.
    """
    if is_launch_bound(device):
        return FlatAdamW(groups, **options)
    return torch.optim.AdamW(
        [dict(group) for group in groups],
        foreach=supports_foreach(device),
        fused=supports_fused(device),
        **options,
    )


def clip_gradients(
    optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor], max_norm: float
) -> Tensor:
    """Scale the gradients down to a common norm of at most `max_norm`; returns the norm before."""
    if isinstance(optimizer, FlatAdamW):
        optimizer.gather_gradients()
        parameters = optimizer.flat
    foreach = supports_foreach(parameters[0].device)
    return torch.nn.utils.clip_grad_norm_(parameters, max_norm, foreach=foreach)


def read_slots(optimizer: torch.optim.Optimizer) -> Slots:
    """The numbers that an optimizer keeps of each parameter; empty before the first step."""
    return optimizer.slots() if isinstance(optimizer, FlatAdamW) else optimizer.state


def load_slots(optimizer: torch.optim.Optimizer, slots: Slots) -> None:
    """Continue from the numbers of `read_slots`; those of any device and form will do."""
    if isinstance(optimizer, FlatAdamW):
        optimizer.load_slots(slots)
        return
    for parameter, own in slots.items():
        optimizer.state[parameter] = {
            # torch keeps the steps of CUDA's unfused kernels on the CPU.
            key: value if key == _STEP else value.to(parameter.device)
            for key, value in own.items()
        }
