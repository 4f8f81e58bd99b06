"""Word alignments: which words of a hypothesis are right, and which are not."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from moonshine_tune.corpus.keyterms import words_of
from moonshine_tune.corpus.normalizers import Normalizer


@dataclass(frozen=True)
class Token:
    """One position of an alignment.

    Attributes:
        kind: `same`, `substituted`, `deleted` or `inserted`.
        reference: a word; empty where one was inserted.
        hypothesis: a word; empty where one was deleted.
    """

    kind: str
    reference: str
    hypothesis: str


def align(reference: str, hypothesis: str, normalizer: Normalizer) -> tuple[Token, ...]:
    """Word by word, after normalization of both sides, as the score was counted."""
    # Here: loading it takes a twentieth of `data import` of a small corpus, which aligns nothing.
    import jiwer

    right, written = normalizer(reference).split(), normalizer(hypothesis).split()
    if not right:
        # jiwer refuses an empty reference; every word of the hypothesis is then inserted.
        return tuple(Token("inserted", "", word) for word in written)
    tokens: list[Token] = []
    for chunk in jiwer.process_words(" ".join(right), " ".join(written)).alignments[0]:
        first = right[chunk.ref_start_idx : chunk.ref_end_idx]
        second = written[chunk.hyp_start_idx : chunk.hyp_end_idx]
        if chunk.type == "delete":
            tokens += [Token("deleted", word, "") for word in first]
        elif chunk.type == "insert":
            tokens += [Token("inserted", "", word) for word in second]
        else:
            kind = "same" if chunk.type == "equal" else "substituted"
            tokens += [Token(kind, a, b) for a, b in zip(first, second, strict=True)]
    return tuple(tokens)


@dataclass(frozen=True)
class MissedWord:
    """A word that a recognizer gets wrong.

    Attributes:
        term: in its most frequent spelling.
        spoken: occurrences in the references.
        missed: how many of them are not in the hypotheses.
    """

    term: str
    spoken: int
    missed: int


def missed_words(
    pairs: Iterable[tuple[str, str]], normalizer: Normalizer
) -> tuple[MissedWord, ...]:
    """Words that are missed at least every other time they are spoken, the most missed first.

    Common words that are dropped now and then are none. Numbers are left out.

    Args:
        pairs: reference and hypothesis of each utterance.
    """
    spoken: Counter[str] = Counter()
    missed: Counter[str] = Counter()
    spellings: dict[str, Counter[str]] = {}
    for reference, hypothesis in pairs:
        for token in align(reference, hypothesis, normalizer):
            if token.reference:
                spoken[token.reference] += 1
                missed[token.reference] += token.kind != "same"
        for word in words_of(reference):
            # A word that becomes several (`can't`), or a part of another, has no spelling here.
            spellings.setdefault(normalizer(word), Counter())[word] += 1
    results = [
        MissedWord(spellings[word].most_common(1)[0][0], count, missed[word])
        for word, count in spoken.items()
        if word in spellings and 2 * missed[word] >= count and missed[word] and len(word) > 1
    ]
    return tuple(sorted(results, key=lambda item: (-item.missed, item.spoken, item.term)))
