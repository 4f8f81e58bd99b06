"""`benchmark`: speed, memory, size and WER of a runtime folder on this machine.

Latency is the time of one call of the runtime's Python binding on a whole clip, after warm-up.
`load_ms` is the time to load the model in fresh processes, with the files in the disk cache.
`memory_mb.process` is Python and the binding before the model is loaded: an application in another
language needs about `peak - process`. Ratios are this folder over the other. A longer text takes
longer to decode, so `same_text` is the latency ratio of the clips with equal transcripts.
`BenchmarkRecord` has the keys of the JSON document: times in ms unless named otherwise, memory in
MB of 10^6 bytes.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from moonshine_tune.audio.io import load_utterance
from moonshine_tune.audio.samples import SAMPLE_RATE_HZ
from moonshine_tune.core.errors import AudioError, ProblemsError, RequestError
from moonshine_tune.core.files import sha256_of, write_json_atomic
from moonshine_tune.core.hardware import chip_name, total_memory_mb
from moonshine_tune.core.progress import Progress
from moonshine_tune.core.provenance import platform_summary, versions
from moonshine_tune.core.statistics import evenly_spaced
from moonshine_tune.corpus.keyterms import DEFAULT_BOOST, KeyTermScore, read_key_terms
from moonshine_tune.corpus.manifest import Manifest, Utterance, read_manifest
from moonshine_tune.corpus.normalizers import Normalizer, normalizer_for
from moonshine_tune.evaluation.benchmark.process import FreshProcess
from moonshine_tune.evaluation.results import Scored, count_key_terms
from moonshine_tune.metrics.latency import (
    Band,
    Pairs,
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
    compare_paired,
    score_utterances,
    summarize,
)
from moonshine_tune.runs.records import BenchmarkRecord
from moonshine_tune.runtime.layout import read_layout
from moonshine_tune.runtime.transcriber import check_takes_keyterms

BENCHMARK_FILE = "benchmark.json"
SCHEMA_VERSION = 1
CHUNK_S = 0.1
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class BenchmarkRequest:
    """What to measure.

    Attributes:
        compare: another runtime folder; measurements of the two are interleaved, clip by clip.
        rounds: timed calls of each clip.
        warm_up: untimed calls before the first round, on the first clips.
        processes: fresh processes whose load time is measured.
        max_clips: maximum number of clips, spread evenly over the lengths; None takes all.
        stream: feed chunks at the pace of speech; None does so for streaming models only.
        stream_clips: number of streamed clips; each takes as long as it lasts.
        keyterms: file of terms that the runtime boosts, with strength `boost`.
    """

    runtime_dir: Path
    manifest: Path
    compare: Path | None = None
    normalizer: str | None = None
    rounds: int = 3
    warm_up: int = 3
    processes: int = 3
    max_clips: int | None = None
    stream: bool | None = None
    stream_clips: int = 10
    keyterms: Path | None = None
    boost: float = DEFAULT_BOOST


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
    scored: Scored | None
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
        stream = wer = terms = None
        if self.stream_finals:
            finals = spread_of(self.stream_finals).to_ms()
            stream = {"clips": len(self.stream_finals), "chunk_s": CHUNK_S, "final_ms": finals}
        if self.score is not None:
            wer = {
                **self.score.to_record(),
                "normalizer": self.normalizer,
                "utterances": self.score.utterances,
                "reference_words": self.score.words.reference,
            }
        if self.terms is not None:
            terms = {"boost": self.boost} | self.terms.to_record()
        return {
            "runtime_dir": self.runtime_dir.absolute().name,
            "family": self.family,
            "load_ms": spread_of(self.loads).to_ms(),
            "load_processes": len(self.loads),
            "latency_ms": self.latency.to_ms(),
            "rtf": round(self.rtf, 5),
            "by_length": [band.to_record() for band in self.bands],
            "stream": stream,
            "memory_mb": {
                "peak": round(self.peak_mb, 1),
                "after_load": round(self.loaded_mb, 1),
                "process": round(self.process_mb, 1),
            },
            "files": [
                {"name": name, "bytes": size, "sha256": digest} for name, size, digest in self.files
            ],
            "total_bytes": self.total_bytes,
            "wer": wer,
            "keyterms": terms,
        }


@dataclass(frozen=True)
class BenchmarkResult:
    """A measured folder, the other one if there is one, and how they compare.

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
        """Clips on which both folders give the same text; None where there is one folder."""
        return None if self.other is None else len(_same_text(self.this, self.other))

    def to_record(self) -> dict[str, Any]:
        """The JSON document of `benchmark`."""
        system = platform_summary()
        change, ratios = self.wer_comparison, self.ratios
        content = {
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
            if ratios is None
            else {name: ratio.to_record() for name, ratio in ratios.items()},
            "same_text_clips": self.same_text_clips,
            "wer_comparison": None if change is None else change.to_record(),
            "remarks": list(self.remarks),
        }
        return BenchmarkRecord.model_validate(content).to_json()


