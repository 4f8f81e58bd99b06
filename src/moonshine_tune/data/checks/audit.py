"""`data audit`: the checks of `data check`, and recording quality, texts, words and a base model.

Every finding has ids, and `data fix` or a person can act on it.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from moonshine_tune.core.progress import Progress
from moonshine_tune.corpus.manifest import read_manifest
from moonshine_tune.corpus.normalizers import normalizer_for
from moonshine_tune.corpus.splits import evenly_chosen
from moonshine_tune.data.checks.base import SEVERITIES, Finding, count_clean, find_problems
from moonshine_tune.data.checks.checked_manifest import (
    CheckedManifest,
    CheckedSplits,
    ModelEvidence,
    ModelTranscript,
    read_manifests,
)
from moonshine_tune.data.checks.fix import fixes_for
from moonshine_tune.data.checks.text import (
    Conventions,
    Vocabulary,
    advice_on,
    conventions_of,
    vocabulary_of,
)
from moonshine_tune.data.checks.transcribe import transcribe_corpus
from moonshine_tune.inference.dataset import build_dataset
from moonshine_tune.registry.open import OpenedModel, open_model
from moonshine_tune.runs.records import AuditRecord, FixRecord

AUDIT_FILE, PAGE_FILE = "audit.json", "audit.html"
_MAX_CLIP_S = 30.0
_QUANTILES = (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)
_BARS = 24


@dataclass(frozen=True)
class Distribution:
    """One measure over the corpus: its quantiles and a histogram.

    Attributes:
        quantiles: 0, 5, 25, 50, 75, 95 and 100 % of the values.
        edges, counts: of the histogram; one more edge than counts.
    """

    name: str
    unit: str
    count: int
    quantiles: tuple[float, ...]
    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class BaseTranscription:
    """What the base model recognizes.

    Attributes:
        utterances, of: how many it transcribed, and how many have a text.
        character_error_rate: against the transcripts, percent.
    """

    model: str
    utterances: int
    of: int
    character_error_rate: float
    conventions: Conventions
    transcripts: tuple[ModelTranscript, ...]


@dataclass(frozen=True)
class Audit:
    """The result of an audit; findings with errors first."""

    manifest: Path
    manifest_sha256: str
    lines: int
    utterances: int
    clean: int
    seconds: float
    speakers: int
    findings: tuple[Finding, ...]
    distributions: tuple[Distribution, ...]
    conventions: Conventions
    vocabulary: Vocabulary | None
    transcription: BaseTranscription | None
    advice: tuple[str, ...]
    fixes: tuple[FixRecord, ...]

    @property
    def passed(self) -> bool:
        """No finding is an error."""
        return all(finding.severity != "error" for finding in self.findings)

    def to_record(self) -> AuditRecord:
        """`audit.json`."""
        counts = Counter(finding.severity for finding in self.findings)
        record = asdict(self)
        transcription = record.pop("transcription")
        if transcription is not None:
            transcription["heard"] = transcription.pop("transcripts")
        record |= {
            "schema_version": 1,
            "kind": "audit",
            "counts": {severity: counts[severity] for severity in SEVERITIES},
            "manifest": str(self.manifest),
            "listening": transcription,
            "passed": self.passed,
        }
        return AuditRecord.model_validate(record)


def audit_data(
    manifest: Path,
    progress: Progress,
    *,
    against: Sequence[Path] = (),
    model: str | None = "tiny",
    device: str = "auto",
    normalizer: str | None = None,
    max_transcribed: int = 2_000,
) -> Audit:
    """Audit one manifest.

    Args:
        against: other splits, to detect leakage and unseen words.
        model: the base model whose tokenizer and transcripts are used; None skips these checks.
        max_transcribed: maximum number of utterances that the model transcribes.

    Raises:
        RequestError: no manifest, no text in it, no lines, or an unknown model.
        SourceUnreachableError: no source has the model.
    """
    checked, *others = read_manifests([manifest, *against], progress, quality_of=manifest)
    texts = [clip.utterance.text for clip in checked.clips if clip.utterance.text]
    conventions = conventions_of(texts)
    vocabulary, transcription = None, None
    advice: tuple[str, ...] = ()
    if model is not None and texts:
        opened = open_model(model, device=device, dtype="float32", progress=progress)
        checked, transcription = _with_model(checked, opened, normalizer, max_transcribed, progress)
        vocabulary = _vocabulary(checked, against)
        advice = advice_on(conventions, transcription.conventions)
    splits = CheckedSplits.of([checked, *others])
    findings = find_problems([checked], splits, audit=True)
    return Audit(
        manifest=manifest,
        manifest_sha256=checked.scan.sha256,
        lines=checked.scan.num_lines,
        utterances=len(checked.utterances),
        clean=count_clean(checked, findings),
        seconds=checked.seconds,
        speakers=checked.num_speakers,
        findings=tuple(findings),
        distributions=_distributions(checked),
        conventions=conventions,
        vocabulary=vocabulary,
        transcription=transcription,
        advice=advice,
        fixes=fixes_for(findings, checked),
    )


def _with_model(
    checked: CheckedManifest,
    opened: OpenedModel,
    normalizer_name: str | None,
    max_transcribed: int,
    progress: Progress,
) -> tuple[CheckedManifest, BaseTranscription]:
    """The manifest with the model's tokenizer and transcripts; and a summary of these."""
    # A wrong length in the manifest is a finding, and no reason to stop.
    usable = [replace(item.utterance, duration=item.measures.seconds) for item in checked.clips]
    normalizer = normalizer_for(normalizer_name, usable[0].language or opened.language)
    with_text = [utterance for utterance in usable if utterance.text]
    chosen = evenly_chosen(with_text, max_transcribed)
    corpus = build_dataset(
        chosen, opened.model, name="audit", max_clip_s=_MAX_CLIP_S, needs_text=True
    )
    transcripts = transcribe_corpus(corpus, opened, normalizer, progress)
    weights = [max(len(normalizer(item.reference)), 1) for item in transcripts]
    errors = sum(item.distance * weight for item, weight in zip(transcripts, weights, strict=True))
    tokenizer = opened.model.tokenizer
    size = tokenizer.raw.get_vocab_size()
    pieces = tuple(tokenizer.raw.id_to_token(token) or "" for token in range(size))
    evidence = ModelEvidence(tokenizer.encode, pieces, normalizer, transcripts)
    transcription = BaseTranscription(
        model=str(opened.base["name"]),
        utterances=len(transcripts),
        of=len(with_text),
        character_error_rate=round(100.0 * errors / sum(weights), 2),
        conventions=conventions_of([item.text for item in transcripts]),
        transcripts=transcripts,
    )
    return replace(checked, model=evidence), transcription


