"""Error counts, WER and CER with intervals. Counts come first and are divided once, at the end.

Alignment is jiwer's (Levenshtein, equal costs). A reference that is empty after normalization is
legal: every word of its hypothesis is made up. Such utterances are counted apart, because a share
of zero words is none: one cough without a transcript could add points to a WER.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jiwer

from moonshine_tune.core.statistics import bootstrap_interval
from moonshine_tune.corpus.manifest import Utterance
from moonshine_tune.corpus.normalizers import Normalizer

_COUNTS = ("substitutions", "deletions", "insertions", "reference_words",
           "character_errors", "reference_characters")  # fmt: skip


@dataclass(frozen=True)
class ErrorCounts:
    """Substitutions, deletions and insertions against `reference` units (words or characters)."""

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    reference: int = 0

    @property
    def errors(self) -> int:
        """All errors."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Errors in percent of the reference units, of at least one: silence can have errors."""
        return 100.0 * self.errors / max(self.reference, 1)

    def __add__(self, added: "ErrorCounts") -> "ErrorCounts":
        return ErrorCounts(
            self.substitutions + added.substitutions,
            self.deletions + added.deletions,
            self.insertions + added.insertions,
            self.reference + added.reference,
        )


@dataclass(frozen=True)
class ScoredUtterance:
    """One utterance: reference and hypothesis as they are, error counts after normalization.

    Attributes:
        recording: fingerprint of its sound; None where that is not known.
    """

    id: str
    reference: str
    hypothesis: str
    words: ErrorCounts
    characters: ErrorCounts
    speaker: str | None = None
    seconds: float | None = None
    recording: str | None = None

    @property
    def is_empty(self) -> bool:
        """Whether the reference has no word after normalization."""
        return self.words.reference == 0

    def to_record(self) -> dict[str, Any]:
        """The line of `hypotheses.jsonl`."""
        texts = {"id": self.id, "reference": self.reference, "hypothesis": self.hypothesis}
        words, characters = self.words, self.characters
        counts = (words.substitutions, words.deletions, words.insertions, words.reference,
                  characters.errors, characters.reference)  # fmt: skip
        known: dict[str, Any] = {"speaker": self.speaker} if self.speaker else {}
        if self.seconds is not None:
            known["seconds"] = round(self.seconds, 3)
        if self.recording is not None:
            known["recording"] = self.recording
        return texts | dict(zip(_COUNTS, counts, strict=True)) | known

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "ScoredUtterance":
        """Read what `to_record` wrote.

        Raises:
            TypeError, KeyError, ValueError: a field is missing or of the wrong kind.
        """
        texts = record["id"], record["reference"], record["hypothesis"]
        counts = [record[name] for name in _COUNTS]
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("texts must be strings")
        if not all(isinstance(count, int) and 0 <= count < 1 << 40 for count in counts):
            raise ValueError("counts must be whole numbers")
        substitutions, deletions, insertions, words, character_errors, characters = counts
        speaker, seconds = record.get("speaker"), record.get("seconds")
        recording = record.get("recording")
        return cls(
            *texts,
            words=ErrorCounts(substitutions, deletions, insertions, words),
            characters=ErrorCounts(substitutions=character_errors, reference=characters),
            speaker=speaker if isinstance(speaker, str) else None,
            seconds=float(seconds) if isinstance(seconds, int | float) else None,
            recording=recording if isinstance(recording, str) else None,
        )


@dataclass(frozen=True)
class EmptyReferences:
    """Utterances without a reference word: silence, noise, or fillers that a normalizer drops.

    Attributes:
        made_up_words: words of their hypotheses.
        seconds: of their audio; None where that is not known.
    """

    utterances: int
    made_up_words: int
    seconds: float | None

    @property
    def made_up_per_minute(self) -> float | None:
        """Made-up words in a minute of such audio; None where its length is not known."""
        return 60 * self.made_up_words / self.seconds if self.seconds else None

    @classmethod
    def of(cls, scored: Sequence[ScoredUtterance]) -> "EmptyReferences":
        """Those of a set."""
        empty = [item for item in scored if item.is_empty]
        lengths = [item.seconds for item in empty if item.seconds is not None]
        return cls(
            len(empty),
            sum(item.words.insertions for item in empty),
            sum(lengths) if empty and len(lengths) == len(empty) else None,
        )

    def to_record(self) -> dict[str, Any]:
        """The JSON object."""
        per_minute = self.made_up_per_minute
        return {
            "utterances": self.utterances,
            "made_up_words": self.made_up_words,
            "seconds": None if self.seconds is None else round(self.seconds, 2),
            "made_up_per_minute": None if per_minute is None else round(per_minute, 2),
        }


