"""Which pseudo-labels are learned: those whose score promises few wrong words, as dev shows it.

A score has no unit: what 0.6 means depends on voices, words and rooms. So the model labels the dev
clips too, and there its errors can be counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from moonshine_tune.core.errors import RequestError
from moonshine_tune.metrics.wer import ErrorCounts

# A wrong word costs as much as so many right ones give: clips are kept up to the score where the
# next ones would have more than one wrong word in six.
_COST_OF_ERROR = 5.0
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
    """The threshold that pays most on dev: right words, minus five times the wrong ones.

    Args:
        scores: of the labels of dev clips.
        words: their errors against the true texts.

    Raises:
        RequestError: too few clips with words.
    """
    pairs = [
        (score, counts) for score, counts in zip(scores, words, strict=True) if counts.reference
    ]
    if len(pairs) < FEWEST_DEV_CLIPS:
        raise RequestError(
            f"dev has {len(pairs)} clips with words: too few to tell good pseudo-labels from bad "
            "ones",
            hint=f"transcribe at least {FEWEST_DEV_CLIPS} recordings like the unlabelled ones, "
            f"better {ENOUGH_DEV_CLIPS}, and name them with: --dev dev.jsonl",
        )
    pairs.sort(key=lambda pair: -pair[0])
    total = kept = ErrorCounts()
    best, threshold, num_kept = 0.0, None, 0
    for index, (score, counts) in enumerate(pairs, start=1):
        total = total + counts
        is_last_of_score = index == len(pairs) or pairs[index][0] < score
        gain = total.reference - total.errors * (1 + _COST_OF_ERROR)
        if score > 0 and is_last_of_score and index >= _FEWEST_KEPT and gain > best:
            best, threshold, num_kept, kept = gain, score, index, total
    return LabelFilter(
        threshold=threshold,
        dev_clips=len(pairs),
        dev_kept=num_kept,
        wer_all=total.rate,
        wer_kept=kept.rate if num_kept else None,
    )
