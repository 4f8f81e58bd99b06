"""How long a run takes on this machine, from a few measured passes of the shapes that it has.

Weights are random: they do not change the time. Measured is the middle of a run, on clips of mean
length; a machine that throttles or works on something else takes longer.
"""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

from moonshine_tune.config.settings import RunSettings
from moonshine_tune.corpus.manifest import Manifest
from moonshine_tune.inference.dataset import TrainingData
from moonshine_tune.memory.phase_work import PhaseWork, inject
from moonshine_tune.memory.run_shape import RunShape
from moonshine_tune.models.input_covariance import FINAL_CLIPS, SCORE_CLIPS
from moonshine_tune.registry.published_configs import model_from_config

# Characters per token of English text, by the tokenizer of both families.
_CHARACTERS = 4.0
# Of a clip whose text is not known.
_TOKENS_PER_SECOND = 3.0
# A pass is repeated for this time, with a maximum number of calls.
_MEASURED_S, _MOST_REPEATS = 1.5, 5
# Start of the process and of the libraries, without the model.
_START_S = 4.0
# Steps of the decoder that are timed; each later one takes about as long.
_TIMED_TOKENS = 4
# Steps of the decoder for a batch, over the mean number of tokens.
_LONGEST = 1.5
# A score after the first verifies earlier transcripts, which saves a part of the decoding; at the
# end, where other strengths of one adapter are scored, it saves more.
_DRAFTED, _CHOSEN = 0.75, 0.5
# Forward passes and second moments of what layers read, over the passes of training steps on the
# same clips: measured with adapters in all layers of tiny.
_FILTERED = 0.7


@dataclass(frozen=True)
class Duration:
    """Expected wall seconds of a run without an early stop, by activity.

    Attributes:
        seconds: as in `time` of run.json: `encoding`, `teacher`, `baseline`, `steps`, `replay`,
            `filter`, `scoring`, `choice`, and `starting` with the rest.
    """

    seconds: dict[str, float]

    @property
    def total(self) -> float:
        """The sum."""
        return sum(self.seconds.values())


@dataclass(frozen=True)
class _Clips:
    """A set of clips: how many, seconds and tokens of all."""

    count: int
    seconds: float
    tokens: float

    @property
    def mean_s(self) -> float:
        return self.seconds / self.count

    @property
    def mean_tokens(self) -> int:
        return max(math.ceil(self.tokens / self.count), 1)

    def first(self, count: int) -> "_Clips":
        """That many of them, or all."""
        share = min(count / self.count, 1.0)
        return _Clips(min(count, self.count), share * self.seconds, share * self.tokens)

    def cut(self, window_s: float) -> "_Clips":
        """The same audio in windows of that length; 0 cuts nothing."""
        if not 0 < window_s < self.mean_s:
            return self
        return replace(self, count=max(round(self.seconds / window_s), 1))


# Replay audio that is made when the run starts.
_FETCHED_REPLAY = _Clips(150, 1800.0, 1800.0 * _TOKENS_PER_SECOND)


