"""The mean of the last scored adapters, which is one more candidate.

The mean of the matrices A and B is not the matrix of the mean product B·A. Late adapters lie close
together, where the two differ only in the second order; the mean is scored like any other adapter.
"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from moonshine_tune.core.files import write_bytes_atomic


class LateAdapters:
    """Keeps the last `count` scored adapters of a run on disk, since a resumed run needs them.

    Args:
        run: the run folder.
        count: how many; 0 keeps none.
    """

    def __init__(self, run: Path, count: int) -> None:
        self._folder, self._count = run / "late", count

    def keep(self, step: int, state: dict[str, Tensor]) -> None:
        """Write the adapter that was scored at `step` and remove those before the last `count`."""
        if self._count == 0:
            return
        write_bytes_atomic(self._path(step), save(state))
        for old in self._steps(step)[: -self._count]:
            self._path(old).unlink(missing_ok=True)

    def mean(self, step: int) -> tuple[dict[str, Tensor], int] | None:
        """The mean of what was kept up to `step` and the number of adapters; None below two."""
        states = []
        for kept in self._steps(step)[-self._count :] if self._count else ():
            with suppress(OSError, SafetensorError):
                states.append(load_file(self._path(kept)))
        if len(states) < 2:
            return None
        mean = {name: _mean([state[name] for state in states]) for name in states[0]}
        return mean, len(states)

    def _path(self, step: int) -> Path:
        return self._folder / f"step-{step:07d}.safetensors"

    def _steps(self, step: int) -> list[int]:
        """Steps that are kept, ascending; a killed run may have left later ones behind."""
        kept = [int(path.stem.partition("-")[2]) for path in self._folder.glob("step-*")]
        return sorted(number for number in kept if number <= step)


def _mean(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(tuple(values)).double().mean(dim=0).to(values[0].dtype)
