"""`data audit`: everything that can be told of a corpus before it is trained on.

The check of `data check`, and on top: how it was recorded, how it is written, what the tokenizer
makes of its words, and what the base model hears in it. Every finding has ids and can be acted on.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moonshine_tune.audio.quality import Quality, measure_quality
from moonshine_tune.audio.samples import Samples
from moonshine_tune.core.progress import Progress
from moonshine_tune.corpus.manifest import Utterance, read_manifest, scan_manifest
from moonshine_tune.corpus.normalizers import normalizer_for
from moonshine_tune.corpus.splits import evenly_chosen
from moonshine_tune.data.checks.check import CheckReport, check_data
from moonshine_tune.data.checks.detectors import (
    CheckedClip,
    See,
    Seen,
    plain_text,
    recorder,
    spoken_length,
)
from moonshine_tune.data.checks.fix import Fix, fixes_for
from moonshine_tune.data.checks.model_checks import (
    ModelTranscript,
    flag_suspicious_transcripts,
    listen,
)
from moonshine_tune.data.checks.rules import (
    NARROW_HZ,
    NOISY_SNR_DB,
    OFFSET,
    QUIET_DBFS,
    RULES,
    Finding,
    make_finding,
)
from moonshine_tune.data.checks.text_checks import (
    Conventions,
    Vocabulary,
    advice_on,
    conventions_of,
    see_pieces,
    see_writing,
    vocabulary_of,
)
from moonshine_tune.inference.dataset import build_dataset
from moonshine_tune.registry.open import open_model

_SEVERITIES = ("error", "warning", "note")
AUDIT_FILE, PAGE_FILE = "audit.json", "audit.html"


@dataclass(frozen=True)
class AuditRequest:
    """What to audit.

    Attributes:
        against: the other sides of the split; leaks and unseen words are told against them.
        model: whose tokenizer and ears are used; None leaves out all that needs a model.
        max_listened: utterances that the model listens to at most, evenly from the manifest.
    """

    manifest: Path
    against: tuple[Path, ...] = ()
    model: str | None = "tiny"
    device: str = "auto"
    normalizer: str | None = None
    max_listened: int = 2_000


@dataclass(frozen=True)
class Distribution:
    """One measure over the corpus: its quantiles and a histogram.

    Attributes:
        quantiles: 0, 5, 25, 50, 75, 95 and 100 % of the values.
        edges, counts: of the histogram; one edge more than counts.
    """

    name: str
    unit: str
    count: int
    quantiles: tuple[float, ...]
    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Listening:
    """What the base model heard. `wer` is a rough one: characters, in percent of the corpus's."""

    model: str
    utterances: int
    of: int
    character_error_rate: float
    conventions: Conventions
    heard: tuple[ModelTranscript, ...]


@dataclass(frozen=True)
class Audit:
    """The whole audit; findings with errors first."""

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
    listening: Listening | None
    advice: tuple[str, ...]
    fixes: tuple[Fix, ...]

    @property
    def passed(self) -> bool:
        """No finding is an error."""
        return all(found.severity != "error" for found in self.findings)

    def to_record(self) -> dict[str, Any]:
        """The JSON document."""
        record = asdict(self) | {"manifest": str(self.manifest), "passed": self.passed}
        counts = dict.fromkeys(_SEVERITIES, 0)
        for found in self.findings:
            counts[found.severity] += 1
        return {"schema_version": 1, "kind": "audit", "counts": counts, **record}


def audit_data(request: AuditRequest, progress: Progress) -> Audit:
    """Audit one manifest.

    Raises:
        RequestError: no manifest, no text in it, no lines, or the model is not known.
        SourceUnreachableError: no source has the model.
    """
    recorded: dict[str, Quality] = {}
    clips: dict[str, CheckedClip] = {}

    def look(manifest: Path, clip: CheckedClip, samples: Samples, see: See) -> None:
        # Of the other sides nothing is asked but what lies on both.
        if manifest == request.manifest:
            quality = measure_quality(samples)
            recorded[clip.utterance.id], clips[clip.utterance.id] = quality, clip
            _see_quality(clip, quality, see)

    check = check_data([request.manifest, *request.against], progress, look=look)
    scan = scan_manifest(request.manifest, require_text=False)
    seen: Seen = {}
    see = recorder(seen)
    see_writing(scan.utterances, see)
    usable = [item for item in scan.utterances if item.id in clips]
    texts = [item.text for item in usable if item.text]
    vocabulary, listening = None, None
    conventions = conventions_of(texts)
    advice: tuple[str, ...] = ()
    if request.model is not None and texts:
        vocabulary, listening = _with_model(request, request.model, usable, see, progress)
        advice = advice_on(conventions, listening.conventions)
    findings = _merged(check, seen)
    return Audit(
        manifest=request.manifest,
        manifest_sha256=scan.sha256,
        lines=scan.num_lines,
        utterances=len(scan.utterances),
        clean=_num_clean(scan.utterances, findings),
        seconds=round(sum(clip.measures.seconds for clip in clips.values()), 2),
        speakers=len({item.speaker for item in scan.utterances if item.speaker}),
        findings=findings,
        distributions=_distributions(clips, recorded),
        conventions=conventions,
        vocabulary=vocabulary,
        listening=listening,
        advice=advice,
        fixes=fixes_for(findings, scan.utterances, clips),
    )


