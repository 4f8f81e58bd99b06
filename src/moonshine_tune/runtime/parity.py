"""Parity: does the runtime say what the trained model says?

The runtime computes with 8-bit weights and activations, torch with floats, so single words may
differ; more than a few percent means that something else was exported than was trained.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from moonshine_tune.score import ErrorCounts, score_utterance
from moonshine_tune.text import Normalizer

DEFAULT_BOUND = 5.0


@dataclass(frozen=True)
class ParityResult:
    """Words that differ, in percent of torch's words, and the clips where they do."""

    word_difference: float
    bound: float
    clips: int
    identical: int
    words: int
    examples: tuple[tuple[str, str], ...]

    @property
    def passed(self) -> bool:
        """Whether the difference is within the bound."""
        return self.word_difference <= self.bound


def compare_transcripts(
    from_torch: Sequence[str],
    from_runtime: Sequence[str],
    normalizer: Normalizer,
    *,
    bound: float = DEFAULT_BOUND,
) -> ParityResult:
    """Word difference of the runtime's transcripts against torch's on the same clips."""
    counts = ErrorCounts()
    identical = 0
    examples: list[tuple[str, str]] = []
    for index, (said, heard) in enumerate(zip(from_torch, from_runtime, strict=True)):
        scored = score_utterance(str(index), said, heard, normalizer)
        counts = counts + scored.words
        if scored.words.errors:
            examples.append((said, heard))
        else:
            identical += 1
    return ParityResult(
        word_difference=counts.rate,
        bound=bound,
        clips=len(from_torch),
        identical=identical,
        words=counts.reference,
        examples=tuple(examples[:5]),
    )
