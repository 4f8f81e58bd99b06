"""Case error rate: words that are right except for their capital letters.

Of the words that are equal in reference and hypothesis without case, the share that is written in
another case. Words that differ otherwise are errors of WER and do not count here.
"""

import unicodedata
from collections.abc import Sequence

from moonshine_tune.corpus.punctuation import WrittenText, align, equal_words, has_capital
from moonshine_tune.metrics.metric import Metric

# As for punctuation: with fewer, the references do not show where a capital belongs.
_MIN_SHARE = 0.5


def count(reference: str, hypothesis: str) -> tuple[float, float]:
    """Words in another case, and words that are equal without case."""
    first, second = WrittenText.of(reference), WrittenText.of(hypothesis)
    pairs = list(equal_words(first, second, align(first, second)))
    return sum(_letters(own) != _letters(other) for own, other in pairs), len(pairs)


def _letters(word: str) -> str:
    return "".join(filter(str.isalpha, unicodedata.normalize("NFKC", word)))


def not_scored(references: Sequence[str]) -> str:
    """Why references show nothing about case; empty where they do.

    Capitals at the start of a text, and single letters, are written in texts that have no names and
    no `I` in capitals, too.
    """
    share = sum(map(has_capital, references)) / max(len(references), 1)
    if share < _MIN_SHARE:
        return f"{share:.0%} of the references have capital letters"
    lower = sum(any(map(str.islower, text)) for text in references) / max(len(references), 1)
    if lower < _MIN_SHARE:
        return f"{1 - lower:.0%} of the references are in capitals"
    inner = [word for text in references for word in WrittenText.of(text).words[1:]]
    if not any((has_capital(word) and len(word) > 1) or word == "I" for word in inner):
        return "the references have capital letters at their start only"
    return ""


METRIC = Metric("case_error_rate", "%", "lower", count, normalized=False, not_scored=not_scored)
