"""Parity: does the runtime say what the trained model says?

The runtime computes with 8-bit weights and activations, torch with floats, so single words may
differ; more than a few percent means that something else was exported than was trained.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from moonshine_tune.corpus.normalizers import Normalizer
from moonshine_tune.export.parity.graphs import GraphParity
from moonshine_tune.metrics.wer import (
    ErrorCounts,
    PairedComparison,
    ScoredUtterance,
    compare_paired,
    score_utterance,
)

DEFAULT_BOUND = 5.0
WER_POINTS = 0.5


@dataclass(frozen=True)
class ChunkedParity:
    """Clips fed in chunks as from a microphone, against the same clips fed whole."""

    word_difference: float
    bound: float
    clips: int
    identical: int
    words: int
    first_clip: str | None


@dataclass(frozen=True)
class ParityResult:
    """Words that differ, in percent of torch's words, and the clips where they do.

    Attributes:
        examples: (torch's text, the runtime's) of the first clips that differ.
        graphs: weights, outputs and tokens graph by graph, where they were compared.
        wer: torch's WER against the runtime's, where the clips have texts.
        chunked: for streaming models, clips fed in chunks against the same clips fed whole.
    """

    word_difference: float
    bound: float
    clips: int
    identical: int
    words: int
    examples: tuple[tuple[str, str], ...]
    first_clip: str | None = None
    graphs: GraphParity | None = None
    wer: PairedComparison | None = None
    chunked: ChunkedParity | None = None

    @property
    def passed(self) -> bool:
        """Whether nothing differs beyond its bound."""
        return self.first_difference is None

    @property
    def first_difference(self) -> str | None:
        """The first thing that differs, from the files up to the WER; None where nothing does."""
        if self.graphs is not None and not self.graphs.passed:
            return self.graphs.first_difference
        if self.word_difference > self.bound:
            where = f", first on clip {self.first_clip}" if self.first_clip else ""
            return (
                f"transcripts: {self.word_difference:.2f} % of {self.words} words differ "
                f"(bound {self.bound:g} %){where}"
            )
        if not self.wer_is_kept:
            return f"WER: the runtime's is {self.wer_points:+.2f} points off (bound {WER_POINTS:g})"
        if self.chunked is not None and self.chunked.word_difference > self.chunked.bound:
            return (
                f"streaming: fed in chunks, {self.chunked.word_difference:.2f} % of "
                f"{self.chunked.words} words differ from whole clips (bound "
                f"{self.chunked.bound:g} %), first on clip {self.chunked.first_clip}"
            )
        return None

    @property
    def wer_points(self) -> float:
        """The runtime's WER less torch's, in points; 0 without texts."""
        return self.wer.difference if self.wer else 0.0

    @property
    def wer_is_kept(self) -> bool:
        """Whether the runtime's WER is at most half a point above torch's, or not shown to be.

        Shown is what the whole interval says: a few hundred words move by a point when eight-bit
        activations tip four of them, the base's own files included.
        """
        return self.wer is None or min(self.wer_points, self.wer.ci95[0]) <= WER_POINTS


def compare_transcripts(
    from_torch: Sequence[str],
    from_runtime: Sequence[str],
    normalizer: Normalizer,
    *,
    bound: float = DEFAULT_BOUND,
    names: Sequence[str] | None = None,
) -> ParityResult:
    """Word difference of the runtime's transcripts against torch's on the same clips.

    Args:
        bound: percent of torch's words that may differ.
        names: ids of the clips.
    """
    counts = ErrorCounts()
    identical = 0
    examples: list[tuple[str, str]] = []
    differing: list[int] = []
    for index, (said, heard) in enumerate(zip(from_torch, from_runtime, strict=True)):
        scored = score_utterance(str(index), said, heard, normalizer)
        counts = counts + scored.words
        if scored.words.errors:
            examples.append((said, heard))
            differing.append(index)
        else:
            identical += 1
    return ParityResult(
        word_difference=counts.rate,
        bound=bound,
        clips=len(from_torch),
        identical=identical,
        words=counts.reference,
        examples=tuple(examples[:5]),
        first_clip=names[differing[0]] if names and differing else None,
    )


def compare_chunked(
    whole: Sequence[str],
    chunked: Sequence[str],
    normalizer: Normalizer,
    *,
    bound: float,
    names: Sequence[str],
) -> ChunkedParity:
    """Word difference of chunked feeding against whole clips, both by the runtime."""
    found = compare_transcripts(whole, chunked, normalizer, bound=bound, names=names)
    return ChunkedParity(
        found.word_difference, bound, found.clips, found.identical, found.words, found.first_clip
    )


def compare_wer(
    references: Sequence[str | None],
    from_torch: Sequence[str],
    from_runtime: Sequence[str],
    normalizer: Normalizer,
) -> PairedComparison | None:
    """WER of both on the same clips, from torch to the runtime; None where texts are missing."""
    if not references or any(not text for text in references):
        return None

    def scored(texts: Sequence[str]) -> list[ScoredUtterance]:
        return [
            score_utterance(str(index), reference or "", text, normalizer)
            for index, (reference, text) in enumerate(zip(references, texts, strict=True))
        ]

    return compare_paired(scored(from_torch), scored(from_runtime))
