"""How much memory a training run takes, counted before anything is loaded.

The model is built from its configuration on the meta device, and the real forward, loss and
backward run on fake tensors, which have shapes but no numbers. Every storage that an operator
makes is counted while it lives, so the peak is what the code asks for and not a rule of thumb.
Price: about a second a phase. What no count can see (the allocator's gaps, library scratch, the
interpreter) is added from measurements and shown as parts of its own.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from moonshine_tune.audio.samples import SAMPLE_RATE_HZ
from moonshine_tune.core.device import batch_width, round_up_to_bucket
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
# Gaps that the allocator leaves, as a share of what a phase makes and frees. CPU: measured by
# benchmarks/estimate_accuracy.py. MPS keeps freed blocks by size; its figure is an assumption.
_GAPS = {_CPU: 0.06, _CUDA: 0.10, _MPS: 0.25}
# The C library of Linux keeps large blocks on its heap, where clips of changing length leave holes:
# 1.9 to 2.3 times what lives, by the same benchmark with --loose-heap.
_LOOSE_GAPS = 2.3
# Models deeper than this are counted in two shallow versions: equal layers cost equal memory.
_WHOLE_DEPTH, _SHALLOW = 6, (2, 3)


@dataclass(frozen=True)
class RunShape:
    """Everything about a run that its memory depends on.

    Attributes:
        device: `cpu`, `mps` or `cuda`. MPS uses eager attention in training.
        sites, rank, dropout, dora: as for `adapter.inject_lora`.
        loose_heap: the CPU's allocator is as Linux has it, fast and full of holes; see
            `device.return_freed_memory_to_os`.
        frozen_dtype: number format of the frozen weights.
        mixed: bfloat16 autocast around the forward pass.
        batch_size: clips in a micro-batch; accumulation costs no memory.
        clip_s: the longest clip, seconds.
        tokens: of its text.
        stored_s: seconds of audio whose encoder states are kept, or the front end's features where
            the encoder trains; 0 encodes in every step.
        stored_limit_mb: the most memory for them, in MB of 10^6 bytes; more is kept on disk.
        releases_encoder: with all states stored, the encoder is given back after `prepare`.
        replay_clips: clips of a micro-batch on which the base model teaches; 0 for none.
        score_batch_s: padded audio that is decoded together when the dev set is scored; 0 leaves
            scoring out.
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
    score_batch_s: float = 120.0
    prepare_batch_s: float = 60.0

    @property
    def stores(self) -> bool:
        """Whether encoder states, or the front end's features, are kept."""
        return self.stored_s > 0

    @property
    def gaps(self) -> float:
        """What the allocator leaves unused, as a share of what a phase makes."""
        return _LOOSE_GAPS if self.loose_heap and self.device == _CPU else _GAPS[self.device]


@dataclass(frozen=True)
class Phase:
    """The memory of one phase of a run at its peak, in bytes by part.

    Parts: weights, loading (copies and file pages that are gone afterwards), adapter, gradients,
    optimizer, encoder states (those stored), audio, encoder, decoder and logits (what their forward
    passes hold at the peak), backward, allocator, runtime.
    """

    name: str
    parts: dict[str, int]

    @property
    def total(self) -> int:
        """Bytes of all parts together."""
        return sum(self.parts.values())

    @property
    def made(self) -> int:
        """Bytes that the work itself makes and frees again."""
        return sum(self.parts[name] for name in LiveMemory.PARTS)


@dataclass(frozen=True)
class MemoryEstimate:
    """Peak memory of a run.

    Attributes:
        phases: `load`, `prepare` (storing states), `step`, `replay`, `score`; those that the run
            has.
    """

    shape: RunShape
    phases: tuple[Phase, ...]
    adapter_parameters: int
    model_parameters: int

    @property
    def peak(self) -> Phase:
        """The phase that needs the most."""
        return max(self.phases, key=lambda phase: phase.total)

    @property
    def total(self) -> int:
        """Bytes at the peak, the process itself included."""
        return self.peak.total

    def tightened(self) -> "MemoryEstimate":
        """The same with an allocator that gives freed blocks back."""
        shape = replace(self.shape, loose_heap=False)
        phases = tuple(
            Phase(phase.name, phase.parts | {"allocator": round(shape.gaps * phase.made)})
            for phase in self.phases
        )
        return replace(self, shape=shape, phases=phases)

    @property
    def growth(self) -> int:
        """Bytes at the peak on top of a process that has loaded its libraries."""
        return self.total - self.peak.parts["runtime"]


