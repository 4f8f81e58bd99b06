"""Replay: general speech in every step, on which the frozen base model is the teacher."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moonshine_tune.audio.measure import NARROW_HZ
from moonshine_tune.config.settings import RunSettings
from moonshine_tune.core.progress import Progress
from moonshine_tune.corpus.manifest import Utterance
from moonshine_tune.corpus.sampler import BucketSampler
from moonshine_tune.inference.dataset import build_dataset
from moonshine_tune.inference.encoder_cache import EncoderCache, StateSource
from moonshine_tune.registry.open import OpenedModel
from moonshine_tune.training.teacher import BaseTeacher
from moonshine_tune.training.windows import VariedWindows, cut_into_windows

_MANY_NARROW = 0.2


@dataclass(frozen=True)
class Replay:
    """Windows of replay audio, their targets, and the order in which they are drawn.

    Attributes:
        transcripts: token ids of the clips whose target is their own text, empty for silence; for
            the others it is the teacher's distribution.
        remarks: how many clips were left out, and why.
    """

    source: StateSource
    teacher: BaseTeacher
    sampler: BucketSampler
    transcripts: Mapping[int, Sequence[int]]
    remarks: tuple[str, ...]

    def num_targets(self, indices: Sequence[int]) -> int:
        """Target tokens of some clips, end tokens included."""
        own = self.transcripts
        taught = [index for index in indices if index not in own]
        return self.teacher.num_targets(taught) + sum(len(own[i]) + 1 for i in indices if i in own)

    def tokens(self, index: int) -> Sequence[int]:
        """What a clip teaches: its own text, else what the base model says."""
        own = self.transcripts.get(index)
        return self.teacher.teacher_tokens[index] if own is None else own


def prepare_replay(
    utterances: Sequence[Utterance],
    settings: RunSettings,
    opened: OpenedModel,
    cache: EncoderCache,
    progress: Progress,
    *,
    available: int,
    narrow: float,
) -> Replay:
    """Encode the windows of replay audio that will be drawn, and run the base model on them.

    Args:
        available: number of clips in the manifest, for the remark.
        narrow: share of the training clips that came through a telephone band.
    """
    model, retain = opened.model, settings.retain
    dataset = build_dataset(
        utterances,
        model,
        name=f"replay, {len(utterances)} of {available} clips",
        max_clip_s=settings.data.max_clip_s,
        needs_text=False,
    )
    if retain.window_s and retain.targets == "teacher":
        dataset = cut_into_windows(dataset, retain.window_s)
    micro_batch = min(retain.clips_per_step, settings.train.batch_size)
    sampler = BucketSampler(
        dataset.seconds,
        batch_size=micro_batch,
        accumulation=-(-retain.clips_per_step // micro_batch),
        seed=settings.train.seed,
    )
    drawn = sampler.drawn(settings.train.steps)
    windows = VariedWindows(
        dataset, retain.varied_share, seed=settings.train.seed, narrow_share=narrow
    )
    source = cache.source(windows, drawn, "replay")
    transcripts: dict[int, Sequence[int]] = {}
    if retain.targets == "transcripts":
        transcripts = {index: dataset.tokens[index] for index in drawn if dataset.tokens[index]}
    if settings.data.teach_silence:
        # The base model is no teacher here: the words that it makes up are what must go.
        silent = (index for index in drawn if dataset.is_silent(index))
        transcripts |= dict.fromkeys(silent, ())
    without_text = [index for index in drawn if index not in transcripts]
    pulls = cache.trains_encoder and retain.encoder_weight > 0
    teacher = BaseTeacher(opened, windows, source, without_text, progress, keeps_states=pulls)
    remarks = dataset.remarks
    if narrow >= _MANY_NARROW:
        remarks += (
            f"replay: {narrow:.0%} of the training clips have nothing above {NARROW_HZ:g} Hz, so "
            "as many changed windows go through a telephone line",
        )
    return Replay(source, teacher, sampler, transcripts, remarks)
