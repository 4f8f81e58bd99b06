"""An evaluation: its figures, and the files that hold them."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import write_json_atomic, write_jsonl_atomic
from moonshine_tune.corpus.keyterms import KeyTermScore, score_key_terms
from moonshine_tune.corpus.manifest import Manifest
from moonshine_tune.corpus.normalizers import Normalizer, normalizer_for
from moonshine_tune.evaluation.noise_conditions import Condition
from moonshine_tune.metrics.metric import MetricScore
from moonshine_tune.metrics.wer import (
    PairedComparison,
    Score,
    ScoredUtterance,
    compare_paired,
    summarize,
)
from moonshine_tune.runs.records import EvaluationRecord
from moonshine_tune.runs.summary import read_scored

RESULT_FILE, HYPOTHESES_FILE = "result.json", "hypotheses.jsonl"
CONDITIONS_FILE = "conditions.jsonl"
Scored = tuple[ScoredUtterance, ...]


@dataclass(frozen=True)
class ConditionScore:
    """The evaluation of the manifest under one condition."""

    condition: Condition
    evaluation: "Evaluation"

    def to_record(self) -> dict[str, Any]:
        """The JSON object."""
        score = self.evaluation.score
        return {
            **self.condition.to_record(),
            **score.to_record(),
            "utterances": score.utterances,
            **self.evaluation.comparison_record(),
        }


@dataclass(frozen=True)
class KeyTermVariant:
    """One variant: its WER, the listed terms, and the change from the first variant."""

    name: str
    score: Score
    terms: KeyTermScore
    change: PairedComparison

    def to_record(self) -> dict[str, Any]:
        """The JSON object."""
        return {
            "arm": self.name,
            **self.score.to_record(),
            **self.terms.to_record(),
            "change": self.change.to_record(),
        }


@dataclass(frozen=True)
class KeyTermTable:
    """The variants side by side: base, adapter, key terms, and both."""

    terms: tuple[str, ...]
    boost: float
    variants: tuple[KeyTermVariant, ...]

    def to_record(self) -> dict[str, Any]:
        """The JSON object."""
        return {
            "boost": self.boost,
            "terms": len(self.terms),
            "arms": [variant.to_record() for variant in self.variants],
        }


@dataclass(frozen=True)
class Evaluation:
    """A scored manifest; `base` and `comparison` are of the model that it is compared with."""

    score: Score
    scored: Scored
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
    keyterms: KeyTermTable | None = None
    metrics: tuple[MetricScore, ...] = ()
    base_metrics: tuple[MetricScore, ...] = ()

    def compared_with(self, before: Scored) -> "Evaluation":
        """This evaluation with its change from another one of the same utterances."""
        normalizer = normalizer_for(self.normalizer)
        return replace(
            self,
            base=summarize(before),
            comparison=compare_paired(before, self.scored),
            base_metrics=tuple(item.metric.score(before, normalizer) for item in self.metrics),
        )

    def comparison_record(self) -> dict[str, Any]:
        """The parts `base` and `comparison` of the JSON document, where there are any."""
        record: dict[str, Any] = {}
        if self.base is not None:
            record["base"] = self.base.to_record()
        if self.comparison is not None:
            record["comparison"] = self.comparison.to_record()
        return record

    def to_record(self) -> dict[str, Any]:
        """The JSON document of `evaluate`."""
        words = self.score.words
        main = self.score.to_record()
        record: dict[str, Any] = {
            "wer": main["wer"],
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
            "ci95": main["ci95"],
            "backend": self.backend,
            "model": self.model,
            "adapter": self.adapter,
            "manifest_sha256": self.manifest_sha256,
            "by_speaker": {name: round(wer, 4) for name, wer in self.score.by_speaker.items()},
            "worst": [item.to_record() for item in self.score.worst],
            **self.comparison_record(),
        }
        if self.metrics:
            record["metrics"] = {item.metric.name: item.to_record() for item in self.metrics}
        for item in self.base_metrics:
            record["metrics"][item.metric.name]["base"] = item.to_record()["value"]
        if self.conditions:
            record["conditions"] = [item.to_record() for item in self.conditions]
        if self.keyterms is not None:
            record["keyterms"] = self.keyterms.to_record()
        if self.remarks:
            record["remarks"] = list(self.remarks)
        return EvaluationRecord.model_validate(record).to_json()


def count_key_terms(terms: tuple[str, ...], scored: Scored, normalizer: Normalizer) -> KeyTermScore:
    """Count the listed terms in references and hypotheses."""
    references = [item.reference for item in scored]
    return score_key_terms(terms, references, [item.hypothesis for item in scored], normalizer)


def write_evaluation(out: Path, evaluation: Evaluation) -> None:
    """Write result.json and, beside it, one line per utterance (and condition)."""
    lines = [
        {**item.condition.to_record(), **utterance.to_record()}
        for item in evaluation.conditions
        for utterance in item.evaluation.scored
    ]
    if lines:
        write_jsonl_atomic(out / CONDITIONS_FILE, lines)
    write_jsonl_atomic(out / HYPOTHESES_FILE, [item.to_record() for item in evaluation.scored])
    write_json_atomic(out / RESULT_FILE, evaluation.to_record())


def earlier_evaluation(folder: Path, manifest: Manifest) -> Scored:
    """The utterances of an earlier evaluation.

    Raises:
        RequestError: the folder has none, or one of another manifest.
    """
    path = folder / HYPOTHESES_FILE
    if not path.is_file():
        raise RequestError(
            "no earlier evaluation in this folder",
            where=folder,
            hint="name the --out folder of an earlier `moonshine-tune evaluate`",
        )
    scored = read_scored(path)
    if {item.id for item in scored} != {item.id for item in manifest.utterances}:
        raise RequestError(
            "the earlier evaluation has other utterances",
            where=folder,
            hint="compare evaluations of the same manifest",
        )
    return scored
