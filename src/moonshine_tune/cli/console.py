"""Output of all commands: results go to stdout, progress and messages go to stderr."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from moonshine_tune.cli.live_view import LiveView
from moonshine_tune.core.errors import TuneError
from moonshine_tune.core.progress import Progress, Stage

JsonFlag = Annotated[
    bool, typer.Option("--json", help="Print one JSON document as the last line of stdout.")
]


def plain(value: Any) -> Any:
    """`value` as JSON data: dataclasses become objects, paths become strings."""
    if is_dataclass(value) and not isinstance(value, type):
        return {key: plain(item) for key, item in asdict(value).items()}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value


def show(text: str, document: Any, *, as_json: bool) -> None:
    """Print a result: `text` for people, or with `as_json` the document as one line of JSON.

    In distributed training only rank zero prints.
    """
    if not _is_rank_zero():
        return
    if as_json:
        say(text)
        sys.stdout.write(json.dumps(plain(document), ensure_ascii=False) + "\n")
    else:
        sys.stdout.write(text.rstrip("\n") + "\n")
    sys.stdout.flush()


def _is_rank_zero() -> bool:
    """By the variable that `torchrun` and `accelerate launch` set; also without them."""
    return os.environ.get("RANK", "0") == "0"


def say(text: str) -> None:
    """Print one line on stderr."""
    sys.stderr.write(text.rstrip("\n") + "\n")
    sys.stderr.flush()


def report_error(error: TuneError, *, as_json: bool) -> int:
    """Print an error with its hint on stderr, as JSON also on stdout; returns the exit code."""
    say(f"error: {error}")
    if error.hint:
        say(f"hint: {error.hint}")
    if as_json and _is_rank_zero():
        document = {
            "error": {
                "message": error.message,
                "where": error.where,
                "hint": error.hint,
                "exit_code": error.exit_code,
            }
        }
        sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")
    return error.exit_code


def refuse(answer: bool) -> None:
    """Exit with code 1 if the answer is no."""
    if answer:
        raise typer.Exit(1)


def table(headers: list[str], rows: list[list[str]]) -> str:
    """A plain text table; the first column is left-aligned, the others right-aligned."""
    widths = [max(len(row[i]) for row in [headers, *rows]) for i in range(len(headers))]

    def line(cells: list[str]) -> str:
        left = cells[0].ljust(widths[0])
        right = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        return "  ".join([left, *right]).rstrip()

    return "\n".join([line(headers), line(["-" * w for w in widths]), *map(line, rows)])


class TerminalProgress(Progress):
    """Progress on stderr: a live bar with ETA on a terminal, otherwise occasional plain lines."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._live = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._bars: Any = None
        self._live_view = LiveView()

    def figures(self, step: int, values: Mapping[str, float]) -> None:
        """Add metrics to the curves below the bar; without a bar, its notes have them."""
        if self._live:
            self._live_view.add(values)

    def transcripts(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Show the latest transcripts below the curves."""
        if self._live:
            self._live_view.show_transcripts(pairs)

    def say(self, text: str) -> None:
        """Print one line, above the bar if there is one."""
        if self._bars is not None:
            self._bars.console.print(text, markup=False, highlight=False)
        else:
            say(text)

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Stage]:
        """Show a bar for `total` steps."""
        if not self._live or self._bars is not None:
            yield _PlainStage(name, total, self)
            return
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as RichProgress

        live_view = self._live_view

        class Bars(RichProgress):
            def get_renderables(self) -> Iterable[Any]:
                """The bar and, during training, the curves and transcripts below it."""
                yield from super().get_renderables()
                if not live_view.is_empty:
                    yield live_view

        with Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
        ) as bars:
            self._bars = bars
            try:
                yield _LiveStage(bars, bars.add_task(name, total=total, note=""))
            finally:
                self._bars = None
                # The next stage may train another run.
                self._live_view = LiveView()


class _LiveStage(Stage):
    def __init__(self, bars: Any, task: Any) -> None:
        self._bars, self._task = bars, task

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Move the bar."""
        fields = {"note": note} if note else {}
        self._bars.update(self._task, advance=steps, **fields)


class _PlainStage(Stage):
    """For logs: a line every ten seconds at most, and one at the end of a long stage."""

    _EVERY_S = 10.0

    def __init__(self, name: str, total: int, progress: TerminalProgress) -> None:
        self._name, self._total, self._progress = name, total, progress
        self._done = 0
        self._start_time = self._last_shown = time.monotonic()

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Count the steps, and print a line if it is time."""
        self._done += steps
        now = time.monotonic()
        spent = now - self._start_time
        is_last = self._done >= self._total and spent > self._EVERY_S
        if now - self._last_shown < self._EVERY_S and not is_last:
            return
        self._last_shown = now
        left = spent / max(self._done, 1) * max(self._total - self._done, 0)
        self._progress.say(
            f"{self._name} {self._done}/{self._total}, {spent:.0f} s, {left:.0f} s left {note}"
        )