@dataclass(frozen=True)
class Score:
    """The score of a set of utterances. Rates in percent; `ci95` is the interval of the WER.

    Attributes:
        wer, cer, words, ci95, by_speaker: of the utterances with reference words. Without any,
            the rates are 0 and `words.reference` is 0.
        utterances: all of them.
        empty: those without reference words.
    """

    wer: float
    cer: float
    words: ErrorCounts
    ci95: tuple[float, float]
    utterances: int
    by_speaker: dict[str, float]
    worst: tuple[ScoredUtterance, ...]
    empty: EmptyReferences = EmptyReferences(0, 0, None)

    @property
    def has_wer(self) -> bool:
        """Whether there is anything to divide by: a set of noise has no WER."""
        return self.words.reference > 0 or not self.empty.utterances

    def to_record(self) -> dict[str, Any]:
        """WER and its interval, as every JSON document has them; null where there is none."""
        if not self.has_wer:
            return {"wer": None, "ci95": None}
        return {"wer": round(self.wer, 4), "ci95": rounded(self.ci95)}


@dataclass(frozen=True)
class PairedComparison:
    """Two systems on the same utterances. Points are `after - before` of WER, so below 0 is better.

    `verdict` is `better`, `worse` or `no difference shown`, by the 95 % interval of the difference.
    """

    before: float
    after: float
    difference: float
    ci95: tuple[float, float]
    verdict: str

    @property
    def relative_change(self) -> float:
        """Change in percent of the WER before; 0 where that was 0."""
        return 100.0 * self.difference / self.before if self.before else 0.0

    def to_record(self) -> dict[str, Any]:
        """The JSON object."""
        return {
            "before": round(self.before, 4),
            "after": round(self.after, 4),
            "difference": round(self.difference, 4),
            "ci95": rounded(self.ci95),
            "relative_change": round(self.relative_change, 2),
            "verdict": self.verdict,
        }


def rounded(interval: tuple[float, float] | None) -> list[float] | None:
    """An interval as JSON data; None where there is none."""
    return interval and [round(end, 4) for end in interval]


def score_utterance(
    utterance_id: str,
    reference: str,
    hypothesis: str,
    normalizer: Normalizer,
    *,
    speaker: str | None = None,
    seconds: float | None = None,
) -> ScoredUtterance:
    """Count the errors of one hypothesis after normalization of both sides."""
    normalized = normalizer(reference), normalizer(hypothesis)
    return ScoredUtterance(
        id=utterance_id,
        reference=reference,
        hypothesis=hypothesis,
        words=_count(*normalized, str.split, jiwer.process_words),
        characters=_count(*normalized, str, jiwer.process_characters),
        speaker=speaker,
        seconds=seconds,
    )


def score_utterances(
    utterances: Sequence[Utterance],
    texts: Sequence[str],
    normalizer: Normalizer,
    *,
    seconds: Sequence[float] | None = None,
    recordings: Mapping[str, str] | None = None,
) -> tuple[ScoredUtterance, ...]:
    """Score the hypothesis of each utterance.

    Args:
        seconds: length of each; without it, as the manifest has it.
        recordings: fingerprints of the sound by id, as far as they are known.
    """
    lengths = [item.known_seconds for item in utterances] if seconds is None else seconds
    scored = (
        score_utterance(
            item.id, item.reference, text, normalizer, speaker=item.speaker, seconds=length
        )
        for item, text, length in zip(utterances, texts, lengths, strict=True)
    )
    known = recordings or {}
    return tuple(replace(item, recording=known.get(item.id)) for item in scored)


def _count(
    reference: str,
    hypothesis: str,
    units: Callable[[str], Sequence[str]],
    align: Callable[[str, str], "jiwer.WordOutput | jiwer.CharacterOutput"],
) -> ErrorCounts:
    if not reference:
        return ErrorCounts(insertions=len(units(hypothesis)))
    output = align(reference, hypothesis)
    return ErrorCounts(
        substitutions=output.substitutions,
        deletions=output.deletions,
        insertions=output.insertions,
        reference=output.hits + output.substitutions + output.deletions,
    )


def summarize(scored: Sequence[ScoredUtterance], *, num_worst: int = 10) -> Score:
    """Corpus score: counts are added up and divided once. Never an average of WERs."""
    with_words = [item for item in scored if not item.is_empty]
    words = _total_words(with_words)
    speakers = sorted({item.speaker for item in with_words if item.speaker})
    worst = sorted(scored, key=lambda item: (-item.words.errors, -item.words.rate, item.id))
    return Score(
        wer=words.rate,
        cer=sum((item.characters for item in with_words), ErrorCounts()).rate,
        words=words,
        ci95=_interval([(item.words.errors, item.words.reference) for item in with_words]),
        utterances=len(scored),
        by_speaker={
            speaker: _total_words(item for item in with_words if item.speaker == speaker).rate
            for speaker in speakers
        },
        worst=tuple(item for item in worst[:num_worst] if item.words.errors),
        empty=EmptyReferences.of(scored),
    )


