"""What a model writes in the place of a term, where the words around the term are known."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import jiwer

from moonshine_tune.corpus.aliases.apply_aliases import words_of

# Stands for the term in an alignment; no hypothesis has such a word.
_TERM = "\0"
# What is longer than the term by more than this is no alias of it: the model wrote other words.
_MOST_MORE_WORDS, _MOST_TIMES_LETTERS = 2, 2


@dataclass(frozen=True)
class SpokenTerm:
    """A term, and the words around it, in one utterance."""

    term: str
    before: tuple[str, ...]
    after: tuple[str, ...]


def plain_words(text: str) -> tuple[str, ...]:
    """The words of a text as aliases are compared with them: small letters, no punctuation."""
    return tuple(word for _, _, word in words_of(text))


def spoken_terms(text: str, terms: Sequence[str]) -> Iterator[SpokenTerm]:
    """Every occurrence of a term in the text of an utterance."""
    words = plain_words(text)
    for term in terms:
        wanted = plain_words(term)
        for index in occurrences(words, wanted):
            yield SpokenTerm(term, words[:index], words[index + len(wanted) :])


def occurrences(words: Sequence[str], wanted: Sequence[str]) -> Iterator[int]:
    """Indices at which a sequence of words begins."""
    size = len(wanted)
    for index in range(len(words) - size + 1 if size else 0):
        if tuple(words[index : index + size]) == tuple(wanted):
            yield index


def written_for(hypothesis: str, spoken: SpokenTerm) -> str | None:
    """The words in the place of the term, in small letters with single spaces.

    None where that is not certain: a neighbor of the term is wrong too, so that its borders are
    unknown, nothing is written for it, or far more than it has.
    """
    words = plain_words(hypothesis)
    if not words:
        return None
    reference = [*spoken.before, _TERM, *spoken.after]
    (chunks,) = jiwer.process_words(" ".join(reference), " ".join(words)).alignments
    partner: dict[int, int] = {}
    for chunk in chunks:
        if chunk.type == "equal":
            pairs = zip(
                range(chunk.ref_start_idx, chunk.ref_end_idx),
                range(chunk.hyp_start_idx, chunk.hyp_end_idx),
                strict=True,
            )
            partner.update(pairs)
    position = len(spoken.before)
    start = partner.get(position - 1) if spoken.before else -1
    end = partner.get(position + 1) if spoken.after else len(words)
    if start is None or end is None:
        return None
    written, wanted = words[start + 1 : end], plain_words(spoken.term)
    is_long = len("".join(written)) > _MOST_TIMES_LETTERS * len("".join(wanted)) + 2
    if not written or is_long or len(written) > len(wanted) + _MOST_MORE_WORDS:
        return None
    return " ".join(written)
