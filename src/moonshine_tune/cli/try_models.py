"""`moonshine-tune try`: speak, and read the base and the adapted model side by side."""

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from moonshine_tune.cli.console import (
    JsonFlag,
    TerminalProgress,
    emit,
    emit_json,
    refuse,
    say,
    show,
)
from moonshine_tune.cli.options import DeviceOption
from moonshine_tune.core.text import printable, quoted

if TYPE_CHECKING:
    from moonshine_tune.transcription.model_pair import ModelPair, PairedTranscript

_EXAMPLE = (
    "Examples: moonshine-tune try runs/a ; moonshine-tune try exported talk.wav ; "
    "moonshine-tune try runs/a recordings/ --json"
)
_WAIT_S = 0.05


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("try", epilog=_EXAMPLE)(try_models)


def try_models(
    folder: Annotated[
        Path, Argument(metavar="FOLDER", help="Run, adapter, or exported runtime folder.")
    ],
    inputs: Annotated[
        list[str] | None,
        Argument(
            metavar="[FILE]...",
            help="Recordings of any length, folders or manifests [default: the microphone].",
        ),
    ] = None,
    base_runtime: Annotated[
        Path | None,
        Option(
            "--base-runtime", help="Runtime folder of the base model [default: by export.json]."
        ),
    ] = None,
    microphone: Annotated[
        str | None, Option(help="A part of its name, or its number [default: the system's].")
    ] = None,
    device: DeviceOption = "auto",
    as_json: JsonFlag = False,
) -> None:
    """Speak or give recordings, and read the base and the adapted model side by side.

    With a microphone, Enter stops and starts it and q quits. With --json, each piece of speech is a
    line of its own.
    """
    from moonshine_tune.audio.microphone import Microphone
    from moonshine_tune.transcription.model_pair import open_pair, recordings_to_try

    progress = TerminalProgress()
    view = _View(as_json=as_json)
    with ExitStack() as stack:
        if inputs:
            recordings, infos = recordings_to_try(inputs, progress)
            pair = open_pair(folder, stack, progress, base_runtime=base_runtime, device=device)
            failed = _try_files(pair, recordings, infos, view)
        else:
            # First: without a microphone, no model needs to be loaded.
            instead = f"moonshine-tune try {quoted(folder)} talk.wav"
            source = stack.enter_context(Microphone(microphone, instead=instead))
            pair = open_pair(folder, stack, progress, base_runtime=base_runtime, device=device)
            _try_microphone(pair, source, view)
            failed = 0
    show(view.summary(pair.backend), view.document(pair.backend, failed), as_json=as_json)
    refuse(bool(failed))


def _try_files(pair: "ModelPair", recordings: Sequence[Any], infos: Any, view: "_View") -> int:
    """Show each piece of each recording; returns how many recordings cannot be read."""
    from moonshine_tune.core.errors import AudioError
    from moonshine_tune.transcription.model_pair import transcribe_pairs

    failed = 0
    for recording in recordings:
        before = view.pieces
        try:
            for transcript in transcribe_pairs(pair, recording, infos[recording.path]):
                view.show_final(transcript)
        except AudioError as error:
            failed += 1
            say(str(error))
        else:
            if view.pieces == before:
                say(f"{recording}: nothing is spoken")
    return failed


def _try_microphone(pair: "ModelPair", source: Any, view: "_View") -> None:
    from moonshine_tune.cli.keyboard import Keys
    from moonshine_tune.transcription.live import transcribe_live

    say(f"microphone: {source.name}")
    with Keys() as keys, view:
        try:
            transcribe_live(pair, source, view, keys.read, lambda: time.sleep(_WAIT_S))
        except KeyboardInterrupt:
            # Ctrl-C is another way to quit.
            source.stop()
    if source.lost_s >= 1:
        say(
            f"{source.lost_s:.0f} s of sound were lost: the models are slower than speech on "
            "this machine"
        )


