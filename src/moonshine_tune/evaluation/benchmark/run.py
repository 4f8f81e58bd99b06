"""How fast, how large and how good a runtime folder is on this machine.

The JSON document of `benchmark` (times in ms unless named otherwise, memory in MB of 10^6 bytes):

    {"schema_version": 1, "manifest_sha256", "clips", "audio_seconds", "rounds", "warm_up_clips",
     "machine": {"chip", "system", "arch", "memory_mb"}, "versions": {…},
     "runtime_dir", "family",
     "load_ms": {"median", "p95", "max"}, "load_processes",
     "latency_ms": {"median", "p95", "max"}, "rtf",
     "by_length": [{"from_s", "to_s", "clips", "latency_ms": {…}, "rtf"}],
     "stream": null or {"clips", "chunk_s", "final_ms": {"median", "p95", "max"}},
     "memory_mb": {"peak", "after_load", "process"},
     "files": [{"name", "bytes", "sha256"}], "total_bytes",
     "wer": null or {"wer", "ci95", "normalizer", "utterances", "reference_words"},
     "keyterms": null or {"terms", "boost", "spoken", "recalled", "recall", "false_alarms",
                          "false_alarms_per_1000_words"},
     "other": null or an object with the keys from "runtime_dir" to "keyterms" for the other folder,
     "ratios": null or {"latency", "median", "p95", "same_text"?, "load", "peak_memory", "size",
                "stream"?: {"ratio", "ci95": [lo, hi] or null}},
     "same_text_clips": null or a number,
     "wer_comparison": null or {"before", "after", "difference", "ci95", "verdict"},
     "remarks": […]}

Latency is the time of one call of the runtime's Python binding on a whole clip, after warm-up.
`load_ms` is the loading of the model in fresh processes, the files being in the disk cache.
`memory_mb.process` is Python and the binding before the model is loaded: an application in another
language holds about `peak - process`. Ratios are this folder over the other. A longer text takes
longer to say, so `same_text` is the latency ratio of those clips on which both say the same.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import sha256_of, write_json_atomic
from moonshine_tune.core.hardware import chip_name, total_memory_mb
from moonshine_tune.core.progress import Progress
from moonshine_tune.core.provenance import platform_summary, versions
from moonshine_tune.corpus.keyterms import KeyTermScore, read_key_terms, score_key_terms
from moonshine_tune.corpus.manifest import read_manifest
from moonshine_tune.corpus.normalizers import Normalizer, normalizer_for
from moonshine_tune.evaluation.benchmark.timing import (
    CHUNK_S,
    BenchmarkRequest,
    FolderRun,
    TimedClip,
    measure_folders,
    prepare_clips,
)
from moonshine_tune.metrics.latency import (
    Band,
    Ratio,
    Spread,
    bands_of,
    bootstrap_ratio,
    paired_ratios,
    spread_of,
)
from moonshine_tune.metrics.wer import (
    PairedComparison,
    Score,
    ScoredUtterance,
    compare_paired,
    score_utterance,
    summarize,
)
from moonshine_tune.runtime.layout import read_layout
from moonshine_tune.runtime.transcriber import check_takes_keyterms

BENCHMARK_FILE = "benchmark.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Measurement:
    """One measured folder. Times in seconds, memory in MB."""

    runtime_dir: Path
    family: str
    loads: tuple[float, ...]
    calls: tuple[tuple[float, ...], ...]
    texts: tuple[str, ...]
    latency: Spread
    bands: tuple[Band, ...]
    rtf: float
    stream_finals: tuple[float, ...]
    peak_mb: float
    loaded_mb: float
    process_mb: float
    files: tuple[tuple[str, int, str], ...]
    scored: tuple[ScoredUtterance, ...] | None
    score: Score | None
    normalizer: str
    terms: KeyTermScore | None = None
    boost: float | None = None

    @property
    def total_bytes(self) -> int:
        """Size of all files."""
        return sum(size for _name, size, _digest in self.files)

    def to_record(self) -> dict[str, Any]:
        """The part of the JSON document that describes one folder."""
        return {
            "runtime_dir": self.runtime_dir.absolute().name,
            "family": self.family,
            "load_ms": spread_of(self.loads).to_ms(),
            "load_processes": len(self.loads),
            "latency_ms": self.latency.to_ms(),
            "rtf": round(self.rtf, 5),
            "by_length": [band.to_record() for band in self.bands],
            "stream": self._stream_record(),
            "memory_mb": {
                "peak": round(self.peak_mb, 1),
                "after_load": round(self.loaded_mb, 1),
                "process": round(self.process_mb, 1),
            },
            "files": [
                {"name": name, "bytes": size, "sha256": digest} for name, size, digest in self.files
            ],
            "total_bytes": self.total_bytes,
            "wer": self._wer_record(),
            "keyterms": None
            if self.terms is None
            else {"boost": self.boost} | self.terms.to_record(),
        }

    def _stream_record(self) -> dict[str, Any] | None:
        if not self.stream_finals:
            return None
        return {
            "clips": len(self.stream_finals),
            "chunk_s": CHUNK_S,
            "final_ms": spread_of(self.stream_finals).to_ms(),
        }

    def _wer_record(self) -> dict[str, Any] | None:
        if self.score is None:
            return None
        return {
            "wer": round(self.score.wer, 4),
            "ci95": [round(value, 4) for value in self.score.ci95],
            "normalizer": self.normalizer,
            "utterances": self.score.utterances,
            "reference_words": self.score.words.reference,
        }


@dataclass(frozen=True)
class BenchmarkResult:
    """A measured folder, the other one where there is one, and how they compare.

    `lengths` are the seconds of each clip, in the order of the folders' `calls`.
    """

    this: Measurement
    other: Measurement | None
    ratios: dict[str, Ratio] | None
    wer_comparison: PairedComparison | None
    manifest_sha256: str
    clips: int
    audio_seconds: float
    rounds: int
    warm_up: int
    remarks: tuple[str, ...]
    lengths: tuple[float, ...]

    @property
    def same_text_clips(self) -> int | None:
        """Clips on which both folders say the same; None where there is one folder."""
        return None if self.other is None else len(_same_text(self.this, self.other))

    def to_record(self) -> dict[str, Any]:
        """The JSON document; see the module's text."""
        system = platform_summary()
        change = self.wer_comparison
        return {
            "schema_version": SCHEMA_VERSION,
            "manifest_sha256": self.manifest_sha256,
            "clips": self.clips,
            "audio_seconds": round(self.audio_seconds, 2),
            "rounds": self.rounds,
            "warm_up_clips": self.warm_up,
            "machine": {
                "chip": chip_name(),
                "system": system["system"],
                "arch": system["arch"],
                "memory_mb": total_memory_mb(),
            },
            "versions": versions(),
            **self.this.to_record(),
            "other": None if self.other is None else self.other.to_record(),
            "ratios": None
            if self.ratios is None
            else {name: ratio.to_record() for name, ratio in self.ratios.items()},
            "same_text_clips": self.same_text_clips,
            "wer_comparison": None
            if change is None
            else {
                "before": round(change.before, 4),
                "after": round(change.after, 4),
                "difference": round(change.difference, 4),
                "ci95": [round(value, 4) for value in change.ci95],
                "verdict": change.verdict,
            },
            "remarks": list(self.remarks),
        }


