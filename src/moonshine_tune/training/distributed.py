"""One process, or several started by `accelerate launch` or `torchrun`, training one adapter.

The gradients of all processes are added up once per step. Adapters are small, so one explicit sum
is cheaper and plainer than a wrapped module.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs, broadcast_object_list, get_int_from_env
from torch import Tensor

from moonshine_tune.core.device import autocast

# Variables of `torchrun`, `accelerate launch` and MPI with the number of this process.
_RANK_VARIABLES = ["RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK"]
# The other processes wait this long while one of them scores or encodes.
_TIMEOUT = timedelta(hours=12)


class Distributed:
    """This process's rank in a distributed run, and what the processes exchange.

    Args:
        device: where this process computes.
        dtype: a 16-bit one turns autocast on.

    Attributes:
        rank, world_size: number of this process, and of all processes.
        loss_scale: losses are multiplied by it before the backward pass, gradients divided after.
            float16 has nothing below 6e-8. A fixed scale is enough: torch's scaler needs 64 bits,
            which MPS lacks, and steps that overflow are skipped anyway.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        if AcceleratorState._shared_state and AcceleratorState().num_processes == 1:
            # An earlier run in this process may have had another device or number format.
            AcceleratorState._reset_state(reset_partial_state=True)
        self._device, self._dtype = device, dtype
        self.loss_scale = 1024.0 if dtype == torch.float16 else 1.0
        self.accelerator = Accelerator(
            cpu=device.type == "cpu",
            # Autocast is `autocast` below, the same on every device.
            mixed_precision="no",
            kwargs_handlers=[InitProcessGroupKwargs(timeout=_TIMEOUT)],
        )
        self.world_size = int(self.accelerator.num_processes)
        self.rank = int(self.accelerator.process_index)

    @property
    def is_rank_zero(self) -> bool:
        """Whether this process scores, logs and saves."""
        return self.rank == 0

    @property
    def is_mixed(self) -> bool:
        """Whether the arithmetic is in 16 bits."""
        return self._dtype != torch.float32

    def autocast(self) -> AbstractContextManager[object]:
        """The run's number format inside the block."""
        return autocast(self._device, self._dtype)

    def highest(self, value: int) -> int:
        """The highest `value` of all processes: what stops or slows one of them applies to all."""
        if self.world_size == 1:
            return value
        own = torch.tensor([value], device=self.accelerator.device)
        return int(self.accelerator.gather(own).max())

    def reduce(
        self, parameters: Sequence[Tensor], values: Mapping[str, Sequence[Tensor]]
    ) -> Mapping[str, Sequence[Tensor]]:
        """Replace the gradients by their sums over all processes, without the loss scale.

        Each process divides its losses by the token counts of the whole step, so the sum is the
        gradient that one process would have computed. Returns the sums of `values` in the same
        form; a single process gets them back as they are.
        """
        if self.world_size > 1:
            device = parameters[0].device
            parts = [
                (torch.zeros_like(p) if p.grad is None else p.grad).float().flatten()
                for p in parameters
            ]
            sums = read_sums(values)
            parts.append(torch.tensor(list(sums.values()), dtype=torch.float32, device=device))
            total = self.accelerator.reduce(torch.cat(parts), reduction="sum")
            start = 0
            for parameter in parameters:
                piece = total[start : start + parameter.numel()]
                parameter.grad = piece.view_as(parameter).to(parameter.dtype)
                start += parameter.numel()
            values = {name: [value] for name, value in zip(sums, total[start:], strict=True)}
        if self.loss_scale != 1.0:
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad.div_(self.loss_scale)
        return values

    def broadcast(self, value: Any) -> Any:
        """The value of rank zero, in every process."""
        if self.world_size == 1:
            return value
        return broadcast_object_list([value], from_process=0)[0]

    def close(self) -> None:
        """Leave the process group."""
        if self.world_size > 1:
            self.accelerator.end_training()


def launched_as_rank_zero() -> bool:
    """Whether this process is the first of those that were launched together, or the only one.

    Known before the processes find each other.
    """
    return int(get_int_from_env(_RANK_VARIABLES, 0)) == 0


def read_sums(values: Mapping[str, Sequence[Tensor]]) -> dict[str, float]:
    """The sum of each list of scalars, with a single read from the device.

    They are added in Python's 64 bits, which MPS lacks.
    """
    tensors = [value for group in values.values() for value in group]
    numbers = iter(torch.stack(tensors).tolist() if tensors else ())
    sums: dict[str, float] = {}
    for name, group in values.items():
        sums[name] = 0.0
        # Not `sum`, which rounds otherwise from Python 3.12 on.
        for _ in group:
            sums[name] += next(numbers)
    return sums
