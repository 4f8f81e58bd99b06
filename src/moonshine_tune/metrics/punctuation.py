"""Punctuation error rate: what WER hides, because its normalizer removes all marks.

Words are aligned without case and marks. Between two neighbors that are equal in reference and
hypothesis, the marks of both are compared: missing, added and exchanged marks are errors. Around
words that differ, all marks up to the next equal words are compared in their order. The rate is the
number of errors divided by the number of marks in the references, and can exceed 100 %.
"""

from collections.abc import Iterator, Sequence

import jiwer

from moonshine_tune.corpus.punctuation import Block, WrittenText, align, has_marks, marks_in
from moonshine_tune.metrics.metric import Metric

# With fewer punctuated references, the others do not show where a mark belongs.
_MIN_SHARE = 0.5


def count(reference: str, hypothesis: str) -> tuple[float, float]:
    """Wrong marks of the hypothesis, and marks of the reference."""
    first, second = WrittenText.of(reference), WrittenText.of(hypothesis)
    errors = sum(
        _edits(_marks(first, own), _marks(second, others))
        for own, others in _gaps_alike(align(first, second))
    )
    return errors, sum(len(marks_in(gap)) for gap in first.gaps)


def _gaps_alike(blocks: Sequence[Block]) -> Iterator[tuple[range, range]]:
    """The gaps of both texts that are compared with each other; each gap is in one range."""
    if not blocks:
        yield range(1), range(1)
        return
    for number, block in enumerate(blocks):
        if not block.is_equal:
            yield _with_end(block.first), _with_end(block.second)
            continue
        is_first, is_last = number == 0, number == len(blocks) - 1
        for step in range(0 if is_first else 1, len(block.first) + is_last):
            i, j = block.first.start + step, block.second.start + step
            yield range(i, i + 1), range(j, j + 1)


def _with_end(words: range) -> range:
    """The gaps before, between and after some words."""
    return range(words.start, words.stop + 1)


def _marks(text: WrittenText, gaps: range) -> tuple[str, ...]:
    return tuple(mark for index in gaps for mark in marks_in(text.gaps[index]))


def _edits(first: tuple[str, ...], second: tuple[str, ...]) -> int:
    """Levenshtein distance of two short sequences."""
    if first == second or not first or not second:
        return 0 if first == second else len(first) + len(second)
    output = jiwer.process_words(" ".join(first), " ".join(second))
    return int(output.substitutions + output.deletions + output.insertions)


def not_scored(references: Sequence[str]) -> str:
    """Why references show nothing about marks; empty where they do."""
    share = sum(map(has_marks, references)) / max(len(references), 1)
    return "" if share >= _MIN_SHARE else f"{share:.0%} of the references have punctuation"


METRIC = Metric(
    "punctuation_error_rate", "%", "lower", count, normalized=False, not_scored=not_scored
)