def benchmark(request: BenchmarkRequest, out: Path | None, progress: Progress) -> BenchmarkResult:
    """Measure a runtime folder, or two in turn; with `out`, write benchmark.json there.

    Raises:
        RequestError: no runtime folder, a wrong manifest, or files that the runtime refuses.
        MachineError: the runtime does not load here, or it ended the process.
    """
    _check(request)
    manifest = read_manifest(request.manifest, require_text=False)
    normalizer = normalizer_for(request.normalizer, manifest.utterances[0].language or "en")
    folders = [request.runtime_dir] + ([request.compare] if request.compare else [])
    terms = read_key_terms(request.keyterms) if request.keyterms else ()
    for folder in folders:
        layout = read_layout(folder)
        if terms:
            check_takes_keyterms(layout)
    with tempfile.TemporaryDirectory(prefix="moonshine-tune-") as scratch:
        clips, remarks = prepare_clips(manifest, request, Path(scratch), progress)
        runs = measure_folders(folders, clips, request, terms, progress)
    silent = sum(clip.utterance.text is None for clip in clips)
    if silent:
        remarks.append(
            f"latency only: {silent} of {len(clips)} lines of the manifest have no text, "
            "so no WER is given"
        )
    measured = [_summary(run, clips, normalizer=None if silent else normalizer) for run in runs]
    if terms and not silent:
        measured = [_with_terms(one, terms, request.boost, normalizer) for one in measured]
    this, other = measured[0], (measured[1] if len(measured) > 1 else None)
    result = BenchmarkResult(
        this=this,
        other=other,
        ratios=None if other is None else _ratios(this, other),
        wer_comparison=compare_paired(other.scored, this.scored)
        if other is not None and other.scored is not None and this.scored is not None
        else None,
        manifest_sha256=manifest.sha256,
        clips=len(clips),
        audio_seconds=sum(clip.seconds for clip in clips),
        rounds=request.rounds,
        warm_up=min(request.warm_up, len(clips)),
        remarks=tuple(remarks),
        lengths=tuple(clip.seconds for clip in clips),
    )
    if out is not None:
        write_json_atomic(out / BENCHMARK_FILE, result.to_record())
    return result


