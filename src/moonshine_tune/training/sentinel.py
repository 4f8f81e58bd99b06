"""Compares the device with the CPU during a run: what computes wrong shows only as slow learning.

Accelerators have computed wrong gradients for some shapes only, or only after another shape, which
no check before a run can rule out.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from moonshine_tune.config.settings import RunSettings
from moonshine_tune.core.device import is_out_of_memory, release_memory
from moonshine_tune.core.errors import MachineError
from moonshine_tune.core.progress import Progress
from moonshine_tune.doctor.gradients import LOSS_BOUND, MIXED_LOSS_BOUND
from moonshine_tune.models.base import SpeechModel
from moonshine_tune.models.kernels.lora_linear import FeatureDropout
from moonshine_tune.models.lora import adapter_parameters
from moonshine_tune.runs.folder import RunFolder
from moonshine_tune.training.distributed import Distributed
from moonshine_tune.training.objective import Objective
from moonshine_tune.training.prepare import PreparedTraining

# A comparison takes as long as one step on the CPU: where the GPU is ten times as fast, 5 % more.
_EVERY_STEPS = 200
# Late in a run the clips' gradients nearly cancel each other, and what rounding leaves is a larger
# share of their sum than in `doctor`. Reported faults give 0.1 and more.
_GRADIENT_BOUND, _MIXED_GRADIENT_BOUND = 0.05, 0.25
# Below these, differences are rounding.
_LEAST_LOSS, _LEAST_NORM = 0.1, 0.02


@dataclass(frozen=True)
class _Figures:
    """Loss of a micro-batch in nats per token, and the adapter's gradient on the CPU."""

    loss: float
    gradient: Tensor

    @property
    def norm(self) -> float:
        return float(self.gradient.norm())

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.norm)


class Sentinel:
    """Computes the loss and gradient of a micro-batch on the device and on the CPU.

    Price of a comparison: a pass on each, of which the CPU's is nine tenths of its own step (tiny,
    8 clips), and while it lasts, a copy of the weights. The device's cache is released before the
    CPU computes.

    Args:
        objective: of the run, on its device.
    """

    def __init__(
        self,
        settings: RunSettings,
        model: SpeechModel,
        prepared: PreparedTraining,
        objective: Objective,
        distributed: Distributed,
    ) -> None:
        self._settings, self._model, self._prepared = settings, model, prepared
        self._objective, self._distributed = objective, distributed
        every = settings.device.compare_steps
        if every is None:
            every = _EVERY_STEPS if model.device.type == "mps" else 0
        self._every = every if distributed.is_rank_zero else 0
        self._started, self._next = False, 0

    def compare(self, step: int, max_batch: int, run: RunFolder, progress: Progress) -> None:
        """Compare, if it is time. First the first batch of the run, its longest, and the first.

        Faults have appeared only after another shape.

        Args:
            max_batch: most clips in a forward pass; 0 for the size that the settings name.

        Raises:
            MachineError: the device and the CPU disagree.
        """
        if not self._every or step < self._next:
            return
        batches = self._objective.batches(step, max_batch)[:1]
        if batches and not self._started:
            batches = [*batches, self._longest(step, max_batch), *batches]
        self._started, self._next = True, step + self._every
        for batch in batches:
            try:
                difference = self._compare(batch, step)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                difference = None
                progress.say(f"step {step + 1}: not compared with the CPU, memory ran out")
            if difference is not None:
                raise MachineError(
                    f"{self._model.device} computes wrong at step {step + 1}: {difference}",
                    where=run.path,
                    hint="go on from the last saved state on the CPU with --resume --set "
                    "device.name=cpu; check the device with: moonshine-tune doctor",
                )
            release_memory(self._model.device)

    def _longest(self, step: int, max_batch: int) -> Sequence[int]:
        """The micro-batch with the most seconds of padded audio, from `step` to the run's end."""
        seconds = self._prepared.dataset.seconds
        steps = range(step, self._settings.train.steps)
        batches = (batch for i in steps for batch in self._objective.batches(i, max_batch))
        return max(batches, key=lambda batch: len(batch) * max(seconds[i] for i in batch))

    def _compare(self, batch: Sequence[int], step: int) -> str | None:
        """What differs, in words; None if the device agrees with the CPU."""
        model = self._model
        device, mixed = model.device, self._is_mixed
        with _without_dropout(model):
            here = self._figures(self._objective, batch, step)
            release_memory(device)
            with _on_cpu(model):
                # Its frozen head must lie on the CPU too.
                objective = Objective(
                    self._settings.retain, model, self._prepared, self._distributed
                )
                there = self._figures(objective, batch, step)
        if not there.is_finite and not here.is_finite:
            # Not a fault of the device: the step will be skipped.
            return None
        loss_bound = MIXED_LOSS_BOUND if mixed else LOSS_BOUND
        gradient_bound = _MIXED_GRADIENT_BOUND if mixed else _GRADIENT_BOUND
        loss = abs(here.loss - there.loss) / max(abs(there.loss), _LEAST_LOSS)
        gradient = float((here.gradient - there.gradient).norm()) / max(there.norm, _LEAST_NORM)
        # NaN is within no bound.
        if loss <= loss_bound and gradient <= gradient_bound:
            return None
        dataset = self._prepared.dataset
        longest = max(batch, key=lambda index: dataset.seconds[index])
        return (
            f"loss {here.loss:.4f}, on the CPU {there.loss:.4f}; gradient norm {here.norm:.4f}, on "
            f"the CPU {there.norm:.4f}, and {gradient:.1%} of it differs; {len(batch)} clips, the "
            f"longest {dataset.utterances[longest].id} ({dataset.seconds[longest]:.1f} s)"
        )

    @property
    def _is_mixed(self) -> bool:
        return self._model.dtype != torch.float32 or self._distributed.is_mixed

    def _figures(self, objective: Objective, batch: Sequence[int], step: int) -> _Figures:
        parameters = [value for _, value in adapter_parameters(self._model.module)]
        scale = self._distributed.loss_scale
        loss = objective.term(batch, step, batch).loss
        parts = torch.autograd.grad(
            loss * scale, parameters, allow_unused=True, materialize_grads=True
        )
        # Number format after the device: MPS has no 64-bit floats.
        gradient = torch.cat([part.detach().flatten().to("cpu").double() for part in parts])
        return _Figures(float(loss.detach()), gradient / scale)


@contextmanager
def _without_dropout(model: SpeechModel) -> Iterator[None]:
    """Training mode without dropout, whose masks differ between devices."""
    dropouts: list[Any] = [
        layer
        for layer in model.module.modules()
        if isinstance(layer, FeatureDropout | torch.nn.Dropout)
    ]
    before = [layer.p for layer in dropouts]
    model.module.train()
    for layer in dropouts:
        layer.p = 0.0
    try:
        yield
    finally:
        for layer, probability in zip(dropouts, before, strict=True):
            layer.p = probability


@contextmanager
def _on_cpu(model: SpeechModel) -> Iterator[None]:
    """The model on the CPU inside the block, in the same objects; then again the device's tensors.

    An encoder that was released stays so.
    """
    named = [*model.module.parameters(), *model.module.buffers()]
    tensors = [(tensor, tensor.data) for tensor in named if not tensor.is_meta]
    for tensor, data in tensors:
        tensor.data = data.to("cpu")
    try:
        yield
    finally:
        for tensor, data in tensors:
            tensor.data = data
