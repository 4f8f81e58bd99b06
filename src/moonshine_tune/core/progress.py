"""The interface through which a job reports its progress."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol


class Stage(Protocol):
    """Progress of one piece of work that has a known number of steps."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Add `steps` to the finished ones; `note` appears beside the bar."""
        ...


class Progress(Protocol):
    """Receives messages, stages and metrics of a job. Implementations write to stderr only."""

    def say(self, text: str) -> None:
        """Show a message of one line."""
        ...

    def stage(self, name: str, total: int) -> "StageContext":
        """Start a stage of `total` steps, as a context manager."""
        ...

    def figures(self, step: int, values: Mapping[str, float]) -> None:
        """Take the metrics of a training step or of a score, by name, for curves."""
        ...

    def transcripts(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Take some of the latest transcripts as (reference, hypothesis)."""
        ...


class StageContext(Protocol):
    """Context manager of a stage."""

    def __enter__(self) -> Stage: ...

    def __exit__(self, *exc: Any) -> bool | None: ...


class SilentProgress:
    """Shows nothing: the default of the Python API."""

    def say(self, text: str) -> None:
        """Ignore the message."""

    def figures(self, step: int, values: Mapping[str, float]) -> None:
        """Ignore the metrics."""

    def transcripts(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Ignore the transcripts."""

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Stage]:
        """Start a stage that shows nothing."""
        yield _SilentStage()


class _SilentStage:
    def advance(self, steps: int = 1, note: str = "") -> None:
        """Ignore the count."""
