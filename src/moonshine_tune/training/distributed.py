"""One process, or as many as `accelerate launch` or `torchrun` started, training one adapter.

The gradients of all processes are added up once a step. Adapters are small, so one explicit sum is
cheaper and plainer than a wrapped module that does it behind the loop's back.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

from moonshine_tune.core.device import autocast

# The others wait this long while one process scores or encodes.
_PATIENCE = timedelta(hours=12)


class Distributed:
    """What this process is among those that train together.

    Args:
        device: where this process computes.
        dtype: a 16-bit one turns autocast on.

    Attributes:
        loss_scale: losses are multiplied by it before the backward pass, gradients divided after.
            float16 has nothing below 6e-8; a fixed scale does, for torch's scaler needs 64 bits,
            which MPS lacks, and steps that overflow are left out anyway.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState
        from accelerate.utils import InitProcessGroupKwargs

        if AcceleratorState._shared_state and AcceleratorState().num_processes == 1:
            # An earlier run in this process may have had another device or number format.
            AcceleratorState._reset_state(reset_partial_state=True)
        self._device, self._dtype = device, dtype
        self.loss_scale = 1024.0 if dtype == torch.float16 else 1.0
        self.accelerator = Accelerator(
            cpu=device.type == "cpu",
            # Autocast is `autocast` below, the same on every device.
            mixed_precision="no",
            kwargs_handlers=[InitProcessGroupKwargs(timeout=_PATIENCE)],
        )
        self.count = int(self.accelerator.num_processes)
        self.place = int(self.accelerator.process_index)

    @property
    def is_rank_zero(self) -> bool:
        """Whether this process scores, logs and saves."""
        return self.place == 0

    def autocast(self) -> AbstractContextManager[object]:
        """The run's number format inside the block."""
        return autocast(self._device, self._dtype)

    def unscale(self, parameters: Sequence[Tensor]) -> None:
        """Divide the gradients by the loss scale."""
        if self.loss_scale != 1.0:
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad.div_(self.loss_scale)

    def highest(self, value: int) -> int:
        """The highest `value` of all processes: what one of them has seen, all act on."""
        if self.count == 1:
            return value
        given = torch.tensor([value], device=self.accelerator.device)
        return int(self.accelerator.gather(given).max())

    def add_up(self, parameters: Sequence[Tensor], sums: Mapping[str, float]) -> dict[str, float]:
        """Replace the gradients by their sums over all processes; returns the sums of `sums`.

        Each process divides its losses by the counts of the whole step, so the sum is the gradient
        that one process would have found. Alone, nothing is touched.
        """
        if self.count == 1:
            return dict(sums)
        device = parameters[0].device
        parts = [
            (torch.zeros_like(p) if p.grad is None else p.grad).float().flatten()
            for p in parameters
        ]
        parts.append(torch.tensor(list(sums.values()), dtype=torch.float32, device=device))
        total = self.accelerator.reduce(torch.cat(parts), reduction="sum")
        at = 0
        for parameter in parameters:
            piece = total[at : at + parameter.numel()]
            parameter.grad = piece.view_as(parameter).to(parameter.dtype)
            at += parameter.numel()
        return dict(zip(sums, total[at:].tolist(), strict=True))

    def from_main(self, value: Any) -> Any:
        """What the main process gives, in every process."""
        if self.count == 1:
            return value
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value], from_process=0)[0]

    def finish(self) -> None:
        """Part from the others."""
        if self.count > 1:
            self.accelerator.end_training()
