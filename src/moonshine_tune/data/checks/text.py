"""How transcripts are written, and the words of a corpus against a tokenizer."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jiwer

from moonshine_tune.corpus.punctuation import has_capital, has_marks

DIGITS = re.compile(r"\d")
NUMBER_WORDS = re.compile(
    r"\b(zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|"
    r"fifteen|sixteen|seventeen|eighteen|nineteen|twenty|thirty|forty|fifty|sixty|seventy|eighty|"
    r"ninety|hundred|thousand)\b",
    re.IGNORECASE,
)
# An apostrophe after a single letter: `I'M`, but not `L'EAU`.
_I = re.compile(r"I['’](?:M|LL|VE|D)\b")
# `I` is the capital of `ı` in Turkish and Azerbaijani.
_TURKIC = re.compile("[İıĞğŞş]")
# A spelled letter takes as long as a short word; a digit is spoken as a word.
_LETTER_CHARACTERS, _DIGIT_CHARACTERS = 3, 4
_SHOWN_CHARACTERS = 60
_LISTED_WORDS = 30
# A smaller difference between the transcripts and the base model is not worth an advice.
_SHARE_DIFFERENCE = 0.3
# Parts of longer sentences start with a small letter: a third of the texts of some corpora.
_LOWER_DIFFERENCE = 0.5
# Fewer sentences are no style.
MIN_SENTENCES = 4


@dataclass(frozen=True)
class Conventions:
    """How texts are written; shares of utterances, 0 to 1.

    Attributes:
        capitals: all in capitals.  lower: without a capital letter.
        punctuation: with a mark such as `. , ?`, or its form in another script.
        digits: with digits.  number_words: with spelled numbers (English).
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
        words, running_words: distinct words, and all words.
        pieces_a_word: tokens per running word.
        hard_words: words of many tokens, with their numbers of tokens and of occurrences.
        unseen: words that are not in the other splits, most frequent first; empty without others.
        unseen_share: their share of the running words.
    """

    words: int
    running_words: int
    pieces_a_word: float
    hard_words: tuple[tuple[str, int, int], ...]
    unseen: tuple[tuple[str, int], ...]
    unseen_share: float


def conventions_of(texts: Sequence[str]) -> Conventions:
    """How texts are written; empty texts are left out."""
    written = [text for text in texts if text.strip()]

    def share(holds: Callable[[str], object]) -> float:
        return round(sum(map(bool, map(holds, written))) / len(written), 4) if written else 0.0

    return Conventions(
        utterances=len(written),
        capitals=share(in_capitals),
        lower=share(lambda text: text == text.lower()),
        punctuation=share(has_marks),
        digits=share(DIGITS.search),
        number_words=share(NUMBER_WORDS.search),
    )


def advice_on(transcripts: Conventions, model: Conventions) -> tuple[str, ...]:
    """Where a corpus is written differently from what the base model writes."""
    advice = []
    for name, wording in (
        ("capitals", "in capitals"),
        ("lower", "without a capital letter"),
        ("punctuation", "with punctuation"),
        ("digits", "with digits"),
        ("number_words", "with spelled numbers"),
    ):
        ours, theirs = getattr(transcripts, name), getattr(model, name)
        if abs(ours - theirs) >= _SHARE_DIFFERENCE:
            advice.append(
                f"{ours:.0%} of the transcripts are written {wording}, but {theirs:.0%} of the "
                "base model's transcripts of the same recordings: the adapter learns this first"
            )
    return tuple(advice)


@dataclass(frozen=True)
class SentenceStyle:
    """How sentences are written; shares of texts, 0 to 1.

    Attributes:
        punctuation: with a mark.
        lower: with small letters and no capital; a text of a script without case has neither.
    """

    punctuation: float
    lower: float

    @classmethod
    def of(cls, texts: Sequence[str]) -> "SentenceStyle":
        """The style of some sentences."""
        count = max(len(texts), 1)
        return cls(
            punctuation=sum(map(has_marks, texts)) / count,
            lower=sum(map(is_lower, texts)) / count,
        )

    def lacks(self, model: "SentenceStyle") -> tuple[str, ...]:
        """What a model writes and these texts, or a part of them, do not."""
        lacking = {
            "punctuation": model.punctuation - self.punctuation >= _SHARE_DIFFERENCE,
            "capital letters": self.lower - model.lower >= _LOWER_DIFFERENCE,
        }
        return tuple(name for name, is_lacking in lacking.items() if is_lacking)


# Of models that were trained on punctuated texts, as all published ones.
BASE_STYLE = SentenceStyle(punctuation=1.0, lower=0.0)


def is_lower(text: str) -> bool:
    """Whether a text of a script with case has no capital letter."""
    return not has_capital(text) and any(map(str.islower, text))


def vocabulary_of(
    texts: Sequence[str], encode: Callable[[str], Sequence[int]], others: Sequence[str] = ()
) -> Vocabulary:
    """Words, their tokens, and the words that are not in `others`.

    Args:
        encode: token ids of a text.
        others: texts of the other splits.
    """
    counts = Counter(word for text in texts for word in text.split())
    seen = {word for text in others for word in text.split()}
    pieces = {word: len(encode(word)) for word in counts}
    running = counts.total()
    total = sum(pieces[word] * count for word, count in counts.items())
    hard = sorted(counts, key=lambda word: (-pieces[word], -counts[word], word))[:_LISTED_WORDS]
    unseen = [(word, count) for word, count in counts.most_common() if seen and word not in seen]
    return Vocabulary(
        words=len(counts),
        running_words=running,
        pieces_a_word=round(total / running, 3) if running else 0.0,
        hard_words=tuple((word, pieces[word], counts[word]) for word in hard if pieces[word] > 3),
        unseen=tuple(unseen[:_LISTED_WORDS]),
        unseen_share=round(sum(count for _, count in unseen) / running, 4) if running else 0.0,
    )


def spoken_length(text: str) -> int:
    """Rough time to say a plain text, in characters of ordinary words."""
    digits = sum(character.isdigit() for character in text)
    words = "".join(" " if character.isdigit() else character for character in text).split()
    return _DIGIT_CHARACTERS * digits + sum(max(len(word), _LETTER_CHARACTERS) for word in words)


def character_distance(reference: str, hypothesis: str) -> float:
    """Character errors as a share of the reference's characters; spaces do not count."""
    reference, hypothesis = reference.replace(" ", ""), hypothesis.replace(" ", "")
    if not reference:
        return float(bool(hypothesis))
    return float(jiwer.cer(reference, hypothesis))


def in_capitals(text: str) -> bool:
    """Whether a text is in capitals: no lower-case letter, and a word of three letters or more.

    Shorter words do not count: `A`, `B C` and `OK` are in capitals in any corpus.
    """
    if any(character.islower() for character in text):
        return False
    return any(sum(letter.isupper() for letter in word) > 2 for word in text.split())


def sentence_case(text: str, language: str | None = None) -> str:
    """Lower case with a capital at the start; single letters, and those of `I'm`, stay."""
    if (language or "")[:2] in ("tr", "az") or _TURKIC.search(text):
        first, text = text[:1], text.replace("İ", "i").replace("I", "ı")
        return first + text[1:].lower()
    words = [
        word if len(word) == 1 else word[:2] + word[2:].lower() if _I.match(word) else word.lower()
        for word in text.split()
    ]
    joined = " ".join(words)
    return joined[:1].upper() + joined[1:]


def shortened(text: str) -> str:
    """The start of a text, for a line of a report."""
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"