@dataclass(frozen=True)
class TimedClip:
    """A clip of the manifest as a file of float32 samples, and its length in seconds."""

    utterance: Utterance
    path: Path
    seconds: float


@dataclass
class FolderRun:
    """The measurements of one folder while they are made: times in seconds, texts by clip."""

    folder: Path
    calls: list[list[float]]
    texts: list[str]
    loads: list[float] = field(default_factory=list)
    finals: list[float] = field(default_factory=list)
    memory: tuple[float, float, float] = (0.0, 0.0, 0.0)


_Pairs = list[tuple[FolderRun, FreshProcess]]


def benchmark(request: BenchmarkRequest, out: Path | None, progress: Progress) -> BenchmarkResult:
    """Measure a runtime folder, or two interleaved; with `out`, write benchmark.json there.

    Raises:
        RequestError: no runtime folder, a wrong manifest, or files that the runtime refuses.
        MachineError: the runtime does not load here, or its process ended.
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
        clips, remarks = _prepare_clips(manifest, request, Path(scratch), progress)
        runs = _measure_folders(folders, clips, request, terms, progress)
    silent = sum(clip.utterance.text is None for clip in clips)
    if silent:
        remarks.append(
            f"latency only: {silent} of {len(clips)} lines of the manifest have no text, "
            "so no WER is given"
        )
    measured = [
        _summarize_run(run, clips, None if silent else normalizer, terms, request.boost)
        for run in runs
    ]
    this, other = measured[0], (measured[1] if len(measured) > 1 else None)
    change = None
    if other is not None and other.scored is not None and this.scored is not None:
        change = compare_paired(other.scored, this.scored)
    result = BenchmarkResult(
        this=this,
        other=other,
        ratios=None if other is None else _ratios(this, other),
        wer_comparison=change,
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
    minimum = {"rounds": 1, "warm_up": 0, "processes": 1, "max_clips": 1, "stream_clips": 1}
    for name, bound in minimum.items():
        value = getattr(request, name)
        if value is not None and value < bound:
            raise RequestError(f"{name.replace('_', ' ')} is {value}; at least {bound} is needed")


# --- measuring


def _prepare_clips(
    manifest: Manifest, request: BenchmarkRequest, scratch: Path, progress: Progress
) -> tuple[list[TimedClip], list[str]]:
    """Decode the clips into files of samples, so that the measured process decodes nothing."""
    clips: list[TimedClip] = []
    problems: list[str] = []
    with progress.stage("reading clips", len(manifest)) as stage:
        for number, utterance in enumerate(manifest.utterances):
            try:
                samples = load_utterance(utterance)
            except AudioError as error:
                problems.append(str(error))
            else:
                path = scratch / f"{number}.f32"
                samples.tofile(path)
                clips.append(TimedClip(utterance, path, len(samples) / SAMPLE_RATE_HZ))
            stage.advance()
    if problems:
        raise ProblemsError(
            f"{len(problems)} of {len(manifest)} recordings cannot be read",
            problems,
            hint="fix or remove these lines; for details: moonshine-tune data check",
        )
    remarks = list(manifest.remarks)
    chosen = _spread_over_lengths(clips, request.max_clips)
    if len(chosen) < len(clips):
        remarks.append(f"{len(chosen)} of {len(clips)} clips measured, spread over the lengths")
    return chosen, remarks


def _spread_over_lengths(clips: list[TimedClip], at_most: int | None) -> list[TimedClip]:
    by_length = sorted(range(len(clips)), key=lambda index: clips[index].seconds)
    chosen = evenly_spaced(len(clips), len(clips) if at_most is None else at_most)
    return [clips[index] for index in sorted(by_length[position] for position in chosen)]


def _measure_folders(
    folders: list[Path],
    clips: list[TimedClip],
    request: BenchmarkRequest,
    terms: Sequence[str],
    progress: Progress,
) -> list[FolderRun]:
    """Measure the folders interleaved, A B, B A, A B, …, so that a drift affects both alike."""
    runs = [FolderRun(folder, [[] for _ in clips], [""] * len(clips)) for folder in folders]
    for number in range(request.processes - 1):
        for run in _alternate(runs, number):
            with FreshProcess(run.folder, terms, request.boost) as process:
                run.loads.append(process.load_s)
    processes: list[FreshProcess] = []
    try:
        for run in runs:
            processes.append(FreshProcess(run.folder, terms, request.boost))
            run.loads.append(processes[-1].load_s)
        pairs = list(zip(runs, processes, strict=True))
        for clip in clips[: request.warm_up]:
            for process in processes:
                process.transcribe(clip.path)
        _time_clips(pairs, clips, request.rounds, progress)
        for run, process in pairs:
            run.memory = (process.peak_mb(), process.loaded_mb, process.process_mb)
        _time_streams(pairs, clips, request, progress)
    finally:
        for process in processes:
            process.close()
    return runs


def _alternate(items: Sequence[_Item], number: int) -> list[_Item]:
    return list(items) if number % 2 == 0 else list(reversed(items))


def _time_clips(pairs: _Pairs, clips: list[TimedClip], rounds: int, progress: Progress) -> None:
    with progress.stage("timing clips", rounds * len(clips)) as stage:
        for number in range(rounds):
            for index, clip in enumerate(clips):
                for run, process in _alternate(pairs, number + index):
                    transcript = process.transcribe(clip.path)
                    run.calls[index].append(transcript.seconds)
                    run.texts[index] = transcript.text
                stage.advance()


def _time_streams(
    pairs: _Pairs, clips: list[TimedClip], request: BenchmarkRequest, progress: Progress
) -> None:
    def streams(folder: Path) -> bool:
        is_streaming = read_layout(folder).family == "streaming"
        return is_streaming if request.stream is None else request.stream

    streaming = [pair for pair in pairs if streams(pair[0].folder)]
    if not streaming:
        return
    chosen = _spread_over_lengths(clips, request.stream_clips)
    with progress.stage("feeding at the pace of speech", len(chosen) * len(streaming)) as stage:
        for index, clip in enumerate(chosen):
            for run, process in _alternate(streaming, index):
                run.finals.append(process.stream(clip.path, CHUNK_S).seconds)
                stage.advance()


# --- summarizing


def _summarize_run(
    run: FolderRun,
    clips: list[TimedClip],
    normalizer: Normalizer | None,
    terms: tuple[str, ...],
    boost: float,
) -> Measurement:
    """The figures of one folder; without a normalizer, no WER and no key terms."""
    layout = read_layout(run.folder)
    scored = score = key_terms = None
    if normalizer is not None:
        scored = score_utterances([clip.utterance for clip in clips], run.texts, normalizer)
        score = summarize(scored)
        key_terms = count_key_terms(terms, scored, normalizer) if terms else None
    spent = [seconds for calls in run.calls for seconds in calls]
    audio_s = sum(clip.seconds * len(calls) for clip, calls in zip(clips, run.calls, strict=True))
    peak_mb, loaded_mb, process_mb = run.memory
    return Measurement(
        runtime_dir=run.folder,
        family=layout.family,
        loads=tuple(run.loads),
        calls=tuple(map(tuple, run.calls)),
        texts=tuple(run.texts),
        latency=spread_of(spent),
        bands=bands_of([clip.seconds for clip in clips], run.calls),
        rtf=sum(spent) / audio_s,
        stream_finals=tuple(run.finals),
        peak_mb=peak_mb,
        loaded_mb=loaded_mb,
        process_mb=process_mb,
        files=tuple(
            (name, (run.folder / name).stat().st_size, sha256_of(run.folder / name))
            for name in layout.files
        ),
        scored=scored,
        score=score,
        normalizer="" if normalizer is None else normalizer.name,
        terms=key_terms,
        boost=None if key_terms is None else boost,
    )


def _same_text(this: Measurement, other: Measurement) -> list[int]:
    """Indices of the clips on which both give the same text."""
    pairs = zip(this.texts, other.texts, strict=True)
    return [index for index, (mine, theirs) in enumerate(pairs) if mine == theirs]


def _ratios(this: Measurement, other: Measurement) -> dict[str, Ratio]:
    def of_sums(drawn: Pairs) -> float:
        return sum(pair[0] for pair in drawn) / sum(pair[1] for pair in drawn)

    ratios = paired_ratios(this.calls, other.calls)
    same = _same_text(this, other)
    if same:
        calls = ([side.calls[index] for index in same] for side in (this, other))
        ratios["same_text"] = paired_ratios(*calls)["latency"]
    ratios["load"] = bootstrap_ratio(list(zip(this.loads, other.loads, strict=True)), of_sums)
    # One process each: the peak is that of one run, without an interval.
    ratios["peak_memory"] = Ratio(this.peak_mb / other.peak_mb)
    ratios["size"] = Ratio(this.total_bytes / other.total_bytes)
    if this.stream_finals and len(this.stream_finals) == len(other.stream_finals):
        finals = list(zip(this.stream_finals, other.stream_finals, strict=True))
        ratios["stream"] = bootstrap_ratio(finals, of_sums)
    return ratios
