"""Everyday English sentences, written for this package: general speech beside a domain.

A model that trains on one domain alone forgets general speech. These sentences have what a domain
may lack: names, questions, all tenses, numbers as digits.
"""

from functools import cache
from importlib import resources


@cache
def general_sentences() -> tuple[str, ...]:
    """About 120 distinct sentences of 6 to 25 words, cased and punctuated."""
    return _lines_of("general_en.txt")


@cache
def replay_sentences() -> tuple[str, ...]:
    """About 320 distinct sentences of 5 to 20 words, wide in words; none of `general_sentences`."""
    return _lines_of("replay_en.txt")


def _lines_of(name: str) -> tuple[str, ...]:
    source = resources.files("moonshine_tune.data.synthesis") / "sentences" / name
    lines = source.read_text(encoding="utf-8").splitlines()
    return tuple(line.strip() for line in lines if line.strip())
