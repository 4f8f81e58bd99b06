"""Which of the texts that a model writes in place of a term may stand for it."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from itertools import chain
from math import prod

from moonshine_tune.corpus.english_words import is_english_word
from moonshine_tune.data.aliases.written import occurrences, plain_words
from moonshine_tune.models.base import TextTokenizer

# An alias may occur by accident once in so many words of other speech, by the frequencies of its
# words alone. Words follow each other far from by accident: hence the distance to 1 in 1,000.
_MOST_FREQUENT = 1e-9
# Zipf's law: the word of rank r is a tenth of 1 / r of a text.
_ZIPF = 0.1
_RARE_WORD, _NO_WORD = 2e-6, 1e-9
# Words like "the" and "of", which the model adds and drops, so that they do not belong to an alias.
_EDGE_RANK = 150
# Words that follow others far more often than by accident: they make no sequence rarer.
_LINKING_RANK = 500
_LEAST_LETTERS = 4
# Share of letters that alias and term have in common, in order; words of a dictionary are written
# for many sounds, and need more.
_LEAST_ALIKE, _LEAST_ALIKE_WORDS = 0.5, 0.6
# Of an alias that is written for two terms, one must have this many times the other's count.
_CLEARLY = 4


class WordFrequencies:
    """Rough frequencies of words, from the order of the tokenizer's vocabulary.

    Byte-pair encoding merges what is frequent first, so a word with a low token id is common, and a
    word without a token of its own is rare. For English, a list says which of those are words.
    """

    def __init__(self, tokenizer: TextTokenizer, language: str) -> None:
        self._is_english = language.lower().startswith("en")
        ids: dict[str, int] = {}
        for piece, number in tokenizer.raw.get_vocab().items():
            word = piece.lower().lstrip("▁")
            if piece.startswith("▁") and word.isalpha():
                ids[word] = min(number, ids.get(word, number))
        self._ranks = {word: rank for rank, word in enumerate(sorted(ids, key=ids.__getitem__), 1)}

    def is_word(self, word: str) -> bool:
        """Whether people say it: it has a token of its own, is a number, or is in the list."""
        is_known = self._is_english and is_english_word(word)
        return is_known or word in self._ranks or not any(map(str.isalpha, word))

    def is_very_common(self, word: str) -> bool:
        """Whether it is one of the few words that are in every sentence."""
        return self._ranks.get(word, _EDGE_RANK + 1) <= _EDGE_RANK

    def frequency(self, words: Iterable[str]) -> float:
        """How often the words are near each other in a text by accident; common ones aside."""
        return prod(map(self._of_word, words))

    def _of_word(self, word: str) -> float:
        if word in self._ranks:
            rank = self._ranks[word]
            return 1.0 if rank <= _LINKING_RANK else _ZIPF / rank
        return _RARE_WORD if self.is_word(word) else _NO_WORD


@dataclass(frozen=True)
class AliasText:
    """A text that was written in place of a term, and how often; `reason` if it is left out."""

    text: str
    count: int
    reason: str = ""


@dataclass(frozen=True)
class TermAliases:
    """A term with its aliases.

    Attributes:
        takes: utterances in which it is spoken.
        right: of these, where it is written as it should be.
        unclear: of these, where the model got the words around it wrong too.
    """

    term: str
    takes: int
    right: int
    unclear: int
    aliases: tuple[AliasText, ...]
    left_out: tuple[AliasText, ...]


@dataclass
class Written:
    """What was written in the place of one term, in all its takes."""

    takes: int = 0
    right: int = 0
    unclear: int = 0
    texts: Counter[str] = field(default_factory=Counter)

    def add(self, term: str, text: str | None, *, is_take: bool = True) -> None:
        """Count one hypothesis; `is_take` for the first of each take."""
        self.takes += is_take
        if text is None:
            self.unclear += is_take
        elif tuple(text.split()) == plain_words(term):
            self.right += is_take
        else:
            self.texts[text] += 1


def choose_aliases(
    written: Mapping[str, Written],
    frequencies: WordFrequencies,
    own_texts: Iterable[str],
) -> tuple[TermAliases, ...]:
    """The aliases of each term, and what is left out with the reason.

    Args:
        written: by term.
        own_texts: of the user: no alias may be in them.
    """
    terms = {term: plain_words(term) for term in written}
    trimmed = {
        term: _trimmed(item.texts, terms[term], frequencies) for term, item in written.items()
    }
    owners: dict[str, Counter[str]] = {}
    for term, texts in trimmed.items():
        for text, count in texts.items():
            owners.setdefault(text, Counter())[term] += count
    in_texts = _sequences_of(own_texts, owners)
    chosen = []
    for term, item in written.items():
        candidates = [
            AliasText(
                text,
                count,
                _reason(term, text, terms, frequencies)
                or ("is in your own texts" if text in in_texts else "")
                or _shared(term, owners[text]),
            )
            for text, count in sorted(trimmed[term].items(), key=lambda pair: (-pair[1], pair[0]))
        ]
        chosen.append(
            TermAliases(
                term,
                item.takes,
                item.right,
                item.unclear,
                tuple(each for each in candidates if not each.reason),
                tuple(each for each in candidates if each.reason),
            )
        )
    return tuple(chosen)


def _trimmed(
    texts: Mapping[str, int], term: Sequence[str], frequencies: WordFrequencies
) -> Counter[str]:
    """The texts without the very common words at their ends, which the term does not have.

    Only where something else is left that is no word, so that it may stand alone.
    """

    def is_added(word: str) -> bool:
        return word not in term and frequencies.is_very_common(word)

    result: Counter[str] = Counter()
    for text, count in texts.items():
        words = text.split()
        if not all(map(frequencies.is_word, words)):
            while is_added(words[0]):
                del words[0]
            while is_added(words[-1]):
                del words[-1]
        if words != list(term):
            result[" ".join(words)] += count
    return result


def _reason(
    term: str,
    text: str,
    terms: Mapping[str, tuple[str, ...]],
    frequencies: WordFrequencies,
) -> str:
    """Why a text cannot be an alias of a term; empty where it can."""
    words = text.split()
    letters, wanted = "".join(words), "".join(terms[term])
    for name, own in terms.items():
        if any(True for _ in occurrences(words, own)):
            return "has the term in it" if name == term else f"has the term {name!r} in it"
    if len(words) == 1 and frequencies.is_word(text.removesuffix("'s")):
        return "is a common word"
    if frequencies.frequency(words) > _MOST_FREQUENT:
        return "is a sequence of common words"
    if len(letters) < min(_LEAST_LETTERS, len(wanted)):
        return "is short"
    are_words = all(map(frequencies.is_word, words))
    least = _LEAST_ALIKE_WORDS if are_words else _LEAST_ALIKE
    if SequenceMatcher(None, letters, wanted, autojunk=False).ratio() < least:
        return "is too different"
    return ""


def _sequences_of(texts: Iterable[str], wanted: Mapping[str, object]) -> set[str]:
    """Which of the wanted sequences of words are in the texts."""
    sizes = {len(text.split()) for text in wanted}
    result: set[str] = set()
    for text in texts:
        words = plain_words(text)
        for size in sizes:
            starts = range(len(words) - size + 1)
            result.update(
                joined
                for joined in (" ".join(words[index : index + size]) for index in starts)
                if joined in wanted
            )
    return result


def _shared(term: str, owners: Counter[str]) -> str:
    """Why a text that is written for several terms is not an alias of this one."""
    rivals = [(count, name) for name, count in owners.items() if name != term]
    if not rivals or owners[term] >= _CLEARLY * max(rivals)[0]:
        return ""
    return f"is written for {max(rivals)[1]!r} too"


def alias_table(chosen: Sequence[TermAliases]) -> dict[str, str]:
    """Alias → term, sorted."""
    pairs = chain.from_iterable(
        ((alias.text, item.term) for alias in item.aliases) for item in chosen
    )
    return dict(sorted(pairs))
