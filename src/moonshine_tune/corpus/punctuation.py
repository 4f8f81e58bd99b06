"""Texts as words and what is written between them: marks, case, and alignment without both.

A mark is one of `. , ; : ! ? …`, its form in another script (`。`, `،`, `।`), or a Spanish opening
mark. Quotes, brackets, dashes and hyphens are between words, too, but they are no marks, because
transcripts follow too many conventions there.

A word is a run of other characters. An apostrophe or a period inside belongs to it (`don't`,
`U.S`), and so does a comma or a colon between digits. In scripts without spaces (Chinese, Japanese,
Thai, Khmer) each character counts as a word.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import jiwer

from moonshine_tune.corpus.normalizers import Normalizer

FINAL_MARKS = ".!?。．｡！？؟۔।॥"
OPENING_MARKS = "¿¡"
_CLAUSE_MARKS = ",;:…，、；：،؛"
MARKS = FINAL_MARKS + _CLAUSE_MARKS + OPENING_MARKS
# One sign for each mark, whatever the script.
_SAME_MARK = str.maketrans("。．｡！？؟۔।॥，、；：،؛", "...!??...,,;:,;")
_ELLIPSIS = re.compile(r"\.{2,}|…")
_APOSTROPHES = "'’ʼ"
_QUOTES = "\"“”„«»‹›‘’‚'`「」『』《》〈〉【】"
_SEPARATORS = re.escape(MARKS + _QUOTES + "()[]{}-‐‑‒–—―−")
_UNSPACED = ("\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf"
             "\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9d\U00020000-\U0003ffff")  # fmt: skip
_LETTERS = rf"[^\s{_SEPARATORS}{_UNSPACED}]+"
_WORD = re.compile(
    rf"[{_UNSPACED}]|{_LETTERS}(?:(?:[{_APOSTROPHES}.]|(?<=\d)[,:](?=\d)){_LETTERS})*"
)
_UNSPACED_WORD = re.compile(f"[{_UNSPACED}]")
_HAS_MARK = re.compile(rf"[{re.escape(MARKS)}](?=[\s{_SEPARATORS}{_UNSPACED}]|$)")
# Fewer words, or characters of a script without spaces, are a command or an answer.
_SENTENCE_WORDS, _SENTENCE_CHARACTERS = 3, 6


@dataclass(frozen=True)
class WrittenText:
    """A text as its words and the gaps around them, which hold spaces, marks and other signs.

    Attributes:
        gaps: one more than words; `gaps[i]` is before `words[i]`, and the last one ends the text.
    """

    words: tuple[str, ...]
    gaps: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> "WrittenText":
        """The parts of a text."""
        words, gaps, end = [], [], 0
        for match in _WORD.finditer(text):
            gaps.append(text[end : match.start()])
            words.append(match[0])
            end = match.end()
        return cls(tuple(words), (*gaps, text[end:]))

    def __str__(self) -> str:
        parts = [part for pair in zip(self.gaps, self.words, strict=False) for part in pair]
        return "".join((*parts, self.gaps[-1]))

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """The words without case, apostrophes, and other shapes of one letter."""
        return tuple(map(_key, self.words))


def _key(word: str) -> str:
    folded = unicodedata.normalize("NFKC", word).casefold()
    return "".join(c for c in folded if c not in _APOSTROPHES and not c.isspace()) or word


@dataclass(frozen=True)
class Block:
    """Words of two texts that stand at one position: equal word for word, or different.

    Attributes:
        first, second: their indices; one of both may be empty where the words differ.
    """

    is_equal: bool
    first: range
    second: range

    @property
    def is_one_sided(self) -> bool:
        """Whether one text has no word here."""
        return not self.first or not self.second


def align(first: WrittenText, second: WrittenText) -> tuple[Block, ...]:
    """All words of both texts, in blocks that are equal and different by turns."""
    if not first.words or not second.words:
        if not first.words and not second.words:
            return ()
        return (Block(False, range(len(first.words)), range(len(second.words))),)
    chunks = jiwer.process_words(" ".join(first.keys), " ".join(second.keys)).alignments[0]
    blocks: list[Block] = []
    for chunk in chunks:
        block = Block(
            chunk.type == "equal",
            range(chunk.ref_start_idx, chunk.ref_end_idx),
            range(chunk.hyp_start_idx, chunk.hyp_end_idx),
        )
        if blocks and not blocks[-1].is_equal and not block.is_equal:
            before = blocks.pop()
            block = Block(
                False,
                range(before.first.start, block.first.stop),
                range(before.second.start, block.second.stop),
            )
        blocks.append(block)
    return tuple(blocks)


def equal_words(
    first: WrittenText, second: WrittenText, blocks: tuple[Block, ...]
) -> Iterator[tuple[str, str]]:
    """The pairs of words that differ in case and apostrophes at most."""
    for block in blocks:
        if block.is_equal:
            for i, j in zip(block.first, block.second, strict=True):
                yield first.words[i], second.words[j]


def marks_in(gap: str) -> tuple[str, ...]:
    """The marks of a gap in their order; those of other scripts as the Latin ones."""
    gap = _ELLIPSIS.sub("…", gap.translate(_SAME_MARK))
    return tuple(sign for sign in gap if sign in MARKS)


def has_marks(text: str) -> bool:
    """Whether a text has a mark between or after words; `3.5` and `U.S` have none."""
    return _HAS_MARK.search(text) is not None


def ends_sentence(gap: str) -> bool:
    """Whether a sentence ends in a gap."""
    return any(sign in FINAL_MARKS for sign in gap) and "..." not in gap


def has_capital(text: str) -> bool:
    """Whether a text has a capital letter; a text of a script without case has none."""
    return any(map(str.isupper, text))


def is_sentence(text: str, normalizer: Normalizer) -> bool:
    """Whether a text is long enough to be written as a sentence, and neither spelled nor a number.

    Base models write `A.`, `Four.` and `One, five, two.` without a rule, and what users of such
    words want is the word.
    """
    words = WrittenText.of(normalizer(text)).words
    spaced = [word for word in words if not _UNSPACED_WORD.fullmatch(word)]
    if len(words) - len(spaced) >= _SENTENCE_CHARACTERS:
        return True
    single = sum(len(word) == 1 or any(map(str.isdigit, word)) for word in spaced)
    return len(spaced) >= _SENTENCE_WORDS and 2 * single < len(spaced)
