"""`transcribe`: recordings of any length to text, captions and manifests."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moonshine_tune.audio.io import AudioInfo
from moonshine_tune.audio.remarks import READING_REMARKS
from moonshine_tune.core.errors import AudioError, RequestError
from moonshine_tune.core.files import check_writable, holds_out, sha256_of
from moonshine_tune.core.progress import Progress, Stage
from moonshine_tune.importers.convert import probe
from moonshine_tune.inference.batching import run_with_oom_backoff
from moonshine_tune.inference.loops import without_loops
from moonshine_tune.inference.timed_text import TimedText
from moonshine_tune.inference.transcribe import TorchTranscriber, Transcriber
from moonshine_tune.models.files import ADAPTER_WEIGHTS_FILE
from moonshine_tune.models.lora import find_adapter
from moonshine_tune.registry.open import open_model
from moonshine_tune.runs.records import AliasesRecord
from moonshine_tune.runtime.transcriber import RuntimeTranscriber
from moonshine_tune.transcription.aliases import with_aliases
from moonshine_tune.transcription.output import (
    FileOutput,
    Output,
    OutputRequest,
    StandardOutput,
    check_output,
)
from moonshine_tune.transcription.pieces import Piece, recording_pieces
from moonshine_tune.transcription.recordings import Recording, find_recordings
from moonshine_tune.transcription.segments import Segment


@dataclass(frozen=True)
class TranscribeRequest:
    """What to transcribe, and with what.

    Attributes:
        inputs: audio files, folders, manifests, or `-` for paths on standard input.
        runtime_dir: runtime folder, decoded by the Moonshine runtime; excludes the others.
        channel: of recordings with several, from 1; None averages them.
        aliases: file of `data aliases`, which are mapped back to their terms.
    """

    inputs: tuple[str, ...]
    output: OutputRequest
    model: str | None = None
    adapter: Path | None = None
    runtime_dir: Path | None = None
    device: str = "auto"
    channel: int | None = None
    aliases: Path | None = None


@dataclass(frozen=True)
class Failure:
    """A recording that could not be transcribed, and why."""

    recording: str
    reason: str


@dataclass(frozen=True)
class TranscribeResult:
    """What became of the recordings.

    Attributes:
        transcribed: complete now; `silent` are those of them in which nothing is spoken.
        skipped: were complete before.
        audio_seconds: that were transcribed, in `seconds`.
    """

    transcribed: int
    skipped: int
    silent: tuple[str, ...]
    failed: tuple[Failure, ...]
    audio_seconds: float
    seconds: float
    files: tuple[Path, ...] = ()

    def to_record(self) -> dict[str, Any]:
        """The JSON document."""
        return {
            "transcribed": self.transcribed,
            "skipped": self.skipped,
            "silent": list(self.silent),
            "failed": [vars(item) for item in self.failed],
            "audio_seconds": round(self.audio_seconds, 2),
            "seconds": round(self.seconds, 2),
            "files": [str(path) for path in self.files],
        }


@dataclass(frozen=True)
class _Event:
    """A piece of a recording, or its end.

    Attributes:
        error: why it cannot be read on.
        is_skipped: whether it was complete before.
    """

    recording: Recording
    piece: Piece | None = None
    error: AudioError | None = None
    is_skipped: bool = False


@dataclass
class _Counts:
    transcribed: int = 0
    skipped: int = 0
    audio_s: float = 0.0
    silent: list[str] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)


@holds_out(lambda request, progress, stdin, emit: request.output.out)
def transcribe(
    request: TranscribeRequest,
    progress: Progress,
    stdin: Iterable[str],
    emit: Callable[[str], None],
) -> TranscribeResult:
    """Transcribe every recording; those that cannot be read are named in the result.

    Args:
        stdin: lines of standard input.
        emit: takes what goes to standard output.

    Raises:
        RequestError: wrong input or options, or an output that exists.
    """
    _check(request)
    aliases = AliasesRecord.read(request.aliases).aliases if request.aliases else {}
    recordings = find_recordings(request.inputs, stdin)
    check_output(request.output, recordings)
    infos = probe([recording.path for recording in recordings], progress)
    _report_channels(request, recordings, infos, progress)
    start_time = time.monotonic()
    with ExitStack() as stack:
        transcriber, identity = _open_transcriber(request, stack, progress)
        output: Output
        if request.output.out is None:
            output = StandardOutput(request.output, emit, is_single=len(recordings) == 1)
        else:
            output = FileOutput(request.output, recordings, identity)
        try:
            counts = _Job(request, transcriber, output, infos, progress, aliases).run(recordings)
        except KeyboardInterrupt:
            if request.output.out is not None:
                progress.say("stopped; continue with the same command and --resume")
            raise
        files = output.close()
    for remark in READING_REMARKS.take():
        progress.say(remark)
    return TranscribeResult(
        counts.transcribed,
        counts.skipped,
        tuple(counts.silent),
        tuple(counts.failed),
        counts.audio_s,
        time.monotonic() - start_time,
        files,
    )


def _check(request: TranscribeRequest) -> None:
    out = request.output.out
    if out is not None:
        check_writable(out)
        if any(out.resolve() == Path(name).resolve() for name in request.inputs if out.is_file()):
            raise RequestError(
                "the transcripts would overwrite an input",
                where=out,
                hint="choose another name: --out transcripts.jsonl",
            )
    if request.runtime_dir is not None and (request.model or request.adapter):
        raise RequestError(
            "the runtime does not load a model or an adapter beside its own files",
            hint="export the adapter first, then name the exported folder with --runtime-dir alone",
        )
    if request.runtime_dir is not None and request.output.with_words:
        raise RequestError(
            "the runtime does not say when a word is spoken",
            hint="leave out --words, or name the model with --model or --adapter",
        )
    if request.channel is not None and request.channel < 1:
        raise RequestError(f"channel {request.channel}: channels are counted from 1")
    if request.channel is not None and "jsonl" in request.output.formats:
        raise RequestError(
            "a manifest cannot name one channel of a recording",
            hint="copy the channel first: moonshine-tune data import FOLDER --no-text "
            f"--audio-out DIR --channel {request.channel:d} --out F.jsonl",
        )


def _report_channels(
    request: TranscribeRequest,
    recordings: Sequence[Recording],
    infos: Mapping[Path, AudioInfo | AudioError],
    progress: Progress,
) -> None:
    """Say how recordings with several channels are read: speakers may have one each."""
    several = [
        recording.path
        for recording in recordings
        if isinstance(info := infos[recording.path], AudioInfo) and info.channels > 1
    ]
    if several and request.channel is None:
        names = several[0].name if len(several) == 1 else f"{len(several):,} recordings"
        progress.say(
            f"{names}: channels are averaged; if each has a speaker of its own, transcribe one "
            "after the other with --channel 1, --channel 2"
        )


def _open_transcriber(
    request: TranscribeRequest, stack: ExitStack, progress: Progress
) -> tuple[Transcriber, dict[str, Any]]:
    """The transcriber, and what makes its transcripts comparable with those of another job."""
    settings: dict[str, Any] = {
        "channel": request.channel,
        "times": request.output.needs_times,
        "words": request.output.with_words,
    }
    if request.aliases is not None:
        settings["aliases"] = sha256_of(request.aliases)
    if request.runtime_dir is not None:
        runtime = stack.enter_context(RuntimeTranscriber(request.runtime_dir))
        files = sorted(path for path in request.runtime_dir.iterdir() if path.is_file())
        return runtime, settings | {"runtime": [sha256_of(path) for path in files]}
    opened = open_model(
        request.model,
        adapter=request.adapter,
        device=request.device,
        dtype="float32",
        progress=progress,
    )
    adapter = None
    if request.adapter is not None:
        adapter = sha256_of(find_adapter(request.adapter) / ADAPTER_WEIGHTS_FILE)
    identity = settings | {"model": opened.base["sha256"], "adapter": adapter}
    return TorchTranscriber(opened.model, opened.limits), identity


class _Job:
    """Reads, transcribes and hands on, one batch of pieces at a time."""

    def __init__(
        self,
        request: TranscribeRequest,
        transcriber: Transcriber,
        output: Output,
        infos: Mapping[Path, AudioInfo | AudioError],
        progress: Progress,
        aliases: Mapping[str, str],
    ) -> None:
        self._request, self._transcriber, self._output = request, transcriber, output
        self._infos, self._progress, self._aliases = infos, progress, aliases
        self._counts = _Counts()
        # Segments with text of recordings that are not complete, and how far the bar is.
        self._spoken: dict[str, int] = {}
        self._position: dict[str, float] = {}

    def run(self, recordings: Sequence[Recording]) -> _Counts:
        """Transcribe the recordings in their order."""
        total = sum(self._seconds(recording) for recording in recordings)
        with self._progress.stage("transcribing, seconds of audio", round(total)) as stage:
            for events in self._batches(recordings):
                clips = [event.piece.samples for event in events if event.piece is not None]
                following = iter(without_loops(clips, self._transcribe))
                for event in events:
                    self._finish(event, following, stage)
        return self._counts

    def _seconds(self, recording: Recording) -> float:
        """Length of a recording, or 0 where its header cannot be read."""
        info = self._infos[recording.path]
        if isinstance(info, AudioError):
            return 0.0
        end_s = recording.utterance.end
        return max((info.seconds if end_s is None else end_s) - recording.start_s, 0.0)

    def _batches(self, recordings: Sequence[Recording]) -> Iterator[list[_Event]]:
        """Events in order, with as much audio as is best transcribed together."""
        events: list[_Event] = []
        seconds = 0.0
        for recording in recordings:
            for event in self._events(recording):
                events.append(event)
                if event.piece is not None:
                    seconds += event.piece.end_s - event.piece.start_s
                if seconds >= self._transcriber.batch_s:
                    yield events
                    events, seconds = [], 0.0
        if events:
            yield events

    def _events(self, recording: Recording) -> Iterator[_Event]:
        info = self._infos[recording.path]
        if isinstance(info, AudioError):
            yield _Event(recording, error=info)
            return
        before = self._output.begin(recording)
        if before is None:
            yield _Event(recording, is_skipped=True)
            return
        self._spoken[recording.name] = sum(bool(item.text) for item in before.segments)
        self._counts.audio_s -= before.next_s
        try:
            for piece in recording_pieces(
                recording, start_s=before.next_s, channel=self._request.channel
            ):
                yield _Event(recording, piece)
        except AudioError as error:
            yield _Event(recording, error=error)
        else:
            yield _Event(recording)

    def _transcribe(self, clips: Sequence[Any]) -> list[TimedText]:
        """Transcripts of clips, in order, decoded together by length."""
        transcriber = self._transcriber
        results = [TimedText("")] * len(clips)
        if not isinstance(transcriber, TorchTranscriber):
            return [TimedText(text) for text in transcriber.transcribe(clips)] if clips else []

        def work(rows: Sequence[int]) -> None:
            chosen = [clips[row] for row in rows]
            if self._request.output.needs_times:
                texts = transcriber.transcribe_timed(chosen)
            else:
                texts = [TimedText(text) for text in transcriber.transcribe(chosen)]
            for row, text in zip(rows, texts, strict=True):
                results[row] = text

        order = sorted(range(len(clips)), key=lambda row: len(clips[row]))
        run_with_oom_backoff([order] if order else [], work, transcriber.device)
        return results

    def _finish(self, event: _Event, transcripts: Iterator[TimedText], stage: Stage) -> None:
        recording, piece = event.recording, event.piece
        name, origin_s = recording.name, recording.start_s
        if event.is_skipped:
            self._counts.skipped += 1
            self._advance(recording, self._seconds(recording), stage, is_transcribed=False)
        elif event.error is not None:
            reason = event.error.message
            self._counts.failed.append(Failure(str(recording), reason))
            self._progress.say(f"{recording}: {reason}")
            self._advance(recording, self._seconds(recording), stage, is_transcribed=False)
        elif piece is not None:
            transcript = with_aliases(next(transcripts), self._aliases)
            segment = Segment.of(origin_s + piece.start_s, origin_s + piece.end_s, transcript)
            self._spoken[name] += bool(segment.text)
            self._output.take(recording, segment, piece.end_s)
            self._advance(recording, piece.end_s, stage)
        else:
            end_s = origin_s + self._seconds(recording)
            self._output.complete(recording, end_s)
            self._counts.transcribed += 1
            if not self._spoken.pop(name):
                self._counts.silent.append(str(recording))
                self._progress.say(f"{recording}: nothing is spoken, so its transcript is empty")
            self._advance(recording, self._seconds(recording), stage)

    def _advance(
        self,
        recording: Recording,
        position_s: float,
        stage: Stage,
        *,
        is_transcribed: bool = True,
    ) -> None:
        before = self._position.get(recording.name, 0.0)
        self._position[recording.name] = position_s
        if is_transcribed:
            self._counts.audio_s += position_s - before
        stage.advance(round(position_s) - round(before), recording.path.name)
