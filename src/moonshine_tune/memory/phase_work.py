"""The work of each phase of a run: on fake tensors to count it, on real ones to time it."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from moonshine_tune.audio.samples import SAMPLE_RATE_HZ
from moonshine_tune.core.device import batch_rows, batch_width, text_width
from moonshine_tune.inference.decoder_session import GreedySession
from moonshine_tune.memory.run_shape import RunShape
from moonshine_tune.models.base import EncoderStates, SpeechModel
from moonshine_tune.models.lora import AdapterSummary, inject_lora, tune_fully
from moonshine_tune.models.losses import (
    FrozenHead,
    TargetBatch,
    head_cross_entropy_sum,
    head_kl_sum,
)

# Marks the tensors that are made inside it as a part of the memory.
Part = Callable[[str], AbstractContextManager[None]]


def inject(model: SpeechModel, shape: RunShape) -> AdapterSummary:
    """Inject what trains in a run of this shape."""
    if shape.full:
        return tune_fully(model, sites=shape.sites)
    return inject_lora(
        model, rank=shape.rank, dropout=shape.dropout, sites=shape.sites, dora=shape.dora
    )


class PhaseWork:
    """Runs what the phases `prepare`, `step`, `replay` and `score` run, with inputs of zeros.

    Args:
        model: with its adapter, as of `inject`.
    """

    def __init__(self, model: SpeechModel, *, trains_encoder: bool) -> None:
        self._model, self.trains_encoder = model, trains_encoder

    @property
    def width(self) -> int:
        """Width of the encoder's states."""
        return int(self._model.encoder.config.hidden_size)

    def run(self, name: str, shape: RunShape, part: Part, *, tokens: int = 1) -> None:
        """Run a phase once.

        Args:
            tokens: that `score` decodes.
        """
        if name == "prepare":
            self._prepare(shape, part)
        elif name == "score":
            self._score(shape, part, tokens)
        else:
            self._train(shape, part, replays=name == "replay")

    def _train(self, shape: RunShape, part: Part, *, replays: bool) -> None:
        """Loss and gradients of a micro-batch of training or replay clips."""
        shape = shape.of_replay() if replays else shape
        rows = shape.batch_size
        targets = _targets(rows, shape.tokens, torch.device(shape.device))
        with _autocast(shape):
            states = self._states(shape, rows, part)
            hidden = self._model.decoder_hidden(states, targets.input_ids)
            with part("logits"):
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
        with part("backward"):
            trained = [value for value in self._model.module.parameters() if value.requires_grad]
            if shape.full and isinstance(loss, FakeTensor):
                # A run adds each gradient to one that is counted apart. All at once would be
                # counted twice; the first layer's takes the whole way back.
                trained = trained[:1]
            torch.autograd.grad(loss, trained)

    def _prepare(self, shape: RunShape, part: Part) -> None:
        with torch.inference_mode():
            audio, counts = self._audio(shape, _rows(shape.prepare_batch_s, shape.clip_s), part)
            with part("encoder"):
                encode = self._model.front_end if self.trains_encoder else self._model.encode
                encode(audio, counts)

    def _score(self, shape: RunShape, part: Part, tokens: int) -> None:
        rows = batch_rows(_rows(shape.score_batch_s, shape.clip_s), torch.device(shape.device))
        with torch.inference_mode():
            states = self._states(shape, rows, part)
            session = GreedySession(self._model, states, shape.tokens)
            with part("logits"):
                for _ in range(tokens):
                    session.step(torch.zeros(rows, dtype=torch.long)).argmax(dim=-1)

    def _states(self, shape: RunShape, rows: int, part: Part) -> EncoderStates:
        if not shape.stores:
            audio, samples = self._audio(shape, rows, part)
            with part("encoder"):
                return self._model.encode(audio, samples)
        with part("encoder"):
            counts = [self._frames(samples) for samples in _samples(rows, shape.clip_s)]
            width = batch_width(max(counts), torch.device(shape.device))
            values = torch.zeros(rows, width, self.width, dtype=self._model.dtype)
            stored = EncoderStates(values, tuple(counts))
            return self._model.encoder_layers(stored) if self.trains_encoder else stored

    def _frames(self, samples: int) -> int:
        frames: int = self._model.frame_count(max(samples, self._model.min_samples))
        return frames

    def _audio(self, shape: RunShape, rows: int, part: Part) -> tuple[Tensor, list[int]]:
        counts = [max(count, self._model.min_samples) for count in _samples(rows, shape.clip_s)]
        with part("audio"):
            width = batch_width(max(counts), torch.device(shape.device), of_audio=True)
            return torch.zeros(rows, width), counts


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
