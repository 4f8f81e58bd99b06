"""Where the time of a job goes, by activity."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


class Stopwatch:
    """Adds up the wall time of activities; one inside another does not count for the outer one.

    Attributes:
        seconds: by activity, in the order in which each ended first.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        # Seconds that were measured inside each activity that is open.
        self._inside: list[float] = []

    @contextmanager
    def measure(self, activity: str) -> Iterator[None]:
        """Count the time of the block, also if it raises."""
        start = time.monotonic()
        self._inside.append(0.0)
        try:
            yield
        finally:
            taken = time.monotonic() - start
            self.add(activity, taken - self._inside.pop())
            if self._inside:
                self._inside[-1] += taken

    def add(self, activity: str, seconds: float) -> None:
        """Count time that was measured elsewhere."""
        self.seconds[activity] = self.seconds.get(activity, 0.0) + seconds

    def add_all(self, seconds: Mapping[str, float]) -> None:
        """Count the times of an earlier stopwatch."""
        for activity, value in seconds.items():
            self.add(activity, value)
