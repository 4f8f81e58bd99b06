"""What a sentence would teach: listed terms, words that a model gets wrong, and sounds."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt

from moonshine_tune.audio.tts import SpeechSynthesizer
from moonshine_tune.core.errors import AudioError, MachineError
from moonshine_tune.data.aliases.written import occurrences, plain_words

TERM, MISSED, UNSURE, SOUND = "term", "missed", "unsure", "sound"
# What the first occurrence is worth. A sentence has about 30 pairs of sounds.
_TERM_WEIGHT, _MISSED_WEIGHT, _UNSURE_WEIGHT, _SOUND_WEIGHT = 12.0, 6.0, 4.0, 0.3
_MOST_COUNTED = 4
_PIECE_LETTERS = 3

Feature = tuple[str, str]
"""Its kind, and what it is: a term, a word, or a pair of sounds."""


@dataclass(frozen=True)
class Wanted:
    """What is to be learned.

    Attributes:
        terms: listed terms, as they are written.
        missed: by word in small letters, how often a model missed it, and it was spoken.
        unsure: by word in small letters, the mean confidence of a model where it wrote it.
    """

    terms: Sequence[str] = ()
    missed: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    unsure: Mapping[str, float] = field(default_factory=dict)


class WordPhonemes:
    """The sounds of words: phonemes of espeak-ng, or letters where it is missing.

    Attributes:
        remark: why they are letters; empty where they are phonemes.
    """

    def __init__(self, words: Iterable[str], language: str) -> None:
        distinct = sorted(set(words))
        self.remark = ""
        voice = "en-us" if language.lower().startswith("en") else language
        try:
            with SpeechSynthesizer() as synthesizer:
                spoken = synthesizer.phonemes(distinct, voice=voice)
        except (AudioError, MachineError) as error:
            self.remark = f"sounds are judged by letters: {error.message}"
            spoken = [tuple(word) for word in distinct]
        size = _PIECE_LETTERS if self.remark else 2
        self._pairs = {
            word: _pieces(sounds, size) for word, sounds in zip(distinct, spoken, strict=True)
        }

    def pairs(self, word: str) -> tuple[str, ...]:
        """Each two phonemes of a word that follow each other, with its borders."""
        return self._pairs.get(word, ())


def _pieces(sounds: Sequence[str], size: int) -> tuple[str, ...]:
    if not sounds:
        return ()
    edged = ["|", *sounds, "|"]
    return tuple(" ".join(edged[n : n + size]) for n in range(max(len(edged) - size + 1, 1)))


def features_of(
    words: Sequence[str], wanted: Wanted, sounds: WordPhonemes, terms: Sequence[Sequence[str]]
) -> Counter[Feature]:
    """What is in a sentence, and how often.

    Args:
        words: of the sentence, in small letters.
        terms: the words of the terms of `wanted`, in the same order.
    """
    features: Counter[Feature] = Counter()
    present = set(words)
    for term, own in zip(wanted.terms, terms, strict=True):
        if present.issuperset(own) and (count := sum(1 for _ in occurrences(words, own))):
            features[TERM, term] += count
    for word in words:
        if word in wanted.missed:
            features[MISSED, word] += 1
        if word in wanted.unsure:
            features[UNSURE, word] += 1
        for pair in sounds.pairs(word):
            features[SOUND, pair] += 1
    return features


def weight_of(feature: Feature, wanted: Wanted) -> float:
    """What the first occurrence of a feature is worth."""
    kind, name = feature
    if kind == TERM:
        return _TERM_WEIGHT
    if kind == MISSED:
        missed, spoken = wanted.missed[name]
        return _MISSED_WEIGHT * missed / max(spoken, 1) * sqrt(min(missed, _MOST_COUNTED))
    if kind == UNSURE:
        return _UNSURE_WEIGHT * (1.0 - wanted.unsure[name])
    return _SOUND_WEIGHT


def term_words(wanted: Wanted) -> list[tuple[str, ...]]:
    """The words of each term."""
    return [plain_words(term) for term in wanted.terms]