def estimate_duration(
    config: Any, shape: RunShape, settings: RunSettings, data: TrainingData
) -> Duration | None:
    """Time a few passes and add up those of a run; None where no clip has a known length.

    Only the CPU is timed.

    Args:
        shape: of the run's memory: its longest clips.
    """
    train = _clips(data.all_trained, settings.data.max_clip_s, None)
    if train is None or shape.device != "cpu":
        return None
    passes = _Passes(config, replace(shape, pulled_s=0.0))
    steps, retain = settings.train.steps, settings.retain
    replay = None
    if shape.replay_clips and data.replay is not None:
        replay = _clips(data.replay, settings.data.max_clip_s, retain.max_clips)
    elif shape.replay_clips:
        replay = _FETCHED_REPLAY
    scored = _scored_clips(settings, data, train)
    versions = 1 + settings.augment.variants if settings.augment.highest_share else 1
    encoded_s = versions * train.seconds + sum(item.seconds for item in scored)
    seconds = {
        "starting": _START_S,
        "steps": steps * settings.train.accumulation * passes.step(train),
    }
    if replay is not None:
        # Only windows that are drawn are encoded and transcribed.
        windows = replay.cut(retain.window_s).first(steps * retain.clips_per_step)
        encoded_s += windows.seconds
        count = steps * -(-retain.clips_per_step // shape.replay_clips)
        seconds["replay"] = count * passes.step(windows, replays=True)
        seconds["teacher"] = passes.decode(windows)
        if retain.filter_weight and not settings.adapter.dora:
            looked_at = _filtered_steps(settings) / steps
            seconds["filter"] = _FILTERED * looked_at * (seconds["steps"] + seconds["replay"])
    seconds["encoding"] = encoded_s * passes.encode_per_second(train)
    once = sum(map(passes.decode, scored))
    tried = (settings.select.average_last > 1) + (retain.filter_weight > 0)
    tried += 0 if retain.strengths == (1.0,) else len(retain.strengths)
    seconds["baseline"] = once
    seconds["scoring"] = -(-steps // settings.select.every_steps) * _DRAFTED * once
    seconds["choice"] = tried * _CHOSEN * once
    return Duration(seconds)


def _filtered_steps(settings: RunSettings) -> int:
    """Training steps whose clips the filters of a run look at."""
    clips = settings.train.batch_size * settings.train.accumulation
    scores = -(-settings.train.steps // settings.select.every_steps)
    return scores * -(-SCORE_CLIPS // clips) + -(-FINAL_CLIPS // clips)


class _Passes:
    """Times the passes of a run on a model of its shape with random weights."""

    def __init__(self, config: Any, shape: RunShape) -> None:
        self._shape = shape
        self._model = model_from_config(config, dtype=shape.frozen_dtype)
        summary = inject(self._model, shape)
        if shape.gradient_checkpointing:
            self._model.enable_gradient_checkpointing()
        self._work = PhaseWork(self._model, trains_encoder=summary.touches_encoder)

    def step(self, clips: _Clips, *, replays: bool = False) -> float:
        """Seconds of a micro-batch of clips of mean length, forward and backward."""
        return self._seconds("replay" if replays else "step", self._shape_of(clips))

    def encode_per_second(self, clips: _Clips) -> float:
        """Seconds to encode a second of audio."""
        shape = self._shape_of(clips)
        return self._seconds("prepare", shape) / _batch_s(shape.prepare_batch_s, shape.clip_s)

    def decode(self, clips: _Clips) -> float:
        """Seconds to transcribe clips in batches of the scorer."""
        shape = self._shape_of(clips)
        batch_s = max(min(self._shape.score_batch_s or clips.seconds, clips.seconds), shape.clip_s)
        timed = replace(shape, score_batch_s=batch_s, tokens=max(shape.tokens, 1 + _TIMED_TOKENS))
        first = self._seconds("score", timed)
        last = self._seconds("score", timed, 1 + _TIMED_TOKENS)
        # The longest text of a batch has more tokens than the mean, with fewer rows at its end.
        steps = max(last - first, 0.0) / _TIMED_TOKENS * shape.tokens * _LONGEST
        return (first + steps) * clips.seconds / _batch_s(batch_s, shape.clip_s)

    def _shape_of(self, clips: _Clips) -> RunShape:
        clip_s = min(clips.mean_s, self._shape.clip_s)
        return replace(self._shape, clip_s=clip_s, tokens=clips.mean_tokens)

    def _seconds(self, name: str, shape: RunShape, tokens: int = 1) -> float:
        self._model.module.train(name in ("step", "replay"))
        return _median_seconds(
            lambda: self._work.run(name, shape, lambda _: nullcontext(), tokens=tokens)
        )


def _clips(manifest: Manifest, longest: float, most: int | None) -> _Clips | None:
    known = [
        (seconds, len(item.text) / _CHARACTERS if item.text else seconds * _TOKENS_PER_SECOND)
        for item in manifest.utterances
        if (seconds := item.known_seconds) is not None and 0 < seconds <= longest
    ][:most]
    if not known:
        return None
    return _Clips(len(known), sum(s for s, _ in known), sum(tokens for _, tokens in known))


def _scored_clips(settings: RunSettings, data: TrainingData, train: _Clips) -> Sequence[_Clips]:
    """Dev and canary; without a dev manifest, the share of the training clips that is held out."""
    most, longest = settings.select.max_dev_utterances, settings.data.max_clip_s
    if data.dev is None:
        share = settings.data.dev_share
        dev: _Clips | None = _Clips(
            max(round(train.count * share), 1), train.seconds * share, train.tokens * share
        )
    else:
        dev = _clips(data.dev, longest, most)
    sets = [dev, _clips(data.canary, longest, most) if data.canary is not None else None]
    if dev is not None and settings.augment.share and settings.augment.dev:
        sets.append(dev)
    return [item for item in sets if item is not None]


def _batch_s(most_s: float, clip_s: float) -> float:
    """Audio of a batch of equal clips."""
    return max(int(most_s // clip_s), 1) * clip_s


def _median_seconds(work: Callable[[], object]) -> float:
    """Of one call, after one that is not counted."""
    work()
    taken: list[float] = []
    while not taken or (sum(taken) < _MEASURED_S and len(taken) < _MOST_REPEATS):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)
