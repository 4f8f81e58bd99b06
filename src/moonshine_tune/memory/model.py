"""Memory of a training run by phase and part, counted before anything is loaded.

The model is built from its configuration on the meta device, and the real forward, loss and
backward run on fake tensors, which have shapes but no data. Every storage that an operator
allocates is counted while it is alive, so the peak is that of the code and no rule of thumb. Price:
about a second per phase. What cannot be counted (gaps of the allocator, scratch space of libraries,
the interpreter) is added from measurements, as parts of its own.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from moonshine_tune.audio.samples import SAMPLE_RATE_HZ
from moonshine_tune.core.device import counted_as
from moonshine_tune.memory.live_storage import LiveMemory, make_fake
from moonshine_tune.memory.phase_work import PhaseWork, inject
from moonshine_tune.memory.run_shape import RunShape
from moonshine_tune.models.checkpoint import MOST_MAPPED_BYTES
from moonshine_tune.models.lora import adapter_parameters
from moonshine_tune.registry.published_configs import depth_of, model_from_config, shallower

_MIB = 1 << 20
_CPU, _CUDA, _MPS = "cpu", "cuda", "mps"

# Interpreter, torch, transformers and PEFT, before any model: resident size measured with torch
# 2.13 on Linux. CUDA and MPS add the context of their driver (assumed from reports).
_RUNTIME = {_CPU: 600 * _MIB, _CUDA: 1100 * _MIB, _MPS: 900 * _MIB}
# Gaps of the allocator, as a share of what a phase allocates. CPU: measured by
# benchmarks/estimate_accuracy.py. MPS keeps freed blocks by size; its value is an assumption.
_GAPS = {_CPU: 0.06, _CUDA: 0.10, _MPS: 0.25}
# glibc keeps large freed blocks on its heap, which clips of different lengths fragment: 1.9 to 2.3
# times the live memory, by the same benchmark with --loose-heap.
_LOOSE_GAPS = 2.3
# Deeper models are counted in two shallow versions: equal layers take equal memory.
_DIRECT_DEPTH, _SHALLOW = 6, (2, 3)


@dataclass(frozen=True)
class Phase:
    """Memory of one phase of a run at its peak, in bytes by part.

    Parts: weights, loading (temporary copies and file pages), adapter, gradients, optimizer,
    encoder states (the stored ones), audio, encoder, decoder and logits (alive in their forward
    passes at the peak), backward, allocator (its gaps), runtime (interpreter and libraries).
    """

    name: str
    parts: dict[str, int]

    @property
    def total(self) -> int:
        """Sum of all parts, bytes."""
        return sum(self.parts.values())

    @property
    def allocated(self) -> int:
        """Bytes that the work of the phase allocates and frees."""
        return sum(self.parts[name] for name in LiveMemory.PARTS)


@dataclass(frozen=True)
class MemoryEstimate:
    """Peak memory of a run.

    Attributes:
        phases: those of `load`, `prepare` (storing states), `step`, `replay` and `score` that the
            run has.
        states_bytes: of all encoder states that are stored, in memory or on disk, in the format of
            the weights; 0 where their number is not known.
    """

    shape: RunShape
    phases: tuple[Phase, ...]
    adapter_parameters: int
    model_parameters: int
    states_bytes: int

    @property
    def peak(self) -> Phase:
        """The phase with the largest total."""
        return max(self.phases, key=lambda phase: phase.total)

    @property
    def total(self) -> int:
        """Bytes at the peak, including the process itself."""
        return self.peak.total

    def tightened(self) -> "MemoryEstimate":
        """The same with an allocator that returns freed blocks to the system."""
        shape = replace(self.shape, loose_heap=False)
        phases = tuple(
            Phase(phase.name, phase.parts | {"allocator": round(_gaps(shape) * phase.allocated)})
            for phase in self.phases
        )
        return replace(self, shape=shape, phases=phases)

    def within(self, budget_bytes: int) -> "MemoryEstimate":
        """With the allocator that the run will use: the default one if it fits, else the tight."""
        return self if self.total <= budget_bytes else self.tightened()

    @property
    def growth(self) -> int:
        """Bytes at the peak in addition to a process that has loaded its libraries."""
        return self.total - self.peak.parts["runtime"]


class MemoryModel:
    """A model with an adapter on fake tensors, whose phases can be run in many shapes.

    Args:
        config: a transformers configuration.
        shape: fixes device, adapter and number formats; `estimate` can change the other fields.
    """

    def __init__(self, config: Any, shape: RunShape) -> None:
        self._shape = shape
        attention = "eager" if shape.device == _MPS else "sdpa"
        with torch.device("meta"):
            model = model_from_config(
                config, device="meta", dtype=shape.frozen_dtype, attention=attention
            )
        summary = inject(model, shape)
        self.trains_encoder = summary.touches_encoder
        self._mode = FakeTensorMode()
        with self._mode:
            make_fake(model.module)
            for _, value in adapter_parameters(model.module):
                value.grad = torch.zeros_like(value)
        model.module.train()
        if shape.device == _MPS:
            model.make_activation_inputs_contiguous()
        self._model = model
        self._work = PhaseWork(model, trains_encoder=self.trains_encoder)
        self._adapter = summary.parameters
        count = sum(int(value.numel()) for value in model.module.parameters())
        self._parameters = count - summary.parameters
        sizes = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in self._held()}
        self._weights = sum(sizes.values()) - 4 * summary.parameters
        encoder = sum(int(value.numel()) for value in model.encoder.parameters())
        self._encoder = 0 if self.trains_encoder else encoder * model.dtype.itemsize
        if shape.gradient_checkpointing:
            model.enable_gradient_checkpointing()
        self._depth = depth_of(config)
        self._shallow: tuple[MemoryModel, ...] = ()
        if self._depth > _DIRECT_DEPTH:
            self._shallow = tuple(MemoryModel(shallower(config, d), shape) for d in _SHALLOW)

    def _held(self) -> Iterator[Tensor]:
        module = self._model.module
        yield from (*module.parameters(), *module.buffers())

    def estimate(
        self,
        *,
        batch_size: int | None = None,
        clip_s: float | None = None,
        tokens: int | None = None,
        only: str | None = None,
    ) -> MemoryEstimate:
        """The peak of every phase, with another batch size or clip length if one is given.

        Args:
            only: count only the phase of this name, which saves time.
        """
        shape = replace(
            self._shape,
            batch_size=batch_size or self._shape.batch_size,
            clip_s=clip_s or self._shape.clip_s,
            tokens=tokens or self._shape.tokens,
        )
        exists = {
            "load": True,
            "prepare": shape.stores,
            "step": True,
            "replay": shape.replay_clips > 0,
            "score": shape.score_batch_s > 0,
        }
        phases = tuple(
            self._phase(shape, name) for name in exists if exists[name] and only in (None, name)
        )
        rate = SAMPLE_RATE_HZ / self._model.samples_per_frame
        frames = shape.stored_s * rate if math.isfinite(shape.stored_s) else 0.0
        states = round(frames * self._work.width * self._model.dtype.itemsize)
        return MemoryEstimate(shape, phases, self._adapter, self._parameters, states)

    def _allocated(self, shape: RunShape, name: str) -> dict[str, int]:
        """What a phase allocates at its peak, by part.

        Every further layer adds the same, so a deep model is extrapolated from two shallow
        versions, in a third of the time. Scoring holds one layer at a time and is quick; its peak
        can move to another operator with the depth, so the full model is counted.
        """
        # In a step that encodes audio, the front end or the frozen encoder has a peak of its own.
        # It does not grow with the depth, and in a shallow model it hides the peak of the layers.
        extrapolates = name == "prepare" or (name in ("step", "replay") and shape.stores)
        if self._shallow and extrapolates:
            low, high = (model._allocated(shape, name) for model in self._shallow)
            further = (self._depth - _SHALLOW[0]) / (_SHALLOW[1] - _SHALLOW[0])
            return {k: max(round(low[k] + (high[k] - low[k]) * further), 0) for k in low}
        with self._mode, counted_as(self._shape.device):
            self._model.module.train(name in ("step", "replay"))
            live = LiveMemory(self._held())
            with live:
                if name != "load":
                    self._work.run(name, shape, live.part)
        return {part: live.at_peak.get(part, 0) for part in LiveMemory.PARTS}

    def _phase(self, shape: RunShape, name: str) -> Phase:
        allocated = self._allocated(shape, name)
        trains = name in ("step", "replay")
        adapter = 4 * self._adapter
        stored = shape.stores and name != "load"
        absent = 0
        if stored and shape.releases_encoder and name != "prepare":
            absent = self._encoder
        elif name == "prepare" and _is_mapped(shape) and not (shape.replay_clips or shape.full):
            # The decoder's weights are not read yet. With replay the teacher has read them, because
            # it transcribes before the training clips are encoded; full fine-tuning copies them.
            absent = self._weights - self._encoder
        parts = {
            "weights": self._weights - absent,
            "loading": self._loading(shape) if name == "load" else 0,
            "adapter": adapter,
            "gradients": adapter if trains else 0,
            # Two moments, from the first step on.
            "optimizer": 0 if name in ("load", "prepare") else 2 * adapter,
            "copies": self._copies(shape, name) * adapter,
            "encoder states": self._stored_bytes(shape) if stored else 0,
            **allocated,
            "allocator": round(_gaps(shape) * sum(allocated.values())),
            "runtime": _RUNTIME[shape.device],
        }
        return Phase(name, parts)

    def _copies(self, shape: RunShape, name: str) -> int:
        """How often a phase holds all that trains once more; of an adapter that is nothing."""
        if not shape.full:
            return 0
        # Gradients that are flattened together.
        flat = int(shape.device == _MPS and name in ("step", "replay"))
        if shape.device == _CUDA:
            # The others are in the memory of the host.
            return flat
        # The best so far; at the end also the last, a candidate, the chosen, and late ones.
        return flat + {"step": 1, "replay": 1, "score": 4 + shape.copies}.get(name, 0)

    def _loading(self, shape: RunShape) -> int:
        """What loading takes in addition to the weights: published files hold 32 bits."""
        if _is_mapped(shape):
            return 0
        file = 4 * self._parameters
        if shape.frozen_dtype == torch.float32:
            return file
        return min(file, MOST_MAPPED_BYTES) + (self._weights if shape.device != _CPU else 0)

    def _stored_bytes(self, shape: RunShape) -> int:
        rate = SAMPLE_RATE_HZ / self._model.samples_per_frame
        frame_bytes = self._work.width * self._model.dtype.itemsize
        stored = min(shape.stored_s * rate * frame_bytes, shape.stored_limit_mb * 1e6)
        return round(stored + shape.pulled_s * rate * self._work.width * 2)


def _gaps(shape: RunShape) -> float:
    """Gaps of the allocator, as a share of what a phase allocates."""
    return _LOOSE_GAPS if shape.loose_heap and shape.device == _CPU else _GAPS[shape.device]


def _is_mapped(shape: RunShape) -> bool:
    """Whether the weights are the mapped checkpoint file: pages are read at their first use."""
    return shape.device == _CPU and shape.frozen_dtype == torch.float32
