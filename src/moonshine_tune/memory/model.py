"""Memory of a training run by phase and part, counted before anything is loaded.

The model is built from its configuration on the meta device, and the real forward, loss and
backward run on fake tensors, which have shapes but no data. Every storage that an operator
allocates is counted while it is alive, so the peak is that of the code and no rule of thumb. Price:
about a second per phase. What cannot be counted (gaps of the allocator, scratch space of libraries,
the interpreter) is added from measurements, as parts of its own.
"""

import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from moonshine_tune.audio.samples import SAMPLE_RATE_HZ
from moonshine_tune.core.device import batch_rows, batch_width, counted_as, text_width
from moonshine_tune.inference.decoder_session import GreedySession
from moonshine_tune.memory.live_storage import LiveMemory, make_fake
from moonshine_tune.models.base import EncoderStates
from moonshine_tune.models.checkpoint import MOST_MAPPED_BYTES
from moonshine_tune.models.lora import adapter_parameters, inject_lora
from moonshine_tune.models.losses import (
    FrozenHead,
    TargetBatch,
    head_cross_entropy_sum,
    head_kl_sum,
)
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
class RunShape:
    """Everything that the memory of a run depends on.

    Attributes:
        device: `cpu`, `mps` or `cuda`. Training on MPS uses eager attention.
        sites: target modules of the adapter, by their name in `models.lora.TARGET_MODULES`.
        rank, dropout, dora: as in `models.lora.inject_lora`.
        loose_heap: the CPU's allocator is glibc's default, which fragments; the alternative is
            `core.device.return_freed_memory_to_os`.
        frozen_dtype: number format of the frozen weights.
        mixed: bfloat16 autocast around the forward pass.
        batch_size: clips in a micro-batch; accumulation takes no memory.
        clip_s: the longest clip, seconds.
        tokens: in its transcript.
        stored_s: seconds of audio whose encoder states are stored, or the front end's features if
            the encoder trains; 0: clips are encoded in every step.
        stored_limit_mb: most memory for them, in MB of 10^6 bytes; the rest is stored on disk.
        releases_encoder: the encoder is freed once all states are stored.
        replay_clips: clips of a micro-batch on which the base model teaches; 0 for none.
        replay_window_s: most seconds of such a clip, if shorter than `clip_s`; its tokens in
            proportion.
        pulled_s: seconds of replay audio whose encoder states of the base are kept, in 16 bits, for
            an encoder that trains.
        score_batch_s: padded audio that is decoded together when the dev set is scored; 0: nothing
            is scored.
        prepare_batch_s: padded audio that is encoded together when states are stored.
    """

    device: str = _CPU
    sites: str = "decoder"
    rank: int = 8
    dropout: float = 0.0
    dora: bool = False
    loose_heap: bool = False
    frozen_dtype: torch.dtype = torch.float32
    mixed: bool = False
    batch_size: int = 8
    clip_s: float = 10.0
    tokens: int = 65
    gradient_checkpointing: bool = False
    stored_s: float = 0.0
    stored_limit_mb: float = math.inf
    releases_encoder: bool = False
    replay_clips: int = 0
    replay_window_s: float = math.inf
    pulled_s: float = 0.0
    score_batch_s: float = 120.0
    prepare_batch_s: float = 60.0

    @property
    def stores(self) -> bool:
        """Whether encoder states, or the front end's features, are stored."""
        return self.stored_s > 0

    def of_replay(self) -> "RunShape":
        """The shape with the clips of the replay phase as clips."""
        clip_s = min(self.clip_s, self.replay_window_s)
        tokens = max(math.ceil(self.tokens * clip_s / self.clip_s), 1)
        return replace(self, batch_size=self.replay_clips, clip_s=clip_s, tokens=tokens)

    @property
    def gaps(self) -> float:
        """Gaps of the allocator, as a share of what a phase allocates."""
        return _LOOSE_GAPS if self.loose_heap and self.device == _CPU else _GAPS[self.device]


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
    """

    shape: RunShape
    phases: tuple[Phase, ...]
    adapter_parameters: int
    model_parameters: int

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
            Phase(phase.name, phase.parts | {"allocator": round(shape.gaps * phase.allocated)})
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
        summary = inject_lora(
            model, rank=shape.rank, dropout=shape.dropout, sites=shape.sites, dora=shape.dora
        )
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
        return MemoryEstimate(shape, phases, self._adapter, self._parameters)

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
                if name == "prepare":
                    self._prepare(shape, live)
                elif name == "score":
                    self._score(shape, live)
                elif name in ("step", "replay"):
                    self._train(shape, live, replays=name == "replay")
        return {part: live.at_peak.get(part, 0) for part in LiveMemory.PARTS}

    def _phase(self, shape: RunShape, name: str) -> Phase:
        allocated = self._allocated(shape, name)
        trains = name in ("step", "replay")
        adapter = 4 * self._adapter
        stored = shape.stores and name != "load"
        absent = 0
        if stored and shape.releases_encoder and name != "prepare":
            absent = self._encoder
        elif name == "prepare" and _is_mapped(shape) and not shape.replay_clips:
            # The decoder's weights are not read yet. With replay the teacher has read them, because
            # it transcribes before the training clips are encoded.
            absent = self._weights - self._encoder
        parts = {
            "weights": self._weights - absent,
            "loading": self._loading(shape) if name == "load" else 0,
            "adapter": adapter,
            "gradients": adapter if trains else 0,
            # Two moments, from the first step on.
            "optimizer": 0 if name in ("load", "prepare") else 2 * adapter,
            "encoder states": self._stored_bytes(shape) if stored else 0,
            **allocated,
            "allocator": round(shape.gaps * sum(allocated.values())),
            "runtime": _RUNTIME[shape.device],
        }
        return Phase(name, parts)

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
        frame_bytes = self._width * self._model.dtype.itemsize
        stored = min(shape.stored_s * rate * frame_bytes, shape.stored_limit_mb * 1e6)
        return round(stored + shape.pulled_s * rate * self._width * 2)

    @property
    def _width(self) -> int:
        return int(self._model.encoder.config.hidden_size)

    def _frames(self, samples: int) -> int:
        frames: int = self._model.frame_count(max(samples, self._model.min_samples))
        return frames

    def _train(self, shape: RunShape, live: LiveMemory, *, replays: bool) -> None:
        """Loss and gradients of a micro-batch of training or replay clips."""
        shape = shape.of_replay() if replays else shape
        rows = shape.batch_size
        targets = _targets(rows, shape.tokens, torch.device(shape.device))
        with _autocast(shape):
            states = self._states(shape, rows, live)
            hidden = self._model.decoder_hidden(states, targets.input_ids)
            with live.part("logits"):
                head = FrozenHead(self._model.head_weight)
                if replays:
                    teacher = torch.zeros_like(hidden)
                    loss = head_kl_sum(hidden, teacher, head, targets.targets)
                else:
                    loss = head_cross_entropy_sum(hidden, head, targets.targets)
                loss = loss / targets.num_targets
                if replays and shape.pulled_s:
                    base = torch.zeros_like(states.values)
                    loss = loss + (states.values - base).square().sum()
        with live.part("backward"):
            trained = [value for value in self._model.module.parameters() if value.requires_grad]
            torch.autograd.grad(loss, trained)

    def _prepare(self, shape: RunShape, live: LiveMemory) -> None:
        with torch.inference_mode():
            audio, counts = self._audio(shape, _rows(shape.prepare_batch_s, shape.clip_s), live)
            with live.part("encoder"):
                encode = self._model.front_end if self.trains_encoder else self._model.encode
                encode(audio, counts)

    def _score(self, shape: RunShape, live: LiveMemory) -> None:
        rows = batch_rows(_rows(shape.score_batch_s, shape.clip_s), torch.device(shape.device))
        with torch.inference_mode():
            states = self._states(shape, rows, live)
            session = GreedySession(self._model, states, shape.tokens)
            with live.part("logits"):
                session.step(torch.zeros(rows, dtype=torch.long)).argmax(dim=-1)

    def _states(self, shape: RunShape, rows: int, live: LiveMemory) -> EncoderStates:
        if not shape.stores:
            audio, samples = self._audio(shape, rows, live)
            with live.part("encoder"):
                return self._model.encode(audio, samples)
        with live.part("encoder"):
            counts = [self._frames(samples) for samples in _samples(rows, shape.clip_s)]
            width = batch_width(max(counts), torch.device(shape.device))
            values = torch.zeros(rows, width, self._width, dtype=self._model.dtype)
            stored = EncoderStates(values, tuple(counts))
            return self._model.encoder_layers(stored) if self.trains_encoder else stored

    def _audio(self, shape: RunShape, rows: int, live: LiveMemory) -> tuple[Tensor, list[int]]:
        counts = [max(count, self._model.min_samples) for count in _samples(rows, shape.clip_s)]
        with live.part("audio"):
            width = batch_width(max(counts), torch.device(shape.device), of_audio=True)
            return torch.zeros(rows, width), counts


def _is_mapped(shape: RunShape) -> bool:
    """Whether the weights are the mapped checkpoint file: pages are read at their first use."""
    return shape.device == _CPU and shape.frozen_dtype == torch.float32


def _autocast(shape: RunShape) -> Any:
    return torch.autocast("cpu", torch.bfloat16) if shape.mixed else nullcontext()


def _rows(batch_s: float, clip_s: float) -> int:
    return max(int(batch_s // clip_s), 1)


def _samples(rows: int, clip_s: float) -> list[int]:
    """Samples of the clips of a batch; the last is shorter, so that there are masks."""
    longest = round(clip_s * SAMPLE_RATE_HZ)
    return [longest] * (rows - 1) + [longest if rows == 1 else round(0.9 * longest)]


def _targets(rows: int, tokens: int, device: torch.device) -> TargetBatch:
    ids = torch.zeros(rows, text_width(tokens + 1, device), dtype=torch.long)
    return TargetBatch(ids, torch.zeros_like(ids), rows * (tokens + 1))
