"""Case error rate: words that are right except for their capital letters.

Of the words that are equal in reference and hypothesis without case, the share that is written in
another case. Words that differ otherwise are errors of WER and do not count here.
"""

import unicodedata
from collections.abc import Callable, Sequence

from moonshine_tune.corpus.normalizers import normalizer_for
from moonshine_tune.corpus.punctuation import (
    WrittenText,
    align,
    equal_words,
    has_capital,
    has_marks,
    is_sentence,
)
from moonshine_tune.metrics.metric import Metric

# As for punctuation: with fewer, the references do not show where a capital belongs.
_MIN_SHARE = 0.5


def count(reference: str, hypothesis: str) -> tuple[float, float]:
    """Words in another case, and words that are equal without case."""
    first, second = WrittenText.of(reference), WrittenText.of(hypothesis)
    pairs = list(equal_words(first, second, align(first, second)))
    return sum(_letters(word) != _letters(written) for word, written in pairs), len(pairs)


def _letters(word: str) -> str:
    return "".join(filter(str.isalpha, unicodedata.normalize("NFKC", word)))


def not_scored(references: Sequence[str]) -> str:
    """Why references show nothing about case; empty where they do.

    In texts without punctuation a capital at the start is often the only one: names and `I` are
    written small, and a hypothesis that has them right would count as wrong.
    """
    share = _share(has_capital, references)
    if share < _MIN_SHARE:
        return f"{share:.0%} of the references have capital letters"
    capitals = 1 - _share(lambda text: any(map(str.islower, text)), references)
    if capitals > _MIN_SHARE:
        return f"{capitals:.0%} of the references are in capitals"
    if _share(has_marks, references) < _MIN_SHARE and not any(map(_has_name, references)):
        return "the references have capital letters at their start only"
    return ""


def _share(holds: Callable[[str], bool], references: Sequence[str]) -> float:
    return sum(map(holds, references)) / max(len(references), 1)


def _has_name(text: str) -> bool:
    """Whether a word after the first has a capital; a spelled letter does not count."""
    words = WrittenText.of(text).words[1:]
    if any(len(word) > 1 and has_capital(word) for word in words):
        return True
    return "I" in words and is_sentence(text, normalizer_for("basic-1"))


METRIC = Metric("case_error_rate", "%", "lower", count, normalized=False, not_scored=not_scored)
