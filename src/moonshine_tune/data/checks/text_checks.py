"""Transcripts as text: how they are written, and what of it the tokenizer has to spell out."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from moonshine_tune.corpus.manifest import Utterance
from moonshine_tune.data.checks.detectors import See, in_capitals, plain_text, shortened

_DIGITS = re.compile(r"\d")
_PUNCTUATION = re.compile(r"[.,;:!?…]")
_NUMBER_WORDS = re.compile(
    r"\b(zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|"
    r"fifteen|sixteen|seventeen|eighteen|nineteen|twenty|thirty|forty|fifty|sixty|seventy|eighty|"
    r"ninety|hundred|thousand)\b",
    re.IGNORECASE,
)
_MARKUP = re.compile(r"\[[^\]]*\]|<[^>]*>|\{[^}]*\}|\(\s*(?:inaudible|unk|noise|laughs?)[^)]*\)|"
                     r"https?://|&[a-z]+;|\bunintelligible\b|�", re.IGNORECASE)  # fmt: skip
# Bytes of pieces that UTF-8 characters fall apart into.
_BYTE_PIECE = re.compile(r"^<0x[0-9A-F]{2}>$")
_REPEATS = 3
# A way of writing that no more than this share of a corpus has is a slip, not a convention.
_SLIP_SHARE, _FEWEST = 0.1, 20
_LISTED = 30


@dataclass(frozen=True)
class Conventions:
    """How texts are written; shares of utterances, 0 to 1.

    Attributes:
        capitals: all in capitals.  lower: without a capital letter.
        punctuation: with any of `.,;:!?…`.
        digits: with figures.  number_words: with spelled numbers (English).
    """

    utterances: int
    capitals: float
    lower: float
    punctuation: float
    digits: float
    number_words: float


@dataclass(frozen=True)
class Vocabulary:
    """The words of a corpus against a tokenizer.

    Attributes:
        pieces_a_word: tokens a running word.
        hard_words: words of many pieces, with how many pieces and how often they come.
        unseen: words that the other side of the split does not have, most frequent first; empty
            where there is no other side.
        unseen_share: their share of the running words.
    """

    words: int
    running_words: int
    pieces_a_word: float
    hard_words: tuple[tuple[str, int, int], ...]
    unseen: tuple[tuple[str, int], ...]
    unseen_share: float


def conventions_of(texts: Sequence[str]) -> Conventions:
    """How texts are written, empty ones left out."""
    written = [text for text in texts if text.strip()]

    def share(holds: Callable[[str], bool]) -> float:
        return round(sum(map(holds, written)) / len(written), 4) if written else 0.0

    return Conventions(
        utterances=len(written),
        capitals=share(in_capitals),
        lower=share(lambda text: text == text.lower()),
        punctuation=share(lambda text: bool(_PUNCTUATION.search(text))),
        digits=share(lambda text: bool(_DIGITS.search(text))),
        number_words=share(lambda text: bool(_NUMBER_WORDS.search(text))),
    )


def advice_on(told: Conventions, heard: Conventions) -> tuple[str, ...]:
    """Where a corpus writes otherwise than the base model: what training will teach."""
    found = []
    for name, what in (
        ("capitals", "in capitals"),
        ("lower", "without a capital letter"),
        ("punctuation", "with punctuation"),
        ("digits", "with figures"),
        ("number_words", "with spelled numbers"),
    ):
        ours, theirs = getattr(told, name), getattr(heard, name)
        if abs(ours - theirs) >= 0.3:
            found.append(
                f"{ours:.0%} of the transcripts are written {what}, and {theirs:.0%} of what the "
                "base model writes for the same recordings: the adapter will learn this first"
            )
    return tuple(found)


def vocabulary_of(
    texts: Sequence[str], encode: Callable[[str], Sequence[int]], known: Sequence[str] = ()
) -> Vocabulary:
    """Words, the pieces that they are made of, and those that `known` texts do not have.

    Args:
        encode: the tokenizer.
        known: texts of the training side.
    """
    counts = Counter(word for text in texts for word in text.split())
    seen = {word for text in known for word in text.split()}
    pieces = {word: len(encode(word)) for word in counts}
    running = sum(counts.values())
    total = sum(pieces[word] * count for word, count in counts.items())
    hard = sorted(counts, key=lambda word: (-pieces[word], -counts[word], word))[:_LISTED]
    new = [(word, count) for word, count in counts.most_common() if seen and word not in seen]
    return Vocabulary(
        words=len(counts),
        running_words=running,
        pieces_a_word=round(total / running, 3) if running else 0.0,
        hard_words=tuple((word, pieces[word], counts[word]) for word in hard if pieces[word] > 3),
        unseen=tuple(new[:_LISTED]),
        unseen_share=round(sum(count for _, count in new) / running, 4) if running else 0.0,
    )


def see_writing(utterances: Sequence[Utterance], see: See) -> None:
    """Markup, repeated phrases, and slips against the corpus's own way of writing."""
    texts = {item.id: item.text for item in utterances if item.text and item.text.strip()}
    for identifier, text in texts.items():
        marks = _MARKUP.search(text)
        if marks:
            see("markup", identifier, f"{marks.group()!r} in {shortened(text)}")
    for item in utterances:
        if item.text and (phrase := _repeated(plain_text(item).split())):
            see("repeated_words", item.id, f"{phrase!r} three times and more in a row")
    if len(texts) < _FEWEST:
        return
    for kind, pattern, other in (
        ("mixed_numbers", _DIGITS, _NUMBER_WORDS),
        ("mixed_numbers", _NUMBER_WORDS, _DIGITS),
    ):
        these = [name for name, text in texts.items() if pattern.search(text)]
        those = [name for name, text in texts.items() if other.search(text)]
        both = len(set(these) | set(those))
        if these and len(those) >= _FEWEST and len(these) <= _SLIP_SHARE * both:
            for name in these:
                see(kind, name, f"{shortened(texts[name])}; {len(those)} others write otherwise")


def see_pieces(
    utterances: Sequence[Utterance],
    encode: Callable[[str], Sequence[int]],
    pieces: Sequence[str],
    see: See,
) -> None:
    """Texts with characters that the tokenizer has no piece for and spells as bytes.

    Args:
        pieces: every token of the tokenizer by id.
    """
    for item in utterances:
        if not item.text:
            continue
        known = {
            character
            for character in set(item.text)
            if not any(_BYTE_PIECE.match(pieces[token]) for token in encode(character))
        }
        odd = sorted(set(item.text) - known)
        if odd:
            see("odd_characters", item.id, f"{' '.join(odd)} in {shortened(item.text)}")


def _repeated(words: Sequence[str]) -> str:
    """A phrase of words that comes three times in a row; spelled letters and digits may.

    `two two two` is a number; only words of three letters and more, or longer phrases, count.
    """
    for size in (1, 2, 3, 4):
        for start in range(len(words) - _REPEATS * size + 1):
            phrase = words[start : start + size]
            again = range(1, _REPEATS)
            if any(len(word) > 2 for word in phrase) and all(
                words[start + n * size : start + (n + 1) * size] == phrase for n in again
            ):
                text = " ".join(phrase)
                if not _NUMBER_WORDS.fullmatch(text):
                    return text
    return ""
