"""Timing runtime folders in fresh processes, in turn, clip by clip."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from moonshine_tune.audio.io import load_utterance
from moonshine_tune.audio.samples import SAMPLE_RATE_HZ
from moonshine_tune.core.errors import AudioError, ProblemsError
from moonshine_tune.core.progress import Progress
from moonshine_tune.corpus.keyterms import DEFAULT_BOOST
from moonshine_tune.corpus.manifest import Manifest, Utterance
from moonshine_tune.evaluation.benchmark.process import FreshProcess
from moonshine_tune.runtime.layout import read_layout

CHUNK_S = 0.1
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class BenchmarkRequest:
    """What is to be measured.

    Attributes:
        compare: another runtime folder, measured in turn with the first, clip by clip.
        rounds: timed calls of each clip.
        warm_up: untimed calls before the first round, on the first clips.
        processes: fresh processes whose load time is taken.
        max_clips: at most so many clips, spread evenly over the lengths; None takes all.
        stream: feed chunks at the pace of speech; None does so for streaming models only.
        stream_clips: clips that are fed so; each takes as long as it lasts.
        keyterms: file of terms that the runtime listens for; `boost` says how strongly.
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
class TimedClip:
    """A clip of the manifest as a file of float32 samples, and its length in seconds."""

    utterance: Utterance
    path: Path
    seconds: float


def prepare_clips(
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
            hint="mend or remove these lines; look closer with: moonshine-tune data check",
        )
    remarks = list(manifest.remarks)
    chosen = _spread_over_lengths(clips, request.max_clips)
    if len(chosen) < len(clips):
        remarks.append(f"{len(chosen)} of {len(clips)} clips measured, spread over the lengths")
    return chosen, remarks


def _spread_over_lengths(clips: list[TimedClip], at_most: int | None) -> list[TimedClip]:
    if at_most is None or at_most >= len(clips):
        return clips
    rows = sorted(range(len(clips)), key=lambda row: clips[row].seconds)
    last = len(rows) - 1
    places = {round(k * last / max(at_most - 1, 1)) for k in range(at_most)}
    return [clips[row] for row in sorted(rows[place] for place in places)]


@dataclass
class FolderRun:
    """What is collected of one folder while it is measured."""

    folder: Path
    loads: list[float]
    calls: list[list[float]]
    texts: list[str]
    finals: list[float]
    memory: tuple[float, float, float] = (0.0, 0.0, 0.0)


def measure_folders(
    folders: list[Path],
    clips: list[TimedClip],
    request: BenchmarkRequest,
    terms: Sequence[str],
    progress: Progress,
) -> list[FolderRun]:
    """Load and run the folders in turn: A B, B A, A B, … so that a drift meets both alike."""
    runs = [FolderRun(folder, [], [[] for _ in clips], [""] * len(clips), []) for folder in folders]
    for turn in range(request.processes - 1):
        for run in _in_turn(runs, turn):
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


def _in_turn(items: Sequence[_Item], turn: int) -> list[_Item]:
    return list(items) if turn % 2 == 0 else list(reversed(items))


def _time_clips(
    pairs: list[tuple[FolderRun, FreshProcess]],
    clips: list[TimedClip],
    rounds: int,
    progress: Progress,
) -> None:
    with progress.stage("timing clips", rounds * len(clips)) as stage:
        for turn in range(rounds):
            for row, clip in enumerate(clips):
                for run, process in _in_turn(pairs, turn + row):
                    heard = process.transcribe(clip.path)
                    run.calls[row].append(heard.seconds)
                    run.texts[row] = heard.text
                stage.advance()


def _time_streams(
    pairs: list[tuple[FolderRun, FreshProcess]],
    clips: list[TimedClip],
    request: BenchmarkRequest,
    progress: Progress,
) -> None:
    wanted = [
        (run, process)
        for run, process in pairs
        if (read_layout(run.folder).family == "streaming" if request.stream is None
            else request.stream)
    ]  # fmt: skip
    if not wanted:
        return
    chosen = _spread_over_lengths(clips, request.stream_clips)
    with progress.stage("feeding at the pace of speech", len(chosen) * len(wanted)) as stage:
        for row, clip in enumerate(chosen):
            for run, process in _in_turn(wanted, row):
                run.finals.append(process.stream(clip.path, CHUNK_S).seconds)
                stage.advance()
