"""Which adapter is the best: lowest dev WER among those that keep the canary within its bound."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Candidate:
    """An adapter at a step and strength with its scores. WER in percent; canary None if unused.

    `averaged` counts the late adapters that it is the mean of; 0 for a single one.
    """

    step: int
    dev_wer: float
    canary_wer: float | None
    strength: float = 1.0
    averaged: int = 0

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
        canary_tolerance: points of canary WER that are no reason to weaken an adapter.
    """

    base_canary: float | None
    canary_bound: float
    dev_tolerance: float = 0.25
    canary_tolerance: float = 0.5

    def allows(self, candidate: Candidate) -> bool:
        """Whether the canary is held."""
        return self._lost(candidate) <= self.canary_bound

    def is_better(self, candidate: Candidate, best: Candidate | None) -> bool:
        """Whether `candidate` takes the place of `best`: allowed first, then dev, then canary."""
        return best is None or self._order(candidate) < self._order(best)

    def choose(self, candidates: Sequence[Candidate]) -> Candidate:
        """The best of several strengths.

        Of those near the lowest dev WER: the strongest that costs the canary next to nothing,
        else the one with the best canary. A weaker adapter is never free: it has learnt less.
        """
        allowed = [item for item in candidates if self.allows(item)]
        if not allowed:
            # None holds the bound: the one that comes nearest.
            return min(candidates, key=lambda item: (item.canary_wer or 0.0, item.dev_wer))
        highest = min(item.dev_wer for item in allowed) + self.dev_tolerance
        near = [item for item in allowed if item.dev_wer <= highest]
        kept = [item for item in near if self._lost(item) <= self.canary_tolerance]
        if kept:
            return max(kept, key=lambda item: item.strength)
        return min(near, key=lambda item: (item.canary_wer or 0.0, item.dev_wer, -item.strength))

    def _lost(self, item: Candidate) -> float:
        """Points of canary WER that the candidate is worse than the base."""
        if self.base_canary is None or item.canary_wer is None:
            return 0.0
        return item.canary_wer - self.base_canary

    def _order(self, item: Candidate) -> tuple[bool, float, float]:
        return (not self.allows(item), item.dev_wer, item.canary_wer or 0.0)
