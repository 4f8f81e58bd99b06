"""Are runtime files as close to the trained model as the base's own files are to the base?

Words of hard speech are close decisions, and 8 bits change some of them whatever the weights are.
So the difference between torch and the runtime is judged beside that of the untouched base on the
same clips, and by intervals: a few clips decide nothing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from moonshine_tune.corpus.normalizers import Normalizer
from moonshine_tune.metrics.wer import (
    ErrorCounts,
    PairedComparison,
    ScoredUtterance,
    compare_changes,
    compare_paired,
    compare_rates,
    score_utterance,
)
from moonshine_tune.runs.records import (
    EQUAL,
    NOT_DECIDED,
    WORSE,
    AgainstBase,
    BasePairRecord,
    MarginRecord,
)

# The loss of WER that counts as none: of half a point, which was the bound before, 10,000 words
# would be needed to tell.
WER_MARGIN, _SHARE_OF_WER = 2.0, 0.1
_MANY_CLIPS = 2000


@dataclass(frozen=True)
class ClipTranscripts:
    """One clip, transcribed by the trained model and by the base: in torch, and by the runtime.

    Attributes:
        reference: its text; None without one.
    """

    reference: str | None
    torch: str
    runtime: str
    base_torch: str
    base_runtime: str


@dataclass(frozen=True)
class _Change:
    """A change from torch to the runtime in points, with its interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, compared: PairedComparison, clips: int) -> "_Change":
        """The difference, with an interval that is no narrower than `clips` clips allow.

        Resampling identical clips, or a single one, gives an interval of no width. The rule of
        three says that among others like them up to three of `clips` may differ; we count a third
        of the words of such a clip, which makes one clip.
        """
        least, value = _least_width(clips), compared.difference
        low, high = compared.ci95
        return cls(value, min(low, value - least), max(high, value + least))


def _least_width(clips: int) -> float:
    return 100.0 / (clips + 1)


def least_clips(bound: float) -> int:
    """On fewer clips no files are shown to be within `bound` points, however alike they are."""
    return math.ceil(100.0 / bound) - 1


def judge(clips: Sequence[ClipTranscripts], normalizer: Normalizer, bound: float) -> AgainstBase:
    """Judge the words of all clips, and the WER of those that have reference words.

    Args:
        bound: points by which the share of words that differ may be above the base's.
    """
    base = _scored([(clip.base_torch, clip.base_runtime) for clip in clips], normalizer)
    adapted = _scored([(clip.torch, clip.runtime) for clip in clips], normalizer)
    words = _judge_words(base, adapted, bound)
    wer, base_wer = _judge_wer(clips, normalizer)
    if wer and wer.verdict == NOT_DECIDED and words.adapted_ci95[1] <= wer.margin:
        # A word that is the same in both is right or wrong in both: the WER changes no more than
        # the words do. Clips without texts decide it so, too.
        wer = wer.model_copy(update={"verdict": EQUAL})
    verdicts = {words.verdict} | ({wer.verdict} if wer else set())
    return AgainstBase(
        verdict=next(v for v in (WORSE, NOT_DECIDED, EQUAL) if v in verdicts),
        clips=len(clips),
        words=words,
        wer=wer,
        base=BasePairRecord(
            word_difference=words.base,
            identical=sum(not item.words.errors for item in base),
            words=sum(item.words.reference for item in base),
            torch=base_wer[0],
            runtime=base_wer[1],
        ),
    )


def _judge_words(
    base: Sequence[ScoredUtterance], adapted: Sequence[ScoredUtterance], bound: float
) -> MarginRecord:
    """Judge the runtime's transcript of each clip against that of torch, of both models."""
    # Silence in both says nothing on words.
    count = sum(bool(item.words.reference or item.words.errors) for item in adapted)
    # Against itself the trained model differs in no word.
    same = [replace(item, words=ErrorCounts(reference=item.words.reference)) for item in adapted]
    own, beyond = compare_rates(same, adapted), compare_rates(base, adapted)
    return _margin_record(own, beyond, bound, count)


def _judge_wer(
    clips: Sequence[ClipTranscripts], normalizer: Normalizer
) -> tuple[MarginRecord | None, tuple[float | None, float | None]]:
    """The judgment, and the base's WER in torch and in the runtime; None without a text."""
    texts = [(clip, clip.reference) for clip in clips if clip.reference]
    torch, runtime, base_torch, base_runtime = (
        _scored([(text, getattr(clip, side)) for clip, text in texts], normalizer)
        for side in ("torch", "runtime", "base_torch", "base_runtime")
    )
    count = sum(not item.is_empty for item in torch)
    if not count:
        return None, (None, None)
    own = compare_paired(torch, runtime)
    beyond = compare_changes((base_torch, base_runtime), (torch, runtime))
    margin = max(WER_MARGIN, _SHARE_OF_WER * own.before)
    before, after = (
        sum((item.words for item in side if not item.is_empty), ErrorCounts()).rate
        for side in (base_torch, base_runtime)
    )
    record = _margin_record(own, beyond, margin, count)
    return record, (round(before, 4), round(after, 4))


def _scored(pairs: Sequence[tuple[str, str]], normalizer: Normalizer) -> list[ScoredUtterance]:
    """The second text of each pair against the first; sets may share ids, so these are numbers."""
    return [score_utterance(str(i), *pair, normalizer) for i, pair in enumerate(pairs)]


def _margin_record(
    own: PairedComparison, beyond: PairedComparison, margin: float, clips: int
) -> MarginRecord:
    """The change of the files themselves (`own`), and how much more it is than the base's."""
    changes = _Change.of(own, clips), _Change.of(beyond, clips)
    first, second = changes
    return MarginRecord(
        adapted=round(first.value, 4),
        adapted_ci95=(round(first.low, 4), round(first.high, 4)),
        base=round(beyond.before, 4),
        difference=round(second.value, 4),
        ci95=(round(second.low, 4), round(second.high, 4)),
        margin=round(margin, 4),
        verdict=_verdict(changes, margin),
        clips=clips,
        clips_needed=_clips_needed(changes, margin, clips),
    )


def _verdict(changes: Sequence[_Change], margin: float) -> str:
    """Equal where either change is within the margin, worse where both are beyond it.

    Files that are close to torch pass by themselves: a base that happens to be even closer on these
    clips is no reason to refuse them.
    """
    if any(change.high <= margin for change in changes):
        return EQUAL
    return WORSE if all(change.low > margin for change in changes) else NOT_DECIDED


def _clips_needed(changes: Sequence[_Change], margin: float, clips: int) -> int | None:
    """About how many clips decide, if they are like these; None where they are too many to say.

    The width of an interval falls with the square root of the clips.
    """
    if _verdict(changes, margin) != NOT_DECIDED:
        return clips
    needed = {
        change: clips * (max(change.high - change.value, change.value - change.low) / gap) ** 2
        for change in changes
        if (gap := abs(margin - change.value)) > 0
    }
    # One of them makes the files equal; only both make them worse.
    within = [count for change, count in needed.items() if change.value < margin]
    least = min(within) if within else max(needed.values(), default=math.inf)
    # The width is an estimate itself: a quarter more.
    least *= 1.25
    return math.ceil(least / 10) * 10 if least <= _MANY_CLIPS else None