def _check(request: BenchmarkRequest) -> None:
    least = {"rounds": 1, "warm_up": 0, "processes": 1, "stream_clips": 1}
    for name, bound in least.items():
        value = getattr(request, name)
        if value < bound:
            raise RequestError(f"{name.replace('_', ' ')} is {value}; at least {bound} is needed")
    if request.max_clips is not None and request.max_clips < 1:
        raise RequestError(f"max clips is {request.max_clips}; at least 1 is needed")


def _summary(
    run: FolderRun, clips: list[TimedClip], *, normalizer: Normalizer | None
) -> Measurement:
    layout = read_layout(run.folder)
    scored = None
    if normalizer is not None:
        scored = tuple(
            score_utterance(
                clip.utterance.id,
                clip.utterance.reference,
                text,
                normalizer,
                speaker=clip.utterance.speaker,
            )
            for clip, text in zip(clips, run.texts, strict=True)
        )
    spent = [seconds for calls in run.calls for seconds in calls]
    heard = sum(clip.seconds * len(calls) for clip, calls in zip(clips, run.calls, strict=True))
    peak_mb, loaded_mb, process_mb = run.memory
    return Measurement(
        runtime_dir=run.folder,
        family=layout.family,
        loads=tuple(run.loads),
        calls=tuple(map(tuple, run.calls)),
        texts=tuple(run.texts),
        latency=spread_of(spent),
        bands=bands_of([clip.seconds for clip in clips], run.calls),
        rtf=sum(spent) / heard,
        stream_finals=tuple(run.finals),
        peak_mb=peak_mb,
        loaded_mb=loaded_mb,
        process_mb=process_mb,
        files=tuple(
            (name, (run.folder / name).stat().st_size, sha256_of(run.folder / name))
            for name in layout.files
        ),
        scored=scored,
        score=None if scored is None else summarize(scored),
        normalizer="" if normalizer is None else normalizer.name,
    )


def _with_terms(
    measured: Measurement, terms: Sequence[str], boost: float, normalizer: Normalizer
) -> Measurement:
    scored = measured.scored or ()
    found = score_key_terms(
        terms, [item.reference for item in scored], [item.hypothesis for item in scored], normalizer
    )
    return replace(measured, terms=found, boost=boost)


def _same_text(this: Measurement, other: Measurement) -> list[int]:
    """Rows of the clips on which both say the same."""
    pairs = zip(this.texts, other.texts, strict=True)
    return [row for row, (mine, theirs) in enumerate(pairs) if mine == theirs]


def _ratios(this: Measurement, other: Measurement) -> dict[str, Ratio]:
    def sums(drawn: Sequence[tuple[float, float]]) -> float:
        return sum(pair[0] for pair in drawn) / sum(pair[1] for pair in drawn)

    ratios = paired_ratios(this.calls, other.calls)
    same = _same_text(this, other)
    if same:
        alike = paired_ratios([this.calls[row] for row in same], [other.calls[row] for row in same])
        ratios["same_text"] = alike["latency"]
    ratios["load"] = bootstrap_ratio(list(zip(this.loads, other.loads, strict=True)), sums)
    # One process each: the peak is that of one run, without an interval.
    ratios["peak_memory"] = Ratio(this.peak_mb / other.peak_mb)
    ratios["size"] = Ratio(this.total_bytes / other.total_bytes)
    if this.stream_finals and len(this.stream_finals) == len(other.stream_finals):
        finals = list(zip(this.stream_finals, other.stream_finals, strict=True))
        ratios["stream"] = bootstrap_ratio(finals, sums)
    return ratios