def _see_quality(clip: CheckedClip, quality: Quality, see: See) -> None:
    """Noise, level, offset and bandwidth of a clip that is not silent."""
    name, measures = clip.utterance.id, clip.measures
    if measures.is_silent:
        return
    if quality.snr_db < NOISY_SNR_DB:
        see("noisy", name, f"about {quality.snr_db:.1f} dB above the noise")
    if measures.loudest_dbfs < QUIET_DBFS:
        see("too_quiet", name, f"loudest 10 ms at {measures.loudest_dbfs:.0f} dBFS")
    if abs(quality.dc_offset) >= OFFSET:
        see("dc_offset", name, f"{quality.dc_offset:+.1%} of full scale")
    if quality.bandwidth_hz < NARROW_HZ:
        see("narrow_band", name, f"nothing above {quality.bandwidth_hz:.0f} Hz")


def _with_model(
    request: AuditRequest, name: str, usable: Sequence[Utterance], see: See, progress: Progress
) -> tuple[Vocabulary, Listening]:
    """What the tokenizer makes of the words, and what the base model hears."""
    opened = open_model(name, device=request.device, dtype="float32", progress=progress)
    encode = opened.model.tokenizer.encode
    raw = opened.model.tokenizer.raw
    pieces = [raw.id_to_token(token) or "" for token in range(raw.get_vocab_size())]
    see_pieces(usable, encode, pieces, see)
    normalizer = normalizer_for(request.normalizer, usable[0].language or opened.language)
    known = [
        normalizer(item.text)
        for path in request.against
        for item in read_manifest(path, require_text=False, check_files=False).utterances
        if item.text
    ]
    texts = [normalizer(item.text) for item in usable if item.text]
    vocabulary = vocabulary_of(texts, encode, known)
    told = [item for item in usable if item.text]
    chosen = evenly_chosen(told, request.max_listened)
    corpus = build_dataset(chosen, opened.model, name="listening", max_clip_s=30.0, needs_text=True)
    heard = listen(corpus, opened, normalizer, progress)
    flag_suspicious_transcripts(heard, normalizer, see)
    weights = [max(len(normalizer(one.reference)), 1) for one in heard]
    errors = sum(one.distance * weight for one, weight in zip(heard, weights, strict=True))
    listening = Listening(
        model=str(opened.base["name"]),
        utterances=len(heard),
        of=len(told),
        character_error_rate=round(100.0 * errors / sum(weights), 2),
        conventions=conventions_of([one.text for one in heard]),
        heard=heard,
    )
    return vocabulary, listening


def _merged(check: CheckReport, seen: Seen) -> tuple[Finding, ...]:
    """Findings of the audited manifest and between the sides, errors first."""
    name = check.manifests[0].name
    found = [item for item in check.findings if item.manifest in (name, None)]
    found += [make_finding(kind, name, pairs) for kind, pairs in seen.items()]
    order = list(RULES)
    return tuple(
        sorted(found, key=lambda one: (_SEVERITIES.index(one.severity), order.index(one.kind)))
    )


def _num_clean(utterances: Sequence[Utterance], findings: Sequence[Finding]) -> int:
    """Utterances that no error and no warning names; what the sides share does not count here."""
    named = {
        name
        for found in findings
        if found.severity != "note" and found.manifest is not None and found.kind != "no_texts"
        for name in found.ids
    }
    return sum(item.id not in named for item in utterances)


def _distributions(
    clips: Mapping[str, CheckedClip], recorded: Mapping[str, Quality]
) -> tuple[Distribution, ...]:
    rates = []
    for clip in clips.values():
        length = spoken_length(plain_text(clip.utterance))
        if length and clip.measures.active_s > 0.1:
            rates.append(length / clip.measures.active_s)
    found = (
        ("length", "s", [clip.measures.seconds for clip in clips.values()]),
        ("level", "dBFS", [clip.measures.rms_dbfs for clip in clips.values()]),
        ("signal to noise, estimated", "dB", [item.snr_db for item in recorded.values()]),
        ("speech rate", "characters a second", rates),
        ("bandwidth", "Hz", [item.bandwidth_hz for item in recorded.values()]),
    )
    return tuple(distribution(*one) for one in found if one[2])


def distribution(name: str, unit: str, values: Sequence[float], *, bars: int = 24) -> Distribution:
    """Quantiles and a histogram of equal bars from the lowest to the highest value."""
    ordered = sorted(values)
    last = len(ordered) - 1
    quantiles = tuple(
        round(ordered[round(share * last)], 3) for share in (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)
    )
    low, high = ordered[0], ordered[-1]
    width = (high - low) / bars or 1.0
    counts = [0] * bars
    for value in ordered:
        counts[min(math.floor((value - low) / width), bars - 1)] += 1
    edges = tuple(round(low + width * place, 4) for place in range(bars + 1))
    return Distribution(name, unit, len(ordered), quantiles, edges, tuple(counts))
