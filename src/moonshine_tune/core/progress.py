"""The interface through which a job reports its progress."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager


class Stage:
    """Progress of one piece of work that has a known number of steps."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Add `steps` to the finished ones; `note` appears beside the bar."""


class Progress:
    """Receives messages, stages and metrics of a job, and ignores them.

    Subclasses show what they need. They write to stderr only.
    """

    def say(self, text: str) -> None:
        """Show a message of one line."""

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Stage]:
        """Start a stage of `total` steps, as a context manager."""
        yield Stage()

    def figures(self, step: int, values: Mapping[str, float]) -> None:
        """Take the metrics of a training step or of a score, by name, for curves."""

    def transcripts(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Take some of the latest transcripts as (reference, hypothesis)."""


class SilentProgress(Progress):
    """Shows nothing: the default of the Python API."""
