"""`benchmark`: speed, memory, size and WER of a runtime folder on this machine.

Latency is the time of one call of the runtime's Python binding on a whole clip, after warm-up.
`load_ms` is the time to load the model in fresh processes, with the files in the disk cache.
`memory_mb` is in MB of 10^6 bytes; `memory_mb.process` is Python and the binding before the model
is loaded: an application in another language needs about `peak - process`.
Ratios are this folder over the other: `latency`, `median`, `p95`, `load`, `peak_memory`, `size`,
with streamed clips `stream`, and `same_text`, the latency ratio of the clips with equal
transcripts: a longer text takes longer to decode. What was not measured is null.
"""

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from moonshine_tune.audio.io import load_utterance
from moonshine_tune.audio.samples import SAMPLE_RATE_HZ
from moonshine_tune.core.errors import AudioError, ProblemsError, RequestError
from moonshine_tune.core.files import check_writable, holds_out, sha256_of
from moonshine_tune.core.hardware import chip_name, total_memory_mb
from moonshine_tune.core.progress import Progress
from moonshine_tune.core.provenance import platform_summary, versions
from moonshine_tune.core.statistics import evenly_spaced
from moonshine_tune.corpus.keyterms import DEFAULT_BOOST, read_key_terms
from moonshine_tune.corpus.manifest import Manifest, Utterance, read_manifest
from moonshine_tune.corpus.normalizers import Normalizer, normalizer_for
from moonshine_tune.evaluation.benchmark.process import FreshProcess
from moonshine_tune.evaluation.results import Scored, count_key_terms
from moonshine_tune.metrics.latency import (
    Pairs,
    Ratio,
    bands_of,
    bootstrap_ratio,
    paired_ratios,
    spread_ms,
)
from moonshine_tune.metrics.wer import compare_paired, score_utterances, summarize
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
class BenchmarkResult:
    """The record, and the timed calls behind it.

    Attributes:
        lengths: seconds of each clip.
        calls: of each measured folder, for each clip, the seconds of each call.
    """

    record: BenchmarkRecord
    lengths: tuple[float, ...]
    calls: tuple[list[list[float]], ...]


@dataclass(frozen=True)
class TimedClip:
    """A clip of the manifest as a file of float32 samples, and its length in seconds."""

    utterance: Utterance
    path: Path
    seconds: float


@dataclass
class FolderRun:
    """The measurements of one folder: times in seconds, memory in MB, texts by clip.

    `scored` is empty where a clip has no reference.
    """

    folder: Path
    calls: list[list[float]]
    texts: list[str]
    loads: list[float] = field(default_factory=list)
    finals: list[float] = field(default_factory=list)
    peak_mb: float = 0.0
    loaded_mb: float = 0.0
    process_mb: float = 0.0
    scored: Scored = ()


_Pairs = list[tuple[FolderRun, FreshProcess]]


@holds_out(lambda request, out, progress: out)
def benchmark(request: BenchmarkRequest, out: Path | None, progress: Progress) -> BenchmarkResult:
    """Measure a runtime folder, or two interleaved; with `out`, write benchmark.json there.

    Raises:
        RequestError: no runtime folder, a wrong manifest, or files that the runtime refuses.
        MachineError: the runtime does not load here, or its process ended.
    """
    _check(request)
    if out is not None:
        check_writable(out, is_folder=True)
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
    if silent := sum(clip.utterance.text is None for clip in clips):
        remarks.append(
            f"latency only: {silent} of {len(clips)} lines of the manifest have no text, "
            "so no WER is given"
        )
    else:
        for run in runs:
            run.scored = score_utterances([c.utterance for c in clips], run.texts, normalizer)
    sides = [_describe_folder(run, clips, normalizer, terms, request.boost) for run in runs]
    lengths = tuple(clip.seconds for clip in clips)
    system = platform_summary()
    record = BenchmarkRecord.model_validate({
        "schema_version": SCHEMA_VERSION,
        "manifest_sha256": manifest.sha256,
        "clips": len(clips),
        "audio_seconds": round(sum(lengths), 2),
        "rounds": request.rounds,
        "warm_up_clips": min(request.warm_up, len(clips)),
        "machine": {
            "chip": chip_name(),
            "system": system["system"],
            "arch": system["arch"],
            "memory_mb": total_memory_mb(),
        },
        "versions": versions(),
        **sides[0],
        **_compare_folders(sides, runs),
        "remarks": remarks,
    })  # fmt: skip
    if out is not None:
        record.write(out / BENCHMARK_FILE)
    return BenchmarkResult(record, lengths, tuple(run.calls for run in runs))


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
    for turn in range(request.processes - 1):
        for run in _alternate(runs, turn):
            with FreshProcess(run.folder, terms, request.boost) as process:
                run.loads.append(process.load_s)
    with ExitStack() as processes:
        pairs = []
        for run in runs:
            process = processes.enter_context(FreshProcess(run.folder, terms, request.boost))
            run.loads.append(process.load_s)
            pairs.append((run, process))
        for clip in clips[: request.warm_up]:
            for _, process in pairs:
                process.transcribe(clip.path)
        _time_clips(pairs, clips, request.rounds, progress)
        for run, process in pairs:
            run.peak_mb = process.peak_mb()
            run.loaded_mb, run.process_mb = process.loaded_mb, process.process_mb
        _time_streams(pairs, clips, request, progress)
    return runs


