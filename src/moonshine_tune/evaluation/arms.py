"""Adapter, key terms and both side by side: what each gives on the listed words, and costs."""

from dataclasses import dataclass
from typing import Any

from moonshine_tune.corpus.keyterms import KeyTermScore, score_key_terms
from moonshine_tune.corpus.normalizers import Normalizer
from moonshine_tune.metrics.wer import (
    PairedComparison,
    Score,
    ScoredUtterance,
    compare_paired,
    summarize,
)


@dataclass(frozen=True)
class KeyTermsArm:
    """One arm: its WER, how the listed terms fared, and the change against the first arm."""

    name: str
    score: Score
    terms: KeyTermScore
    change: PairedComparison

    def to_record(self) -> dict[str, Any]:
        """The JSON object."""
        return {
            "arm": self.name,
            "wer": round(self.score.wer, 4),
            "ci95": [round(value, 4) for value in self.score.ci95],
            **self.terms.to_record(),
            "change": comparison_record(self.change),
        }


@dataclass(frozen=True)
class KeyTermsTable:
    """The arms side by side: adapter, key terms, and both."""

    terms: tuple[str, ...]
    boost: float
    arms: tuple[KeyTermsArm, ...]

    def to_record(self) -> dict[str, Any]:
        """The JSON object."""
        return {
            "boost": self.boost,
            "terms": len(self.terms),
            "arms": [arm.to_record() for arm in self.arms],
        }


def key_terms_arm(
    title: str,
    scored: tuple[ScoredUtterance, ...],
    terms: tuple[str, ...],
    normalizer: Normalizer,
    first: tuple[ScoredUtterance, ...],
) -> KeyTermsArm:
    """Count one arm; `first` is the arm that all are compared with."""
    score = score_key_terms(
        terms,
        [item.reference for item in scored],
        [item.hypothesis for item in scored],
        normalizer,
    )
    return KeyTermsArm(title, summarize(scored), score, compare_paired(first, scored))


def comparison_record(comparison: PairedComparison) -> dict[str, Any]:
    """A paired comparison as JSON data."""
    return {
        "before": round(comparison.before, 4),
        "after": round(comparison.after, 4),
        "difference": round(comparison.difference, 4),
        "ci95": [round(value, 4) for value in comparison.ci95],
        "relative_change": round(comparison.relative_change, 2),
        "verdict": comparison.verdict,
    }
