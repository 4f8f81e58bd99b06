"""Key terms: words that the streaming runtime is told to listen for, and what that gives and costs.

A file of key terms is text: one term a line, in the spelling wanted in the transcript; empty lines
and lines that begin with `#` are left out.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moonshine_tune.core.errors import ProblemsError, RequestError
from moonshine_tune.corpus.normalizers import Normalizer

DEFAULT_BOOST = 2.0
# A word: letters, marks and digits, with what may stand inside one.
_WORD = re.compile(r"\w+(?:['’.\-&/]\w+)*")
_DIGITS = re.compile(r"\d[\d.,:/-]*")


@dataclass(frozen=True)
class ProposedTerm:
    """A word that the tokenizer has no piece of its own for: how often it was said, its pieces."""

    term: str
    count: int
    pieces: int


@dataclass(frozen=True)
class KeyTermScore:
    """How the listed terms fared.

    Attributes:
        terms: how many were listed.
        spoken: places in the references where a listed term was said.
        recalled: of those, how many the transcripts have.
        false_alarms: places in the transcripts where a listed term was not said.
        heard_words: words of all transcripts.
    """

    terms: int
    spoken: int
    recalled: int
    false_alarms: int
    heard_words: int

    @property
    def recall(self) -> float | None:
        """Percent of the spoken terms that were heard; None where none was spoken."""
        return 100.0 * self.recalled / self.spoken if self.spoken else None

    @property
    def false_alarms_per_1000(self) -> float:
        """False alarms in 1,000 words heard."""
        return 1000.0 * self.false_alarms / max(self.heard_words, 1)

    def to_record(self) -> dict[str, Any]:
        """The JSON object."""
        return {
            "terms": self.terms,
            "spoken": self.spoken,
            "recalled": self.recalled,
            "recall": None if self.recall is None else round(self.recall, 2),
            "false_alarms": self.false_alarms,
            "false_alarms_per_1000_words": round(self.false_alarms_per_1000, 3),
        }


def read_key_terms(path: Path) -> tuple[str, ...]:
    """The terms of a file, each once, in its order.

    Raises:
        RequestError: no such file, not text, or no term in it.
        ProblemsError: terms with a comma, which separates terms in the runtime; lists all.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise RequestError("no such file of key terms", where=path) from error
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"key terms cannot be read: {error}", where=path) from error
    terms: dict[str, None] = {}
    problems = []
    for number, line in enumerate(lines, start=1):
        term = " ".join(line.split())
        if not term or term.startswith("#"):
            continue
        if "," in term:
            problems.append(f"{path}:{number}: {term!r}: one term a line, without a comma")
        terms[term] = None
    if problems:
        raise ProblemsError(f"{len(problems)} lines are no key terms", problems)
    if not terms:
        raise RequestError(
            "no key term in the file",
            where=path,
            hint="one a line; `moonshine-tune data keyterms train.jsonl` proposes some",
        )
    return tuple(terms)


def propose_key_terms(
    texts: Iterable[str], pieces_of: Callable[[str], int], *, at_most: int = 100, least: int = 1
) -> tuple[ProposedTerm, ...]:
    """Words that the tokenizer spells in several pieces, the most frequent first.

    Such words are the ones that a model seldom says by itself; one piece of its own means that it
    is common. Numbers are left out. A word is proposed in its most frequent spelling.

    Args:
        pieces_of: how many tokens a text has.
        least: fewest times that a word must occur.
    """
    spellings: dict[str, Counter[str]] = {}
    for text in texts:
        for word in _WORD.findall(text):
            if not _DIGITS.fullmatch(word):
                spellings.setdefault(word.casefold(), Counter())[word] += 1
    found = []
    for folded, counted in spellings.items():
        count = counted.total()
        if count < least or len(folded) < 2:
            continue
        # A capital that only the start of a sentence gave must not make a common word rare.
        pieces = min(pieces_of(word) for word in {folded, *counted})
        if pieces > 1:
            found.append(ProposedTerm(counted.most_common(1)[0][0], count, pieces))
    found.sort(key=lambda term: (-term.count, -term.pieces, term.term))
    return tuple(found[:at_most])


def score_key_terms(
    terms: Sequence[str],
    references: Sequence[str],
    hypotheses: Sequence[str],
    normalizer: Normalizer,
) -> KeyTermScore:
    """Count listed terms in references and transcripts, whole words only, after normalization."""
    listed = {tuple(normalizer(term).split()) for term in terms} - {()}
    spoken = recalled = false_alarms = heard_words = 0
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        said, heard = normalizer(reference).split(), normalizer(hypothesis).split()
        heard_words += len(heard)
        for term in listed:
            wanted, found = _occurrences(said, term), _occurrences(heard, term)
            spoken += wanted
            recalled += min(wanted, found)
            false_alarms += max(found - wanted, 0)
    return KeyTermScore(len(terms), spoken, recalled, false_alarms, heard_words)


def _occurrences(words: Sequence[str], term: tuple[str, ...]) -> int:
    """How often the term's words stand in a row; places do not overlap."""
    count = place = 0
    while place + len(term) <= len(words):
        if tuple(words[place : place + len(term)]) == term:
            count += 1
            place += len(term)
        else:
            place += 1
    return count
