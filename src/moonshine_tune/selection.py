"""Which adapter is the best: lowest dev WER among those that keep the canary within its bound."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Candidate:
    """An adapter at a step and strength with its scores. WER in percent; canary None if unused."""

    step: int
    dev_wer: float
    canary_wer: float | None
    strength: float = 1.0

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
    """

    base_canary: float | None
    canary_bound: float
    dev_tolerance: float = 0.25

    def allows(self, candidate: Candidate) -> bool:
        """Whether the canary is held."""
        if self.base_canary is None or candidate.canary_wer is None:
            return True
        return candidate.canary_wer <= self.base_canary + self.canary_bound

    def is_better(self, candidate: Candidate, best: Candidate | None) -> bool:
        """Whether `candidate` takes the place of `best`: allowed first, then dev, then canary."""
        return best is None or self._order(candidate) < self._order(best)

    def choose(self, candidates: Sequence[Candidate]) -> Candidate:
        """The best of several strengths: near the lowest dev WER, the one with the best canary."""
        allowed = [item for item in candidates if self.allows(item)]
        if not allowed:
            # None holds the bound: the one that comes nearest.
            return min(candidates, key=lambda item: (item.canary_wer or 0.0, item.dev_wer))
        near = min(item.dev_wer for item in allowed) + self.dev_tolerance
        return min(
            (item for item in allowed if item.dev_wer <= near),
            key=lambda item: (item.canary_wer or 0.0, item.dev_wer, -item.strength),
        )

    def _order(self, item: Candidate) -> tuple[bool, float, float]:
        return (not self.allows(item), item.dev_wer, item.canary_wer or 0.0)