class MemoryModel:
    """A model and its adapter without any memory, ready to be run in many shapes.

    Args:
        config: a transformers configuration, of `shapes.published_config` or `config_of_folder`.
        shape: decides attention, sites, rank and the number format; the other fields may change
            from one `estimate` to the next.
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
        self._model = model
        self._adapter = summary.parameters
        every = sum(int(value.numel()) for value in model.module.parameters())
        self._parameters = every - summary.parameters
        kept = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in self._held()}
        self._weights = sum(kept.values()) - 4 * summary.parameters
        encoder = sum(int(value.numel()) for value in model.encoder.parameters())
        self._encoder = 0 if self.trains_encoder else encoder * model.dtype.itemsize
        if shape.gradient_checkpointing:
            model.enable_gradient_checkpointing()
        self._depth = depth_of(config)
        self._shallow: tuple[MemoryModel, ...] = ()
        if self._depth > _WHOLE_DEPTH:
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
        """The peak of every phase, for another batch size or clip length where one is named.

        Args:
            only: count this one phase, which saves time.
        """
        shape = replace(
            self._shape,
            batch_size=batch_size or self._shape.batch_size,
            clip_s=clip_s or self._shape.clip_s,
            tokens=tokens or self._shape.tokens,
        )
        happening = {
            "load": True,
            "prepare": shape.stores,
            "step": True,
            "replay": shape.replay_clips > 0,
            "score": shape.score_batch_s > 0,
        }
        phases = tuple(
            self._phase(shape, name, self._made(shape, name))
            for name, happens in happening.items()
            if happens and only in (None, name)
        )
        return MemoryEstimate(shape, phases, self._adapter, self._parameters)

    def _made(self, shape: RunShape, name: str) -> dict[str, int]:
        """What a phase makes at its peak, by part.

        In the deep part of a model each layer adds the same, so two shallow versions tell what the
        whole one takes, in a third of the time. Scoring holds one layer at a time and is quick: its
        peak can move from one place to another with the depth, so it is counted whole.
        """
        # Where a step hears audio, the front end, or all of a frozen encoder, has a peak of its
        # own, which does not grow with the depth and hides the layers' in a shallow model.
        shortens = name == "prepare" or (name in ("step", "replay") and shape.stores)
        if self._shallow and shortens:
            low, high = (model._made(shape, name) for model in self._shallow)
            further = (self._depth - _SHALLOW[0]) / (_SHALLOW[1] - _SHALLOW[0])
            return {k: max(round(low[k] + (high[k] - low[k]) * further), 0) for k in low}
        works: dict[str, Callable[[RunShape, LiveMemory], None]] = {
            "prepare": self._prepare,
            "step": self._step,
            "replay": self._replay,
            "score": self._score,
        }
        with self._mode:
            self._model.module.train(name in ("step", "replay"))
            live = LiveMemory(self._held())
            with live:
                if name in works:
                    works[name](shape, live)
        return {part: live.at_peak.get(part, 0) for part in LiveMemory.PARTS}

    def _phase(self, shape: RunShape, name: str, made: dict[str, int]) -> Phase:
        trains = name in ("step", "replay")
        adapter = 4 * self._adapter
        stored = shape.stores and name != "load"
        gone = stored and shape.releases_encoder and name != "prepare"
        # The teacher listens before the steps' clips are encoded: then all weights have been read.
        unread = name == "prepare" and _is_mapped(shape) and not shape.replay_clips
        absent = 0
        if gone:
            absent = self._encoder
        elif unread:
            absent = self._weights - self._encoder
        parts = {
            "weights": self._weights - absent,
            "loading": self._loading(shape) if name == "load" else 0,
            "adapter": adapter,
            "gradients": adapter if trains else 0,
            # Two moments; there from the first step on.
            "optimizer": 0 if name in ("load", "prepare") else 2 * adapter,
            "encoder states": self._stored_bytes(shape) if stored else 0,
            **made,
            "allocator": round(shape.gaps * sum(made.values())),
            "runtime": _RUNTIME[shape.device],
        }
        return Phase(name, parts)

    def _loading(self, shape: RunShape) -> int:
        """What loading takes on top of the weights: published files hold 32 bits."""
        if _is_mapped(shape):
            return 0
        file = 4 * self._parameters
        if shape.frozen_dtype == torch.float32:
            return file
        return min(file, MOST_MAPPED_BYTES) + (self._weights if shape.device != _CPU else 0)

    def _stored_bytes(self, shape: RunShape) -> int:
        rate = SAMPLE_RATE_HZ / self._model.samples_per_frame
        each = self._width * self._model.dtype.itemsize
        return round(min(shape.stored_s * rate * each, shape.stored_limit_mb * 1e6))

    @property
    def _width(self) -> int:
        return int(self._model.encoder.config.hidden_size)

    def _frames(self, samples: int) -> int:
        frames: int = self._model.frame_count(max(samples, self._model.min_samples))
        return frames

    def _step(self, shape: RunShape, live: LiveMemory) -> None:
        targets = _targets(shape.batch_size, shape.tokens)
        with _autocast(shape):
            states = self._states(shape, shape.batch_size, live)
            hidden = self._model.decoder_hidden(states, targets.input_ids)
            with live.part("logits"):
                head = FrozenHead(self._model.head_weight)
                loss = head_cross_entropy_sum(hidden, head, targets.targets)
                loss = loss / targets.num_targets
        with live.part("backward"):
            self._differentiate(loss)

    def _replay(self, shape: RunShape, live: LiveMemory) -> None:
        targets = _targets(shape.replay_clips, shape.tokens)
        with _autocast(shape):
            states = self._states(shape, shape.replay_clips, live)
            hidden = self._model.decoder_hidden(states, targets.input_ids)
            with live.part("logits"):
                teacher = torch.zeros_like(hidden)
                head = FrozenHead(self._model.head_weight)
                pull = head_kl_sum(hidden, teacher, head, targets.targets) / targets.num_targets
        with live.part("backward"):
            self._differentiate(pull)

    def _differentiate(self, loss: Tensor) -> None:
        """Gradients of all that trains, made and dropped: this is no training loop."""
        trained = [value for value in self._model.module.parameters() if value.requires_grad]
        torch.autograd.grad(loss, trained)

    def _prepare(self, shape: RunShape, live: LiveMemory) -> None:
        with torch.inference_mode():
            audio, counts = self._audio(shape, _rows(shape.prepare_batch_s, shape.clip_s), live)
            with live.part("encoder"):
                make = self._model.front_end if self.trains_encoder else self._model.encode
                make(audio, counts)

    def _score(self, shape: RunShape, live: LiveMemory) -> None:
        rows = _rows(shape.score_batch_s, shape.clip_s)
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
            kept = torch.zeros(rows, width, self._width, dtype=self._model.dtype)
            stored = EncoderStates(kept, tuple(counts))
            return self._model.encoder_layers(stored) if self.trains_encoder else stored

    def _audio(self, shape: RunShape, rows: int, live: LiveMemory) -> tuple[Tensor, list[int]]:
        counts = [max(count, self._model.min_samples) for count in _samples(rows, shape.clip_s)]
        with live.part("audio"):
            width = batch_width(max(counts), torch.device(shape.device))
            return torch.zeros(rows, width), counts


def _is_mapped(shape: RunShape) -> bool:
    """Whether the mapped checkpoint itself is the weights, which are read when they are used."""
    return shape.device == _CPU and shape.frozen_dtype == torch.float32


def _autocast(shape: RunShape) -> Any:
    return torch.autocast("cpu", torch.bfloat16) if shape.mixed else nullcontext()


def _rows(batch_s: float, clip_s: float) -> int:
    return max(int(batch_s // clip_s), 1)


def _samples(rows: int, clip_s: float) -> list[int]:
    """Samples of a batch whose clips are not all of one length, so that the masks are at work."""
    longest = round(clip_s * SAMPLE_RATE_HZ)
    return [longest] * (rows - 1) + [longest if rows == 1 else round(0.9 * longest)]


def _targets(rows: int, tokens: int) -> TargetBatch:
    ids = torch.zeros(rows, round_up_to_bucket(tokens + 1), dtype=torch.long)
    return TargetBatch(ids, torch.zeros_like(ids), rows * (tokens + 1))
