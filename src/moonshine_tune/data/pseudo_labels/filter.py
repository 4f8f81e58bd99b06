"""Which pseudo-labels are learned: those whose score promises few wrong words, as dev shows it.

A score has no unit: what 0.6 means depends on voices, words and rooms. So the model labels the dev
clips too, and there its errors can be counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from moonshine_tune.core.errors import RequestError
from moonshine_tune.metrics.wer import ErrorCounts

# Clips are kept down to the score where the next ones would have so many wrong words: half of what
# the model gets wrong on all, within these bounds. A model that is mostly wrong still learns from
# what it has mostly right; one that is mostly right need not learn its mistakes.
_LEAST_BOUND, _MOST_BOUND = 1 / 6, 1 / 3
FEWEST_DEV_CLIPS = 10
"""With fewer clips with a true text, the score of a single one would decide."""

ENOUGH_DEV_CLIPS = 50
_FEWEST_KEPT = 5


@dataclass(frozen=True)
class LabelFilter:
    """The score from which labels are learned, and what dev says about it.

    Attributes:
        threshold: least score; None where no score promises few enough wrong words.
        dev_clips, dev_kept: dev clips with words in their text, and those that the filter keeps.
        wer_all, wer_kept: WER in percent of the model's texts on these; None on no clip.
    """

    threshold: float | None
    dev_clips: int
    dev_kept: int
    wer_all: float
    wer_kept: float | None

    def keeps(self, score: float) -> bool:
        """Whether a label with this score is learned."""
        return self.threshold is not None and score >= self.threshold


def choose_filter(scores: Sequence[float], words: Sequence[ErrorCounts]) -> LabelFilter:
    """The lowest threshold down to which labels are better than a bound, as dev shows it.

    A clip counts as wrong in all its words at most: `1-5-2` for `one five two`, which a normalizer
    writes as one word, says little about the model.

    Args:
        scores: of the labels of dev clips.
        words: their errors against the true texts.

    Raises:
        RequestError: too few clips with words.
    """
    pairs = [pair for pair in zip(scores, words, strict=True) if pair[1].reference]
    if len(pairs) < FEWEST_DEV_CLIPS:
        raise RequestError(
            f"dev has {len(pairs)} clips with words: too few to tell good pseudo-labels from bad "
            "ones",
            hint=f"transcribe at least {FEWEST_DEV_CLIPS} recordings like the unlabelled ones, "
            f"better {ENOUGH_DEV_CLIPS}, and name them with: --dev dev.jsonl",
        )
    pairs.sort(key=lambda pair: -pair[0])
    wrong = [min(counts.errors, counts.reference) for _, counts in pairs]
    share_wrong = sum(wrong) / sum(counts.reference for _, counts in pairs)
    bound = min(max(share_wrong / 2, _LEAST_BOUND), _MOST_BOUND)
    total = kept = ErrorCounts()
    gain = best = 0.0
    threshold, num_kept = None, 0
    for index, (score, counts) in enumerate(pairs, start=1):
        total = total + counts
        is_last_of_score = index == len(pairs) or pairs[index][0] < score
        gain += counts.reference - wrong[index - 1] / bound
        if score > 0 and is_last_of_score and index >= _FEWEST_KEPT and gain > best:
            best, threshold, num_kept, kept = gain, score, index, total
    return LabelFilter(
        threshold=threshold,
        dev_clips=len(pairs),
        dev_kept=num_kept,
        wer_all=total.rate,
        wer_kept=kept.rate if num_kept else None,
    )
