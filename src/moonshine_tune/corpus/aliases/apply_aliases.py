"""Map what a recognizer writes in place of listed terms back to the terms.

The reference implementation: the standard library only, so that it can be copied into an app. The
same in JavaScript and Swift lies beside it, and `alias_vectors.json` has the results that all three
give. The table is the object `aliases` of `aliases.json`: the alias, in small letters with single
spaces, and its term.

    apply_aliases("Is a craiffish's shell hard?", {"craiffish": "crayfish"})
    "Is a crayfish's shell hard?"

1. A word is what stands between spaces and hyphens, from its first to its last letter, mark or
   digit, in small letters.
2. At each word, the alias with the most words counts. Between its words there are spaces and
   hyphens only. The last one may have `'s`, which stays.
3. A term in small letters only gets a capital at the start of a sentence.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

_BETWEEN = r"\s\-‐‑–—"
_PIECE = re.compile(f"[^{_BETWEEN}]+")
_GAP = re.compile(f"[{_BETWEEN}]+")
_SENTENCE_END = re.compile(r"[.!?…。！？]")
_POSSESSIVE = re.compile(r"['’]s$")

Word = tuple[int, int, str]
"""First character, end, and the word in small letters."""


def words_of(text: str) -> Iterator[Word]:
    """The words of a text, as aliases are compared with them."""
    for piece in _PIECE.finditer(text):
        inside = [
            index
            for index in range(piece.start(), piece.end())
            if unicodedata.category(text[index])[0] in "LMN"
        ]
        if inside:
            start, end = inside[0], inside[-1] + 1
            yield start, end, text[start:end].lower()


def apply_aliases(text: str, aliases: Mapping[str, str]) -> str:
    """The text with each alias replaced by its term."""
    result, position = "", 0
    for start, end, term in replacements(text, aliases):
        result, position = result + text[position:start] + term, end
    return result + text[position:]


def replacements(text: str, aliases: Mapping[str, str]) -> Iterator[tuple[int, int, str]]:
    """Where each alias starts and ends, and what to write there."""
    most = max((len(alias.split(" ")) for alias in aliases), default=0)
    words = list(words_of(text))
    index = 0
    while index < len(words):
        for count in range(min(most, len(words) - index), 0, -1):
            match = _match(text, words[index : index + count], aliases)
            if match is not None:
                end, term = match
                if term == term.lower() and _starts_sentence(text, words, index):
                    term = term[:1].upper() + term[1:]
                yield words[index][0], end, term
                index += count
                break
        else:
            index += 1


def _match(text: str, words: Sequence[Word], aliases: Mapping[str, str]) -> tuple[int, str] | None:
    """Where the alias that these words are ends, and its term."""
    for (_, end, _), (start, _, _) in pairwise(words):
        if not _GAP.fullmatch(text, end, start):
            return None
    alias = " ".join(word for _, _, word in words)
    end = words[-1][1]
    for shorter in (alias, _POSSESSIVE.sub("", alias)):
        if shorter in aliases:
            return end - (len(alias) - len(shorter)), aliases[shorter]
    return None


def _starts_sentence(text: str, words: Sequence[Word], index: int) -> bool:
    before = text[words[index - 1][1] : words[index][0]] if index else "."
    return _SENTENCE_END.search(before) is not None
