"""How a job tells what it is doing, without knowing who listens."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol


class Stage(Protocol):
    """One countable piece of work that is under way."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Count `steps` more as done; `note` is shown beside the bar."""
        ...


class Progress(Protocol):
    """Receives what a job wants a person to see. Implementations write to stderr only."""

    def say(self, text: str) -> None:
        """Show one line."""
        ...

    def stage(self, name: str, total: int) -> "StageContext":
        """Open a stage of `total` steps, as a context manager."""
        ...

    def figures(self, step: int, values: Mapping[str, float]) -> None:
        """Take the figures of a training step or score, by name, for curves."""
        ...

    def transcripts(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Take some of the last transcripts, each as reference and hypothesis."""
        ...


class StageContext(Protocol):
    """A stage as a context manager."""

    def __enter__(self) -> Stage: ...

    def __exit__(self, *exc: Any) -> bool | None: ...


class SilentProgress:
    """Shows nothing: for tests and for use as a library."""

    def say(self, text: str) -> None:
        """Drop the line."""

    def figures(self, step: int, values: Mapping[str, float]) -> None:
        """Drop them."""

    def transcripts(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Drop them."""

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Stage]:
        """Open a stage that nobody watches."""
        yield _SilentStage()


class _SilentStage:
    def advance(self, steps: int = 1, note: str = "") -> None:
        """Drop the count."""
