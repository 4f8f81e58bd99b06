"""Which adapter is the best: lowest dev WER among those that keep the canary within its bound.

If training is augmented, dev is scored as recorded and augmented, and both count alike: on clean
clips alone, an adapter that has just begun to learn noise is as good as one that has learnt it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from moonshine_tune.runs.records import SelectionRecord

_RETURNED_SHARE = 0.1


class Candidate(SelectionRecord):
    """The scores of an adapter at a step and strength. WER in percent.

    Attributes:
        canary_wer: None without a canary.
        strength: what the adapter's effect is multiplied by.
        averaged: number of late adapters that it is the mean of; 0 for a single one.
        dev_augmented_wer: of dev with every clip augmented; None where nothing is augmented.
        drift: KL divergence from the base on held-out general speech, nats per token; None where
            it was not measured.
        dev_loss: of dev, nats per token; measured where dev is so small that most WERs are equal.
        filter_weight: weight of general speech that it was filtered with; 0 where it was not.
    """

    step: int
    dev_wer: float
    canary_wer: float | None
    strength: float
    averaged: int
    dev_augmented_wer: float | None
    drift: float | None = None
    dev_loss: float | None = None
    filter_weight: float = 0.0

    @property
    def judged_wer(self) -> float:
        """The WER that it is chosen by: of dev as recorded and, if scored so, augmented."""
        if self.dev_augmented_wer is None:
            return self.dev_wer
        return (self.dev_wer + self.dev_augmented_wer) / 2

    @property
    def is_choice(self) -> bool:
        """Whether it was made of trained ones at the end, and is not the adapter of a step."""
        return self.strength != 1.0 or self.averaged > 0 or self.filter_weight > 0

    @property
    def summary(self) -> str:
        """Its scores, for messages."""
        augmented, canary = self.dev_augmented_wer, self.canary_wer
        return (
            f"dev WER {self.dev_wer:.2f}"
            + ("" if self.dev_loss is None else f", loss {self.dev_loss:.3f}")
            + ("" if augmented is None else f", augmented {augmented:.2f}")
            + ("" if canary is None else f", {self.canary_name} {canary:.2f}")
            + ("" if self.drift is None else f", drift {self.drift:.4f}")
        )

    def figures(self, prefix: str = "") -> dict[str, float | str | None]:
        """Its scores for the log."""
        scores: dict[str, float | str | None] = {
            "dev_wer": self.dev_wer,
            "canary_wer": self.canary_wer,
        }
        if self.canary:
            scores["canary"] = self.canary
        if self.dev_augmented_wer is not None:
            scores["dev_augmented_wer"] = self.dev_augmented_wer
        if self.drift is not None:
            scores["drift"] = self.drift
        if self.dev_loss is not None:
            scores["dev_loss"] = self.dev_loss
        return {f"{prefix}{name}": value for name, value in scores.items()}


@dataclass(frozen=True)
class SelectionRule:
    """The canary bound and the order among adapters that hold it.

    Attributes:
        base_canary: canary WER of the base model; None where there is no canary.
        canary_bound: points that the canary may lose.
        dev_tolerance: points of dev WER that are given up for a better canary when strengths are
            compared: within it, a difference is a word or two.
        canary_tolerance: points of canary WER that are no reason to weaken an adapter.
        dev_words: words that dev is judged by, twice as many if it is scored augmented as well;
            with few, larger differences are noise. 0: unknown.
    """

    base_canary: float | None
    canary_bound: float
    dev_tolerance: float = 0.25
    canary_tolerance: float = 0.5
    dev_words: int = 0

    def allows(self, candidate: Candidate) -> bool:
        """Whether the canary stays within its bound."""
        return self._canary_loss(candidate) <= self.canary_bound

    def is_better(self, candidate: Candidate, best: Candidate | None) -> bool:
        """Whether `candidate` replaces `best`: the bound comes first, then dev, then the canary.

        Of a dev set of a few clips, the loss decides between equal WERs.
        """
        return best is None or self._order(candidate) < self._order(best)

    def is_as_good(self, candidate: Candidate, best: Candidate) -> bool:
        """Whether `candidate` keeps the bound and dev does not show that it is worse than `best`.

        For the mean of late adapters: the lowest of eight scores of a small dev set is partly
        luck, and a mean is free of it.
        """
        if self.allows(best) and not self.allows(candidate):
            return False
        if candidate.dev_loss is not None and best.dev_loss is not None:
            # On a few clips, everything is within the noise of the WER.
            return self._order(candidate) <= self._order(best)
        return candidate.judged_wer <= best.judged_wer + self._noise(candidate, best)

    def keeps_gain(self, candidate: Candidate, best: Candidate, base: Candidate) -> bool:
        """Whether `candidate`, which spares general speech, has as good as all that `best` learned.

        Dev does not show a higher WER. Of a few clips, where any WER is within the noise, the loss
        gives back at most a tenth of what it gained.
        """
        if self.allows(best) and not self.allows(candidate):
            return False
        losses = (base.dev_loss, best.dev_loss, candidate.dev_loss)
        if None not in losses:
            before, after, now = (loss or 0.0 for loss in losses)
            if now - after > _RETURNED_SHARE * max(before - after, 0.0):
                return False
        return candidate.judged_wer <= best.judged_wer + self._noise(candidate, best)

    def choose(self, candidates: Sequence[Candidate]) -> Candidate:
        """The best of several strengths.

        Among those that dev does not show to be worse than the lowest: the strongest that costs
        the canary next to nothing, else the one with the best canary. A weaker adapter is never
        free: it has learnt less.
        """
        allowed = [item for item in candidates if self.allows(item)]
        if not allowed:
            # None keeps the bound: take the nearest to it.
            return min(candidates, key=lambda item: (item.canary_wer or 0.0, item.judged_wer))
        lowest = min(allowed, key=lambda item: item.judged_wer)
        near = [
            item
            for item in allowed
            if item.judged_wer <= lowest.judged_wer + self._noise(item, lowest)
        ]
        kept = [item for item in near if self._canary_loss(item) <= self.canary_tolerance]
        if kept:
            return max(kept, key=lambda item: item.strength)
        return min(near, key=lambda item: (item.canary_wer or 0.0, item.judged_wer, -item.strength))

    def _noise(self, first: Candidate, second: Candidate) -> float:
        """Points of dev WER that say nothing: a standard deviation of a difference of counts."""
        if not self.dev_words:
            return self.dev_tolerance
        errors = (first.judged_wer + second.judged_wer) / 100 * self.dev_words
        return max(self.dev_tolerance, 100 * math.sqrt(errors) / self.dev_words)

    def _canary_loss(self, item: Candidate) -> float:
        """Points of canary WER by which the candidate is worse than the base."""
        if self.base_canary is None or item.canary_wer is None:
            return 0.0
        return item.canary_wer - self.base_canary

    def _order(self, item: Candidate) -> tuple[bool, float, float, float]:
        loss = item.dev_loss or 0.0
        return (not self.allows(item), item.judged_wer, loss, item.canary_wer or 0.0)


def strength_within(
    max_drift: float, strengths: Sequence[float], drift_at: Callable[[float], float]
) -> tuple[float, float]:
    """The largest of some strengths whose drift is within a bound, else the smallest; its drift.

    Args:
        drift_at: measures the drift at a strength; the largest strengths are measured first.
    """
    strength = drift = math.nan
    for strength in sorted(strengths, reverse=True):
        drift = drift_at(strength)
        if drift <= max_drift:
            break
    return strength, drift
