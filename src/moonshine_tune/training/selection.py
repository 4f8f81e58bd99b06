"""Which adapter is the best: lowest dev WER among those that keep the canary within its bound.

Where training is augmented, dev is heard as it is and changed in the same way, and both count
alike: on clean clips alone an adapter that has just begun to hear through noise is as good as the
one that has learnt it.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Candidate:
    """An adapter at a step and strength with its scores. WER in percent; canary None if unused.

    `averaged` counts the late adapters that it is the mean of; 0 for a single one.
    `dev_augmented_wer` is that of dev with every clip changed; None where nothing is augmented.
    """

    step: int
    dev_wer: float
    canary_wer: float | None
    strength: float = 1.0
    averaged: int = 0
    dev_augmented_wer: float | None = None

    @property
    def judged_wer(self) -> float:
        """What it is chosen by: dev as recorded and, where it is heard so, changed."""
        if self.dev_augmented_wer is None:
            return self.dev_wer
        return (self.dev_wer + self.dev_augmented_wer) / 2

    def to_record(self) -> dict[str, Any]:
        """As JSON data."""
        return asdict(self)


@dataclass(frozen=True)
class SelectionRule:
    """The bound and the tie rule.

    Attributes:
        base_canary: canary WER of the base model; None where there is no canary.
        canary_bound: points that the canary may lose.
        dev_tolerance: points of dev WER that are given up for a better canary when strengths are
            compared: within it a difference is a word or two.
        dev_words: words that dev is judged by; of few a larger difference is noise. 0: unknown.
        canary_tolerance: points of canary WER that are no reason to weaken an adapter.
    """

    base_canary: float | None
    canary_bound: float
    dev_tolerance: float = 0.25
    canary_tolerance: float = 0.5
    dev_words: int = 0

    def allows(self, candidate: Candidate) -> bool:
        """Whether the canary is held."""
        return self._lost(candidate) <= self.canary_bound

    def is_better(self, candidate: Candidate, best: Candidate | None) -> bool:
        """Whether `candidate` takes the place of `best`: allowed first, then dev, then canary."""
        return best is None or self._order(candidate) < self._order(best)

    def is_as_good(self, candidate: Candidate, best: Candidate) -> bool:
        """Whether `candidate` holds the canary and dev does not show that it is worse than `best`.

        For the mean of late adapters: the lowest of eight scores of a small dev set is partly
        luck, which a mean is free of.
        """
        if self.allows(best) and not self.allows(candidate):
            return False
        return candidate.judged_wer <= best.judged_wer + self._noise(candidate, best)

    def choose(self, candidates: Sequence[Candidate]) -> Candidate:
        """The best of several strengths.

        Of those that dev does not show to be worse than the lowest: the strongest that costs the
        canary next to nothing, else the one with the best canary. A weaker adapter is never free:
        it has learnt less.
        """
        allowed = [item for item in candidates if self.allows(item)]
        if not allowed:
            # None holds the bound: the one that comes nearest.
            return min(candidates, key=lambda item: (item.canary_wer or 0.0, item.judged_wer))
        lowest = min(allowed, key=lambda item: item.judged_wer)
        near = [
            item
            for item in allowed
            if item.judged_wer <= lowest.judged_wer + self._noise(item, lowest)
        ]
        kept = [item for item in near if self._lost(item) <= self.canary_tolerance]
        if kept:
            return max(kept, key=lambda item: item.strength)
        return min(near, key=lambda item: (item.canary_wer or 0.0, item.judged_wer, -item.strength))

    def _noise(self, one: Candidate, other: Candidate) -> float:
        """Points of dev WER that say nothing: a standard deviation of a difference of counts."""
        if not self.dev_words:
            return self.dev_tolerance
        errors = (one.judged_wer + other.judged_wer) / 100 * self.dev_words
        return max(self.dev_tolerance, 100 * math.sqrt(errors) / self.dev_words)

    def _lost(self, item: Candidate) -> float:
        """Points of canary WER that the candidate is worse than the base."""
        if self.base_canary is None or item.canary_wer is None:
            return 0.0
        return item.canary_wer - self.base_canary

    def _order(self, item: Candidate) -> tuple[bool, float, float]:
        return (not self.allows(item), item.judged_wer, item.canary_wer or 0.0)