def _vocabulary(checked: CheckedManifest, against: Sequence[Path]) -> Vocabulary | None:
    if checked.model is None:
        return None
    normalizer = checked.model.normalizer
    others = [
        normalizer(item.text)
        for path in against
        for item in read_manifest(path, require_text=False, check_files=False).utterances
        if item.text
    ]
    texts = [normalizer(clip.utterance.text) for clip in checked.clips if clip.utterance.text]
    return vocabulary_of(texts, checked.model.encode, others)


def _distributions(checked: CheckedManifest) -> tuple[Distribution, ...]:
    measures = [clip.measures for clip in checked.clips]
    quality = [clip.quality for clip in checked.clips if clip.quality is not None]
    rates = [number / seconds for number, seconds in checked.spoken.values()]
    named = (
        ("length", "s", [item.seconds for item in measures]),
        ("level", "dBFS", [item.rms_dbfs for item in measures]),
        ("signal to noise, estimated", "dB", [item.snr_db for item in quality]),
        ("speech rate", "characters a second", rates),
        ("bandwidth", "Hz", [item.bandwidth_hz for item in quality]),
    )
    return tuple(distribution(name, unit, values) for name, unit, values in named if values)


def distribution(name: str, unit: str, values: Sequence[float]) -> Distribution:
    """Quantiles, and a histogram of equal bars from the lowest to the highest value."""
    ordered = sorted(values)
    last = len(ordered) - 1
    quantiles = tuple(round(ordered[round(share * last)], 3) for share in _QUANTILES)
    low, high = ordered[0], ordered[-1]
    width = (high - low) / _BARS or 1.0
    counts = [0] * _BARS
    for value in ordered:
        counts[min(math.floor((value - low) / width), _BARS - 1)] += 1
    edges = tuple(round(low + width * bar, 4) for bar in range(_BARS + 1))
    return Distribution(name, unit, len(ordered), quantiles, edges, tuple(counts))