def _alternate(items: Sequence[_Item], turn: int) -> list[_Item]:
    return list(items) if turn % 2 == 0 else list(reversed(items))


def _time_clips(pairs: _Pairs, clips: list[TimedClip], rounds: int, progress: Progress) -> None:
    with progress.stage("timing clips", rounds * len(clips)) as stage:
        for turn in range(rounds):
            for index, clip in enumerate(clips):
                for run, process in _alternate(pairs, turn + index):
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


def _describe_folder(
    run: FolderRun,
    clips: list[TimedClip],
    normalizer: Normalizer,
    terms: tuple[str, ...],
    boost: float,
) -> dict[str, Any]:
    """The content of a `MeasurementRecord`."""
    layout = read_layout(run.folder)
    lengths = [clip.seconds for clip in clips]
    spent = [seconds for calls in run.calls for seconds in calls]
    audio_s = sum(length * len(calls) for length, calls in zip(lengths, run.calls, strict=True))
    sizes = {name: (run.folder / name).stat().st_size for name in layout.files}
    stream = wer = key_terms = None
    if run.finals:
        finals = spread_ms(run.finals)
        stream = {"clips": len(run.finals), "chunk_s": CHUNK_S, "final_ms": finals}
    if run.scored:
        score = summarize(run.scored)
        wer = score.to_record() | {
            "normalizer": normalizer.name,
            "utterances": score.utterances,
            "reference_words": score.words.reference,
        }
    if run.scored and terms:
        counts = count_key_terms(terms, run.scored, normalizer)
        key_terms = {"boost": boost} | counts.to_record()
    return {
        "runtime_dir": run.folder.absolute().name,
        "family": layout.family,
        "load_ms": spread_ms(run.loads),
        "load_processes": len(run.loads),
        "latency_ms": spread_ms(spent),
        "rtf": round(sum(spent) / audio_s, 5),
        "by_length": bands_of(lengths, run.calls),
        "stream": stream,
        "memory_mb": {
            "peak": round(run.peak_mb, 1),
            "after_load": round(run.loaded_mb, 1),
            "process": round(run.process_mb, 1),
        },
        "files": [
            {"name": name, "bytes": size, "sha256": sha256_of(run.folder / name)}
            for name, size in sizes.items()
        ],
        "total_bytes": sum(sizes.values()),
        "wer": wer,
        "keyterms": key_terms,
    }


def _compare_folders(sides: Sequence[dict[str, Any]], runs: Sequence[FolderRun]) -> dict[str, Any]:
    """The part of the record about the other folder; all null where there is none."""
    if len(runs) < 2:
        return dict.fromkeys(("other", "ratios", "same_text_clips", "wer_comparison"))
    this, compared = runs
    pairs = enumerate(zip(this.texts, compared.texts, strict=True))
    same = [index for index, (text, compared_text) in pairs if text == compared_text]
    ratios = paired_ratios(this.calls, compared.calls)
    if same:
        calls = ([run.calls[index] for index in same] for run in runs)
        ratios["same_text"] = paired_ratios(*calls)["latency"]
    ratios["load"] = bootstrap_ratio(list(zip(this.loads, compared.loads, strict=True)), _of_sums)
    # One process each: the peak is that of one run, without an interval.
    ratios["peak_memory"] = Ratio(this.peak_mb / compared.peak_mb)
    ratios["size"] = Ratio(sides[0]["total_bytes"] / sides[1]["total_bytes"])
    if this.finals and len(this.finals) == len(compared.finals):
        finals = list(zip(this.finals, compared.finals, strict=True))
        ratios["stream"] = bootstrap_ratio(finals, _of_sums)
    change = compare_paired(compared.scored, this.scored).to_record() if this.scored else None
    return {
        "other": sides[1],
        "ratios": {name: ratio.to_record() for name, ratio in ratios.items()},
        "same_text_clips": len(same),
        "wer_comparison": change,
    }


def _of_sums(pairs: Pairs) -> float:
    return sum(pair[0] for pair in pairs) / sum(pair[1] for pair in pairs)
