"""Named, versioned text normalizers. Every score names its normalizer.

`english-1`: hyphens become spaces (`P-i-t-t-s` is five words, `twenty-one` is `twenty one`), then
the English normalizer published with Whisper (package `whisper-normalizer`): case, punctuation,
contractions, spelling variants, and numbers as digits.

`basic-1`: for every other language: Unicode NFKC, lower case; hyphens, punctuation and symbols
become spaces; marks that belong to letters stay; digits of every script are those of ASCII.

In all of them an apostrophe inside a word is one whatever key typed it: `don’t` is `don't`.

`spelled-1`: the same as `basic-1`, for English where the spelling of numbers matters: `four six
two` and `462` differ.
"""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from moonshine_tune.core.errors import RequestError

_HYPHENS = re.compile(r"(?<=\w)[-‐‑–](?=\w)")
_ELLIPSIS = re.compile(r"…|\.{2,}")
_SPACES = re.compile(r"\s+")
# Between letters these are apostrophes; `5′4` and a lone accent are not.
_APOSTROPHES = re.compile(r"(?<=[^\W\d_])[’‘ʼʹ′´`＇](?=[^\W\d_])")
# Stretches a word of Arabic script on the page, and is no letter.
_TATWEEL = "\u0640"


@dataclass(frozen=True)
class Normalizer:
    """A named text normalizer. Call it with a text."""

    name: str
    function: Callable[[str], str]

    def __call__(self, text: str) -> str:
        """The normalized text, single spaces, no space at the ends."""
        return self.function(text)


def split_hyphens(text: str) -> str:
    """The text with hyphens inside words turned into spaces."""
    return _HYPHENS.sub(" ", text)


def _basic(text: str) -> str:
    # Before NFKC, which makes an accent of `´` and a space.
    text = _APOSTROPHES.sub("'", split_hyphens(text))
    text = unicodedata.normalize("NFKC", text).lower().replace(_TATWEEL, "")
    # An apostrophe inside a word belongs to it: "don't" stays one word in every language.
    text = re.sub(r"(?<=\w)['’](?=\w)", "\u02bc", text)
    kept = map(_kept_character, text)
    return _SPACES.sub(" ", "".join(kept)).strip().replace("\u02bc", "'")


def _kept_character(character: str) -> str:
    digit = unicodedata.decimal(character, None)
    if digit is not None:
        return str(digit)
    return character if unicodedata.category(character)[0] in "LMN" else " "


@cache
def _whisper_english() -> Callable[[str], str]:
    from whisper_normalizer.english import EnglishTextNormalizer

    normalizer: Callable[[str], str] = EnglishTextNormalizer()
    return normalizer


def _english(text: str) -> str:
    # Whisper's normalizer leaves a lone period of an ellipsis, which would count as a word.
    text = _APOSTROPHES.sub("'", _ELLIPSIS.sub(" ", split_hyphens(text)))
    return _SPACES.sub(" ", _whisper_english()(text)).strip()


NORMALIZERS: dict[str, Normalizer] = {
    "english-1": Normalizer("english-1", _english),
    "basic-1": Normalizer("basic-1", _basic),
    "spelled-1": Normalizer("spelled-1", _basic),
}


def normalizer_for(name: str | None, language: str = "en") -> Normalizer:
    """The normalizer of that name; without a name, the default of the language.

    Raises:
        RequestError: no normalizer has that name.
    """
    chosen = name or ("english-1" if language.lower().startswith("en") else "basic-1")
    if chosen not in NORMALIZERS:
        raise RequestError(
            f"no normalizer is called {chosen!r}", hint=f"one of: {', '.join(NORMALIZERS)}"
        )
    return NORMALIZERS[chosen]
