"""Output of all commands: results go to stdout, progress and messages go to stderr."""

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO, cast

import typer

from moonshine_tune.cli.live_view import LiveView
from moonshine_tune.core.errors import TuneError
from moonshine_tune.core.progress import Progress, Stage
from moonshine_tune.core.progress_file import ProgressFile
from moonshine_tune.core.secrets import mask_secrets, mask_values
from moonshine_tune.core.text import printable

if TYPE_CHECKING:
    from moonshine_tune.metrics.wer import PairedComparison
    from moonshine_tune.runs.records import ComparisonRecord

JsonFlag = Annotated[
    bool, typer.Option("--json", help="Print one JSON document as the last line of stdout.")
]


def plain(value: Any) -> Any:
    """`value` as JSON-ready data: records become objects, paths become strings."""
    return json.loads(_as_json(value))


def _as_json(value: Any, *, ensure_ascii: bool = False) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, default=_plain_part)


def _plain_part(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    # A record of `runs.records`, which is not imported here: `--help` loads nothing heavy.
    return value.to_json() if hasattr(value, "to_json") else asdict(value)


def show(text: str, document: Any, *, as_json: bool) -> None:
    """Print a result: `text` for people, or with `as_json` the document as one line of JSON.

    Of several processes that train together only the first one prints.
    """
    if not _is_rank_zero():
        return
    if as_json:
        say(text)
        _write_json(document)
    else:
        _write(sys.stdout, text)


def _is_rank_zero() -> bool:
    """By the variable that `torchrun` and `accelerate launch` set; also without them."""
    return os.environ.get("RANK", "0") == "0"


def say(text: str) -> None:
    """Print one line on stderr."""
    _write(sys.stderr, text)


def emit(text: str) -> None:
    """Write a part of a result to stdout: transcripts of speech, which no secret is masked in."""
    _write_encodable(sys.stdout, printable(text))


def emit_json(document: Any) -> None:
    """Write one line of JSON to stdout, where a result has several."""
    _write_json(document)


def _write(stream: TextIO, text: str) -> None:
    """Print a text that may hold parts of any origin: no escape sequence, and no secret."""
    _write_encodable(stream, printable(mask_secrets(text.rstrip("\n"))) + "\n")


def _write_json(document: Any) -> None:
    """Print one line of JSON. JSON has escapes of its own for what a terminal must not get."""
    content = mask_values(plain(document))
    line = _as_json(content)
    if printable(line) != line or not _is_encodable(line, sys.stdout):
        line = _as_json(content, ensure_ascii=True)
    _write_encodable(sys.stdout, line + "\n")


def _write_encodable(stream: TextIO, text: str) -> None:
    """Write a text; what the stream's encoding lacks, such as half of a character, as an escape."""
    if not _is_encodable(text, stream):
        encoding = stream.encoding or "utf-8"
        text = text.encode(encoding, "backslashreplace").decode(encoding)
    stream.write(text)
    stream.flush()


def _is_encodable(text: str, stream: TextIO) -> bool:
    try:
        text.encode(getattr(stream, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


class _LastingStream:
    """A text stream that goes on without its reader: what cannot be written is lost.

    A message must not end a job that has hours of work to save. The reader is gone when a terminal
    is closed, or the program that a pipe leads to has ended.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write the text, or lose it."""
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush the stream, or lose its content."""
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def lasting_stderr() -> Iterator[None]:
    """Let no lost message end the work inside the block."""
    before = sys.stderr
    sys.stderr = cast(TextIO, _LastingStream(before))
    try:
        yield
    finally:
        sys.stderr = before


def report_error(error: TuneError, *, as_json: bool) -> int:
    """Show one plain error with its hint; returns the exit code."""
    say(f"error: {error}")
    if error.hint:
        say(f"hint: {error.hint}")
    if as_json:
        show_error_document(error)
    return error.exit_code


def show_error_document(error: TuneError) -> None:
    """Print an error as the JSON document of `--json`."""
    if not _is_rank_zero():
        return
    document = {
        "error": {
            "message": error.message,
            "where": error.where,
            "hint": error.hint,
            "exit_code": error.exit_code,
        }
    }
    _write_json(document)


def refuse(answer: bool) -> None:
    """Leave with exit code 1 where the answer is no."""
    if answer:
        raise typer.Exit(1)


def table(headers: list[str], rows: list[list[str]]) -> str:
    """A plain text table: first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in [headers, *rows]) for i in range(len(headers))]

    def line(cells: list[str]) -> str:
        first = cells[0].ljust(widths[0])
        rest = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        return "  ".join([first, *rest]).rstrip()

    return "\n".join([line(headers), line(["-" * w for w in widths]), *map(line, rows)])


def number(value: float | None, form: str = ".2f", missing: str = "-") -> str:
    """A figure as text, also one that was not measured."""
    return missing if value is None else format(value, form)


def with_interval(value: float | None, ci95: tuple[float, float] | None, form: str = ".2f") -> str:
    """For example `12.50 [11.20, 13.80]`."""
    ends = "" if ci95 is None else f" [{ci95[0]:{form}}, {ci95[1]:{form}}]"
    return number(value, form) + ends


def change_text(change: "PairedComparison | ComparisonRecord") -> str:
    """For example `-1.20 points [-2.10, -0.40]: better`."""
    low, high = change.ci95 or (0.0, 0.0)
    return f"{change.difference:+.2f} points [{low:+.2f}, {high:+.2f}]: {change.verdict}"


class TerminalProgress(Progress):
    """Progress on stderr: a live bar with ETA on a terminal, otherwise occasional plain lines."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._console: Any = None
        self._live_view = LiveView()
        self._file = ProgressFile.of_environment()

    def figures(self, step: int, values: Mapping[str, float]) -> None:
        """Add metrics to the curves below the bar; without a bar, its notes have them."""
        self._file.figures(step, values)
        if self._live:
            self._live_view.add(values)

    def transcripts(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Show the latest transcripts below the curves."""
        self._file.transcripts(pairs)
        if self._live:
            self._live_view.show_transcripts(pairs)

    def say(self, text: str) -> None:
        """Print one line, above the bar if there is one."""
        self._file.say(text)
        self.show_line(text)

    def show_line(self, text: str) -> None:
        """Print one line that only people read."""
        if self._console is not None:
            self._console.print(printable(mask_secrets(text)), markup=False, highlight=False)
        else:
            say(text)

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Stage]:
        """Show a bar for `total` steps."""
        if not self._live or self._console is not None:
            with self._file.stage(name, total) as recorded:
                yield _PlainStage(name, total, self, recorded)
            return
        from rich.console import Console, Group
        from rich.live import Live
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as RichProgress

        bars = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        console = Console(stderr=True)
        with Live(Group(bars, self._live_view), console=console, refresh_per_second=10):
            self._console = console
            try:
                yield _LiveStage(bars, bars.add_task(printable(name), total=total, note=""))
            finally:
                self._console = None
                # The next stage may train another run.
                self._live_view = LiveView()


class _LiveStage(Stage):
    def __init__(self, bars: Any, task: Any) -> None:
        self._bars, self._task = bars, task

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Move the bar."""
        fields = {"note": printable(note)} if note else {}
        self._bars.update(self._task, advance=steps, **fields)


class _PlainStage(Stage):
    """For logs: a line at most every ten seconds, and one at the end of a long stage."""

    _EVERY_S = 10.0

    def __init__(self, name: str, total: int, progress: TerminalProgress, recorded: Stage) -> None:
        self._name, self._total = name, total
        self._progress, self._recorded = progress, recorded
        self._done = 0
        self._start_time = self._last_shown = time.monotonic()

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Count the steps, and print a line if it is time."""
        self._done += steps
        self._recorded.advance(steps, note)
        now = time.monotonic()
        spent = now - self._start_time
        is_last = self._done >= self._total and spent > self._EVERY_S
        if now - self._last_shown < self._EVERY_S and not is_last:
            return
        self._last_shown = now
        left = spent / max(self._done, 1) * max(self._total - self._done, 0)
        self._progress.show_line(
            f"{self._name} {self._done}/{self._total}, {spent:.0f} s, {left:.0f} s left {note}"
        )
