"""The interface through which a job reports its progress."""

from collections.abc import Callable, Iterator, Mapping, Sequence
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


def advance_to(stage: Stage, total: int) -> Callable[[float, str], None]:
    """A callback that takes the finished share of a stage of `total` steps, 0 to 1, and a note."""
    shown = 0

    def advance(share: float, note: str) -> None:
        nonlocal shown
        now = int(share * total)
        if now > shown:
            stage.advance(now - shown, note)
            shown = now

    return advance


class SilentProgress(Progress):
    """Shows nothing: the default of the Python API."""