class _View:
    """Shows transcripts: what is complete on stdout, what is being spoken below it."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        # Without a terminal, changed words get a mark that a file can hold.
        self._is_live = sys.stdout.isatty() and not as_json
        self._latencies: dict[str, list[float]] = {"base": [], "adapted": []}
        self._differing = 0
        self._live: Any = None

    @property
    def pieces(self) -> int:
        """How many were shown."""
        return len(self._latencies["base"])

    def __enter__(self) -> "_View":
        if self._is_live:
            from rich.console import Console
            from rich.live import Live

            self._live = Live("", console=Console(highlight=False), transient=True)
            self._live.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def show_state(self, *, is_listening: bool) -> None:
        """Say what the keys do now."""
        state = "listening: speak" if is_listening else "stopped"
        text = f"{state}; Enter {'stops' if is_listening else 'starts'}, q quits"
        if self._live is not None:
            self._live.update(text)
        else:
            say(text)

    def show_partial(self, transcript: "PairedTranscript") -> None:
        """What both models write so far; shown where it can be replaced."""
        if self._live is not None:
            self._live.update(self._styled(transcript, is_final=False))

    def show_final(self, transcript: "PairedTranscript") -> None:
        """What both models write on a piece."""
        self._latencies["base"].append(transcript.base.latency_ms)
        self._latencies["adapted"].append(transcript.adapted.latency_ms)
        self._differing += transcript.differs
        if self._as_json:
            emit_json(transcript.to_record())
        elif self._is_live:
            from rich.console import Console

            console = Console(highlight=False)
            if self._live is not None:
                console = self._live.console
                # What was shown of it while it was spoken.
                self._live.update("")
            console.print(self._styled(transcript, is_final=True), soft_wrap=True)
        else:
            emit(_plain(transcript))

    def summary(self, backend: str) -> str:
        """All pieces in a line."""
        if not self.pieces:
            return "nothing was spoken"
        medians = ", ".join(
            f"{name} {median(times):.0f}" for name, times in self._latencies.items()
        )
        return (
            f"{self.pieces} pieces of speech, {self._differing} with other words; median latency "
            f"in ms ({backend}): {medians}"
        )

    def document(self, backend: str, failed: int) -> dict[str, Any]:
        """The summary as JSON."""
        return {
            "backend": backend,
            "pieces": self.pieces,
            "differing": self._differing,
            "failed": failed,
            "median_latency_ms": {
                name: round(median(times), 1) if times else None
                for name, times in self._latencies.items()
            },
        }

    @staticmethod
    def _styled(transcript: "PairedTranscript", *, is_final: bool) -> Any:
        """Both lines for a terminal; changed words are colored, and bold without colors."""
        from rich.text import Text

        text = Text(f"{_title(transcript)}\n" if is_final else "")
        sides = (
            ("base", transcript.base, "bold red"),
            ("adapted", transcript.adapted, "bold green"),
        )
        for (name, side, style), changed in zip(sides, transcript.changed_words, strict=True):
            text.append(f"  {name:<8}{side.latency_ms:5.0f} ms ", style="dim")
            for word, is_changed in zip(side.text.split(), changed, strict=True):
                text.append(" ")
                text.append(printable(word), style=style if is_changed else "")
            text.append("\n")
        return text


def _title(transcript: "PairedTranscript") -> str:
    return printable(f"{transcript.source}, {transcript.start_s:.1f} to {transcript.end_s:.1f} s")


def _plain(transcript: "PairedTranscript") -> str:
    """Both lines for a file: changed words stand between asterisks."""
    lines = [_title(transcript)]
    sides = (("base", transcript.base), ("adapted", transcript.adapted))
    for (name, side), changed in zip(sides, transcript.changed_words, strict=True):
        words = (
            f"*{word}*" if is_changed else word
            for word, is_changed in zip(side.text.split(), changed, strict=True)
        )
        lines.append(f"  {name:<8}{side.latency_ms:5.0f} ms  {' '.join(words)}".rstrip())
    return "\n".join(lines) + "\n"
