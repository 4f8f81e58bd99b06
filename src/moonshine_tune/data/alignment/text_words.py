"""The words of a text with their place in it, and the letters that are compared with speech."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import lru_cache
from itertools import pairwise

from moonshine_tune.corpus.normalizers import Normalizer

# Chinese, Japanese, Thai, Lao, Burmese and Khmer are written without spaces: every character can be
# the first of a segment, with the marks and the small kana behind it.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(
    f"[{_UNSPACED}](?:(?![{_UNSPACED}])\\S|[\u3041\u3043\u3045\u3047\u3049\u3063\u3083\u3085\u3087"
    "\u30a1\u30a3\u30a5\u30a7\u30a9\u30c3\u30e3\u30e5\u30e7\u30fc\u0e30-\u0e3a\u0e47-\u0e4e])*|"
    f"[^\\s{_UNSPACED}]+"
)
# Numbers of several words are normalized together, but not across the end of a clause. A limit
# keeps the time in proportion to the text.
_CLAUSE_END = re.compile(r"[.,;:!?…。、！？；：]$")
_CHUNK_WORDS = 200


@dataclass(frozen=True)
class TextWord:
    """A word of a text.

    Attributes:
        start, end: in the text.
        letters: normalized, without spaces; empty for a dash or a label in brackets.
    """

    start: int
    end: int
    letters: str


def text_words(text: str, normalizer: Normalizer) -> list[TextWord]:
    """All words of a text, in order."""
    letters_of = lru_cache(maxsize=100_000)(lambda word: tuple(normalizer(word).split()))
    words: list[TextWord] = []
    for chunk in _chunks(text):
        spans = [match.span() for match in chunk]
        together = normalizer(text[spans[0][0] : spans[-1][1]]).split()
        alone = [letters_of(text[start:end]) for start, end in spans]
        letters = _shared_letters(alone, together)
        words += [TextWord(*span, item) for span, item in zip(spans, letters, strict=True)]
    return words


def _chunks(text: str) -> Iterator[list[re.Match[str]]]:
    """Matches of the words of each clause, or of parts of a long one."""
    chunk: list[re.Match[str]] = []
    for match in _WORD.finditer(text):
        is_new = chunk and (
            "\n" in text[chunk[-1].end() : match.start()] or _CLAUSE_END.search(chunk[-1][0])
        )
        if is_new or len(chunk) == _CHUNK_WORDS:
            yield chunk
            chunk = []
        chunk.append(match)
    if chunk:
        yield chunk


def _shared_letters(alone: list[tuple[str, ...]], together: list[str]) -> list[str]:
    """The letters of all words together, each given to the word that it is from.

    `one thirty one` is 131 together, and 1, 30, 1 alone: each word gets one digit.
    """
    owners = [owner for owner, words in enumerate(alone) for _ in words]
    flat = [word for words in alone for word in words]
    letters = ["".join(words) for words in alone]
    for (first, start), (last, end) in pairwise(_common_points(flat, together, owners)):
        spoken = "".join(together[start:end])
        if spoken == "".join(flat[first:last]):
            continue
        if first == last:  # only together, behind a word without letters
            letters[owners[max(first - 1, 0)] if owners else 0] += spoken
            continue
        singles = [
            (letter, owners[index]) for index in range(first, last) for letter in flat[index]
        ]
        for owner in range(owners[first], owners[last - 1] + 1):
            letters[owner] = ""
        matcher = SequenceMatcher(None, [letter for letter, _ in singles], spoken, autojunk=False)
        index = position = 0
        owner = owners[first]
        for block in matcher.get_matching_blocks():
            # What differs is that of the words between: the 1 of `one`.
            between = [member for _, member in singles[index : block.a]] or [owner]
            owner = next((member for member in between if not letters[member]), between[0])
            letters[owner] += spoken[position : block.b]
            for step in range(block.size):
                owner = singles[block.a + step][1]
                letters[owner] += spoken[block.b + step]
            index, position = block.a + block.size, block.b + block.size
        for member in range(owners[first], owners[last - 1] + 1):
            # Of several that are one number, a word must not be lost: its border is somewhere.
            letters[member] = letters[member] or "".join(alone[member])
    return letters


def _common_points(
    flat: list[str], together: list[str], owners: list[int]
) -> list[tuple[int, int]]:
    """Positions in both lists before and behind the same words, where a word of the text begins."""
    points = [(0, 0)]
    for block in SequenceMatcher(None, flat, together, autojunk=False).get_matching_blocks():
        for step in range(block.size + 1):
            index = block.a + step
            if index in (0, len(flat)) or owners[index] != owners[index - 1]:
                points.append((index, block.b + step))
    return [*dict.fromkeys(points), (len(flat), len(together))]
