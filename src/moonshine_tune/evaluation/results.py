"""An evaluation: its figures, the files it is written to, and what is read again of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import write_json_atomic, write_jsonl_atomic
from moonshine_tune.corpus.manifest import Manifest
from moonshine_tune.evaluation.arms import KeyTermsTable, comparison_record
from moonshine_tune.metrics.wer import (
    PairedComparison,
    Score,
    ScoredUtterance,
)
from moonshine_tune.runs.summary import read_scored

RESULT_FILE, HYPOTHESES_FILE = "result.json", "hypotheses.jsonl"
CONDITIONS_FILE = "conditions.jsonl"


@dataclass(frozen=True)
class ConditionScore:
    """The manifest under one condition.

    Attributes:
        noise: group of noises, `clean` or `room`.
        snr_db: None without noise.
        base: the base model's score under the same condition, where it was scored.
    """

    noise: str
    snr_db: float | None
    score: Score
    scored: tuple[ScoredUtterance, ...]
    base: Score | None
    comparison: PairedComparison | None

    def to_record(self) -> dict[str, Any]:
        """As JSON data."""
        record: dict[str, Any] = {
            "noise": self.noise,
            "snr_db": self.snr_db,
            "wer": round(self.score.wer, 4),
            "ci95": [round(value, 4) for value in self.score.ci95],
            "utterances": self.score.utterances,
        }
        if self.base is not None:
            record["base"] = {"wer": round(self.base.wer, 4), "ci95": list(self.base.ci95)}
        if self.comparison is not None:
            record["comparison"] = comparison_record(self.comparison)
        return record


@dataclass(frozen=True)
class Evaluation:
    """A scored manifest."""

    score: Score
    scored: tuple[ScoredUtterance, ...]
    audio_seconds: float
    seconds: float
    normalizer: str
    backend: str
    model: str
    adapter: str | None
    manifest_sha256: str
    base: Score | None = None
    comparison: PairedComparison | None = None
    remarks: tuple[str, ...] = ()
    conditions: tuple[ConditionScore, ...] = ()
    keyterms: KeyTermsTable | None = None

    def to_record(self) -> dict[str, Any]:
        """The JSON document of `evaluate`."""
        words = self.score.words
        record: dict[str, Any] = {
            "wer": round(self.score.wer, 4),
            "cer": round(self.score.cer, 4),
            "substitutions": words.substitutions,
            "deletions": words.deletions,
            "insertions": words.insertions,
            "reference_words": words.reference,
            "utterances": self.score.utterances,
            "audio_seconds": round(self.audio_seconds, 2),
            "seconds": round(self.seconds, 2),
            "rtf": round(self.seconds / self.audio_seconds, 5) if self.audio_seconds else 0.0,
            "normalizer": self.normalizer,
            "ci95": [round(value, 4) for value in self.score.ci95],
            "backend": self.backend,
            "model": self.model,
            "adapter": self.adapter,
            "manifest_sha256": self.manifest_sha256,
            "by_speaker": {name: round(wer, 4) for name, wer in self.score.by_speaker.items()},
            "worst": [item.to_record() for item in self.score.worst],
        }
        if self.base is not None:
            record["base"] = {"wer": round(self.base.wer, 4), "ci95": list(self.base.ci95)}
        if self.comparison is not None:
            record["comparison"] = comparison_record(self.comparison)
        if self.conditions:
            record["conditions"] = [item.to_record() for item in self.conditions]
        if self.keyterms is not None:
            record["keyterms"] = self.keyterms.to_record()
        if self.remarks:
            record["remarks"] = list(self.remarks)
        return record


def write_evaluation(out: Path, evaluation: Evaluation) -> None:
    """Write result.json and, beside it, a line for each utterance (and condition)."""
    heard = [
        {"noise": one.noise, "snr_db": one.snr_db, **item.to_record()}
        for one in evaluation.conditions
        for item in one.scored
    ]
    if heard:
        write_jsonl_atomic(out / CONDITIONS_FILE, heard)
    write_jsonl_atomic(out / HYPOTHESES_FILE, [item.to_record() for item in evaluation.scored])
    write_json_atomic(out / RESULT_FILE, evaluation.to_record())


def earlier_evaluation(folder: Path, manifest: Manifest) -> tuple[ScoredUtterance, ...]:
    """The utterances of an earlier evaluation, which must be of the same manifest."""
    path = folder / HYPOTHESES_FILE
    if not path.is_file():
        raise RequestError(
            "no earlier evaluation here",
            where=folder,
            hint="name the --out folder of an earlier `moonshine-tune evaluate`",
        )
    scored = read_scored(path)
    if {item.id for item in scored} != {item.id for item in manifest.utterances}:
        raise RequestError(
            "the earlier evaluation is of other utterances",
            where=folder,
            hint="compare evaluations of the same manifest",
        )
    return scored
