"""An evaluation: its figures, and the files that hold them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import write_jsonl_atomic
from moonshine_tune.corpus.keyterms import KeyTermScore, score_key_terms
from moonshine_tune.corpus.manifest import Manifest
from moonshine_tune.corpus.normalizers import Normalizer, normalizer_for
from moonshine_tune.evaluation.noise_conditions import CLEAN, Condition
from moonshine_tune.metrics.alike import score_alike
from moonshine_tune.metrics.metric import MetricScore
from moonshine_tune.metrics.wer import (
    PairedComparison,
    Score,
    ScoredUtterance,
    compare_paired,
    summarize,
)
from moonshine_tune.runs.records import (
    EvaluationRecord,
    KeyTermsRecord,
    KnownClipsRecord,
    VoicesRecord,
)
from moonshine_tune.runs.summary import read_scored

RESULT_FILE, HYPOTHESES_FILE = "result.json", "hypotheses.jsonl"
CONDITIONS_FILE, SYSTEMS_FILE = "conditions.jsonl", "systems.jsonl"
Scored = tuple[ScoredUtterance, ...]


@dataclass(frozen=True)
class Evaluation:
    """A scored manifest; `base` and `comparison` are of the model that it is compared with.

    `conditions` are its evaluations under each condition, the first without noise. `systems` are
    all that were scored on these clips, where they are more than one. `exported` is the hash of the
    adapter or checkpoint that runtime files were exported from, `adapter_sha256` that of the
    matrices of an adapter in torch. `voices` says whose voices the score is for; None where
    training has none of them. `known_clips` counts the clips that the run of the adapter used.
    `set_name` is that of the manifest.
    """

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
    condition: Condition = CLEAN
    conditions: tuple["Evaluation", ...] = ()
    keyterms: KeyTermsRecord | None = None
    aliases: KeyTermsRecord | None = None
    metrics: tuple[MetricScore, ...] = ()
    base_metrics: tuple[MetricScore, ...] = ()
    systems: tuple["SystemScore", ...] = ()
    exported: str | None = None
    adapter_sha256: str | None = None
    voices: VoicesRecord | None = None
    known_clips: KnownClipsRecord | None = None
    set_name: str = ""

    def compared_with(self, before: "Earlier") -> "Evaluation":
        """This evaluation with its change from another one, both scored alike.

        Raises:
            RequestError: the two have no clip in common.
        """
        normalizer = normalizer_for(self.normalizer)
        alike = score_alike(
            before.scored,
            self.scored,
            normalizer,
            normalizer_before=before.normalizer,
            name=before.name,
        )
        return replace(
            self,
            base=summarize(alike.before),
            comparison=compare_paired(alike.before, alike.after),
            base_metrics=tuple(
                item.metric.score(alike.before, normalizer) for item in self.metrics
            ),
            remarks=(*self.remarks, *alike.remarks),
        )

    def to_record(self) -> EvaluationRecord:
        """The JSON document of `evaluate`."""
        words, main = self.score.words, self.score.to_record()
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
            "set_name": self.set_name,
            "by_speaker": _by_speaker(self.score),
            "worst": [item.to_record() for item in self.score.worst],
            **self._comparison_record(),
        }
        if speakers := _speakers(self.scored):
            record["speakers"] = speakers
        digests = {"exported": self.exported, "adapter_sha256": self.adapter_sha256}
        record |= {name: digest for name, digest in digests.items() if digest is not None}
        if self.systems:
            record["systems"] = [item.to_record() for item in self.systems]
        if self.metrics:
            record["metrics"] = {item.metric.name: item.to_record() for item in self.metrics}
        for item in self.base_metrics:
            record["metrics"][item.metric.name]["base"] = item.to_record()["value"]
        if self.conditions:
            record["conditions"] = [item._condition_record() for item in self.conditions]
        if self.score.empty.utterances:
            record["empty_references"] = self.score.empty.to_record()
            if self.base is not None:
                record["empty_references"]["base"] = self.base.empty.to_record()
        parts = {
            "keyterms": self.keyterms,
            "aliases": self.aliases,
            "voices": self.voices,
            "known_clips": self.known_clips,
        }
        record |= {name: part for name, part in parts.items() if part is not None}
        if self.remarks:
            record["remarks"] = self.remarks
        return EvaluationRecord.model_validate(record)

    def _condition_record(self) -> dict[str, Any]:
        return {
            **self.condition.to_record(),
            **self.score.to_record(),
            "utterances": self.score.utterances,
            **self._comparison_record(),
        }

    def _comparison_record(self) -> dict[str, Any]:
        parts = {"base": self.base, "comparison": self.comparison}
        return {name: part.to_record() for name, part in parts.items() if part is not None}


@dataclass(frozen=True)
class SystemScore:
    """One of the systems that were scored on the same clips, by a back end.

    Attributes:
        side: `base`, `parent` (the adapter that the run started at) or `adapted`.
        comparison: of exported files with torch; of a parent, from it to the adapted model.
    """

    side: str
    evaluation: Evaluation
    comparison: PairedComparison | None = None

    def to_record(self) -> dict[str, Any]:
        """The JSON object."""
        score = self.evaluation.score
        compared = {"comparison": self.comparison.to_record()} if self.comparison else {}
        return {
            "side": self.side,
            "backend": self.evaluation.backend,
            **score.to_record(),
            "utterances": score.utterances,
            "by_speaker": _by_speaker(score),
            **compared,
        }


def _by_speaker(score: Score) -> dict[str, float]:
    return {name: round(wer, 4) for name, wer in score.by_speaker.items()}


def _speakers(scored: Scored) -> dict[str, dict[str, int]]:
    """Utterances and reference words of each speaker that has a name."""
    speakers: dict[str, dict[str, int]] = {}
    for item in scored:
        if item.speaker and not item.is_empty:
            counts = speakers.setdefault(item.speaker, {"utterances": 0, "words": 0})
            counts["utterances"] += 1
            counts["words"] += item.words.reference
    return dict(sorted(speakers.items()))


def count_key_terms(terms: tuple[str, ...], scored: Scored, normalizer: Normalizer) -> KeyTermScore:
    """Count the listed terms in references and hypotheses."""
    references = [item.reference for item in scored]
    return score_key_terms(terms, references, [item.hypothesis for item in scored], normalizer)


def write_evaluation(out: Path, evaluation: Evaluation) -> None:
    """Write result.json and, beside it, one line per utterance (and condition, and system)."""
    lines = [
        {**item.condition.to_record(), **utterance.to_record()}
        for item in evaluation.conditions
        for utterance in item.scored
    ]
    _write_or_remove(out / CONDITIONS_FILE, lines)
    lines = [
        {"side": item.side, "backend": item.evaluation.backend, **utterance.to_record()}
        for item in evaluation.systems
        for utterance in item.evaluation.scored
    ]
    is_side_by_side = any(item.evaluation.backend == "runtime" for item in evaluation.systems)
    _write_or_remove(out / SYSTEMS_FILE, lines if is_side_by_side else [])
    write_jsonl_atomic(out / HYPOTHESES_FILE, [item.to_record() for item in evaluation.scored])
    evaluation.to_record().write(out / RESULT_FILE)


def _write_or_remove(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    """The lines; where there are none, those of an earlier evaluation in this folder go."""
    if lines:
        write_jsonl_atomic(path, lines)
    else:
        path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Earlier:
    """The utterances of an evaluation to compare with, and how they were scored.

    Attributes:
        normalizer: None where its result.json does not tell.
    """

    scored: Scored
    normalizer: str | None
    name: str = "the earlier evaluation"


def earlier_evaluation(folder: Path, manifest: Manifest) -> Earlier:
    """The utterances of an earlier evaluation.

    Raises:
        RequestError: the folder has none, or none of this manifest.
    """
    path = folder / HYPOTHESES_FILE
    if not path.is_file():
        raise RequestError(
            "no earlier evaluation in this folder",
            where=folder,
            hint="name the --out folder of an earlier `moonshine-tune evaluate`",
        )
    result = folder / RESULT_FILE
    record = EvaluationRecord.read(result) if result.is_file() else EvaluationRecord()
    earlier = Earlier(read_scored(path), record.normalizer)
    if not {item.id for item in earlier.scored} & {item.id for item in manifest.utterances}:
        raise RequestError(
            "the earlier evaluation has no clip of this manifest",
            where=folder,
            hint="compare evaluations of the same manifest",
        )
    return earlier
