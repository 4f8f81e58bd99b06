"""Whether something is an English word: a list from the Debian packages wamerican and wbritish.

They are made from SCOWL, with American and British spellings, inflections and common names. The
notice lies beside the list, in `words/english.copyright.txt`.
"""

import gzip
import re
from functools import cache
from importlib import resources

_ENDINGS = ("s", "es", "ed", "er", "ers", "ing", "ly")
_LEAST_STEM = 3
_POSSESSIVE = re.compile(r"['’]s?$")


@cache
def english_words() -> frozenset[str]:
    """About 75,000 words in small letters, without possessives."""
    packed = resources.files("moonshine_tune.corpus") / "words" / "english.txt.gz"
    return frozenset(gzip.decompress(packed.read_bytes()).decode("utf-8").split())


def is_english_word(word: str) -> bool:
    """Whether a word, in any case, is in the list, or a possessive, contraction or inflection."""
    plain = word.lower().replace("’", "'")
    known = english_words()
    if plain in known or _POSSESSIVE.sub("", plain) in known:
        return True
    stem, apostrophe, _ = plain.partition("'")
    if apostrophe:
        return stem in known
    # The list has common inflections only, and of names none.
    stems = (plain.removesuffix(ending) for ending in _ENDINGS if plain.endswith(ending))
    return any(
        len(stem) >= _LEAST_STEM and (stem in known or f"{stem}e" in known) for stem in stems
    )
