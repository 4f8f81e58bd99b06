"""Clean stop: the first Ctrl-C ends a loop after its current step, the second one at once."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class GracefulInterrupt:
    """Context manager that turns SIGINT and SIGTERM into a flag.

    Attributes:
        wanted: whether a stop was requested.
    """

    _SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.wanted = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "GracefulInterrupt":
        # Python allows signal handlers in the main thread only; elsewhere the flag stays false.
        if threading.current_thread() is threading.main_thread():
            for number in self._SIGNALS:
                self._before[number] = signal.signal(number, self._request)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.wanted:
            raise KeyboardInterrupt
        self.wanted = True