def _total_words(scored: Iterable[ScoredUtterance]) -> ErrorCounts:
    return sum((item.words for item in scored), ErrorCounts())


def _rate(pairs: Sequence[tuple[int, int]]) -> float:
    """100 · Σ first ÷ Σ second."""
    return 100.0 * sum(pair[0] for pair in pairs) / max(sum(pair[1] for pair in pairs), 1)


def _interval(pairs: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """95 % interval of `_rate` over utterances."""
    return bootstrap_interval(pairs, _rate) if pairs else (0.0, 0.0)


def compare_paired(
    before: Sequence[ScoredUtterance], after: Sequence[ScoredUtterance]
) -> PairedComparison:
    """Paired bootstrap over utterances with reference words that both systems transcribed.

    Raises:
        ValueError: the two do not hold the same utterances, or not with the same references:
            `metrics.alike` makes two results comparable.
    """
    second = {item.id: item for item in after}
    if {item.id for item in before} != set(second):
        raise ValueError("a paired comparison needs the same utterances on both sides")
    if any(item.words.reference != second[item.id].words.reference for item in before):
        raise ValueError("a paired comparison needs the same references on both sides")
    with_words = [item for item in before if not item.is_empty]
    pairs = [
        (second[item.id].words.errors - item.words.errors, item.words.reference)
        for item in with_words
    ]
    first_wer = _total_words(with_words).rate
    second_wer = _total_words(second[item.id] for item in with_words).rate
    return _compared(first_wer, second_wer, _rate(pairs), _interval(pairs))


Pair = tuple[Sequence[ScoredUtterance], Sequence[ScoredUtterance]]


def compare_changes(first: Pair, second: Pair) -> PairedComparison:
    """How much more the second pair of systems changes the WER than the first pair does.

    `before` and `after` are the changes of both, from the first to the second system of each, in
    points; the interval of their difference is a paired bootstrap over utterances with reference
    words.

    Raises:
        ValueError: the four do not hold the same utterances with the same references.
    """
    sides = [{item.id: item.words for item in side} for side in (*first, *second)]
    references = [{name: words.reference for name, words in side.items()} for side in sides]
    if any(side != references[0] for side in references):
        raise ValueError("a comparison of changes needs the same utterances with their references")
    counted = {name: words for name, words in references[0].items() if words}
    changes = [
        [(after[name].errors - before[name].errors, words) for name, words in counted.items()]
        for before, after in (sides[:2], sides[2:])
    ]
    pairs = [(b - a, words) for (a, words), (b, _) in zip(*changes, strict=True)]
    before, after = _rate(changes[0]), _rate(changes[1])
    return _compared(before, after, _rate(pairs), _interval(pairs))


def compare_rates(
    before: Sequence[ScoredUtterance], after: Sequence[ScoredUtterance]
) -> PairedComparison:
    """Two rates of the same utterances against references that may differ; paired by utterance.

    Utterances without a reference word count too: with the words that are made up there.

    Raises:
        ValueError: the two do not hold the same utterances.
    """
    second = {item.id: item.words for item in after}
    if {item.id for item in before} != set(second):
        raise ValueError("a paired comparison needs the same utterances on both sides")
    counts = [
        (item.words.errors, item.words.reference, words.errors, words.reference)
        for item in before
        for words in (second[item.id],)
    ]

    def rates(drawn: Sequence[tuple[int, int, int, int]]) -> tuple[float, float]:
        errors, words, later_errors, later_words = map(sum, zip(*drawn, strict=True))
        return 100.0 * errors / max(words, 1), 100.0 * later_errors / max(later_words, 1)

    def difference(drawn: Sequence[tuple[int, int, int, int]]) -> float:
        first_rate, second_rate = rates(drawn)
        return second_rate - first_rate

    if not counts:
        return _compared(0.0, 0.0, 0.0, (0.0, 0.0))
    return _compared(*rates(counts), difference(counts), bootstrap_interval(counts, difference))


def _compared(
    before: float, after: float, difference: float, ci95: tuple[float, float]
) -> PairedComparison:
    low, high = ci95
    verdict = "better" if high < 0 else "worse" if low > 0 else "no difference shown"
    return PairedComparison(before, after, difference, ci95, verdict)
