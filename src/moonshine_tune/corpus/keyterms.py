"""Key terms: words that the streaming runtime is biased towards; their recall and false alarms.

A file of key terms is text with one term per line, in the spelling wanted in the transcript. After
a tab may follow how a synthesizer speaks it. Empty lines and lines that start with `#` are ignored.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moonshine_tune.core.errors import ProblemsError, RequestError
from moonshine_tune.corpus.normalizers import Normalizer
from moonshine_tune.corpus.spoken_lines import SpokenLine, read_spoken_lines

DEFAULT_BOOST = 2.0
# A word: letters, marks and digits, with punctuation inside.
_WORD = re.compile(r"\w+(?:['’.\-&/]\w+)*")
_DIGITS = re.compile(r"\d[\d.,:/-]*")


@dataclass(frozen=True)
class ProposedTerm:
    """A word that the tokenizer splits, or that was corrected.

    Attributes:
        count: occurrences.
        pieces: tokens; None where no tokenizer was asked.
        missed: how many of the occurrences a person had to correct; None without corrections.
    """

    term: str
    count: int
    pieces: int | None = None
    missed: int | None = None


@dataclass(frozen=True)
class KeyTermScore:
    """Recall and false alarms of the listed terms.

    Attributes:
        terms: number of listed terms.
        spoken: occurrences of listed terms in the references.
        recalled: how many of them are in the hypotheses.
        false_alarms: further occurrences in the hypotheses.
        hypothesis_words: words of all hypotheses.
    """

    terms: int
    spoken: int
    recalled: int
    false_alarms: int
    hypothesis_words: int

    @property
    def recall(self) -> float | None:
        """Percent of the spoken terms that were recognized; None where none was spoken."""
        return 100.0 * self.recalled / self.spoken if self.spoken else None

    @property
    def false_alarms_per_1000(self) -> float:
        """False alarms per 1,000 words of the hypotheses."""
        return 1000.0 * self.false_alarms / max(self.hypothesis_words, 1)

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

    Raises: as of `read_spoken_terms`.
    """
    return tuple(dict.fromkeys(item.text for item in read_spoken_terms(path)))


def read_spoken_terms(path: Path) -> tuple[SpokenLine, ...]:
    """The terms of a file with the forms in which a synthesizer speaks them, in its order.

    Raises:
        RequestError: no such file, not text, or no term in it.
        ProblemsError: terms with a comma, which separates terms in the runtime; all are listed.
    """
    terms = read_spoken_lines(path, "key terms", comments=True)
    problems = [
        f"{path}:{item.line}: {item.text!r}: write one term per line, without a comma"
        for item in terms
        if "," in item.text
    ]
    if problems:
        raise ProblemsError(f"{len(problems)} lines are not key terms", problems)
    if not terms:
        raise RequestError(
            "no key term in the file",
            where=path,
            hint="write one per line; `moonshine-tune data keyterms train.jsonl` proposes some",
        )
    return terms


def words_of(text: str) -> list[str]:
    """The words of a text as they are spelled, without numbers."""
    return [word for word in _WORD.findall(text) if not _DIGITS.fullmatch(word)]


def propose_key_terms(
    texts: Iterable[str], pieces_of: Callable[[str], int], *, at_most: int = 100, least: int = 1
) -> tuple[ProposedTerm, ...]:
    """Words that the tokenizer splits into several pieces, the most frequent first.

    A word with a token of its own is common, and a model rarely misses it. Numbers are left out.
    A word is proposed in its most frequent spelling.

    Args:
        pieces_of: number of tokens of a text.
        at_most: maximum number of terms.
        least: minimum number of occurrences of a word.
    """
    spellings: dict[str, Counter[str]] = {}
    for text in texts:
        for word in words_of(text):
            spellings.setdefault(word.casefold(), Counter())[word] += 1
    proposed = []
    for folded, counts in spellings.items():
        count = counts.total()
        if count < least or len(folded) < 2:
            continue
        # A common word is not rare because it starts a sentence with a capital.
        pieces = min(pieces_of(word) for word in {folded, *counts})
        if pieces > 1:
            proposed.append(ProposedTerm(counts.most_common(1)[0][0], count, pieces))
    proposed.sort(key=lambda term: (-term.count, -(term.pieces or 0), term.term))
    return tuple(proposed[:at_most])


def score_key_terms(
    terms: Sequence[str],
    references: Sequence[str],
    hypotheses: Sequence[str],
    normalizer: Normalizer,
) -> KeyTermScore:
    """Count listed terms in references and hypotheses: whole words only, after normalization."""
    listed = {tuple(normalizer(term).split()) for term in terms} - {()}
    spoken = recalled = false_alarms = hypothesis_words = 0
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        reference_words, words = normalizer(reference).split(), normalizer(hypothesis).split()
        hypothesis_words += len(words)
        for term in listed:
            expected, recognized = _occurrences(reference_words, term), _occurrences(words, term)
            spoken += expected
            recalled += min(expected, recognized)
            false_alarms += max(recognized - expected, 0)
    return KeyTermScore(len(terms), spoken, recalled, false_alarms, hypothesis_words)


def _occurrences(words: Sequence[str], term: tuple[str, ...]) -> int:
    """Non-overlapping occurrences of the term's words in sequence."""
    count = index = 0
    while index + len(term) <= len(words):
        if tuple(words[index : index + len(term)]) == term:
            count += 1
            index += len(term)
        else:
            index += 1
    return count
