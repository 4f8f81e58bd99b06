"""Ctrl-C, SIGTERM and the end of a connection (SIGHUP) are one request: save, clean up, end."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
_HANGUP = getattr(signal, "SIGHUP", None)


@contextmanager
def interrupt_on_signals() -> Iterator[None]:
    """Raise KeyboardInterrupt for each of the signals, so that every `finally` runs.

    A SIGHUP that is ignored stays ignored: the process was started by `nohup`.
    """
    before = _install(_raise)
    try:
        yield
    finally:
        _restore(before)


class GracefulInterrupt:
    """Context manager that turns the signals into a flag. A second one ends the block at once.

    Attributes:
        wanted: whether a stop was requested.
    """

    def __init__(self) -> None:
        self.wanted = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "GracefulInterrupt":
        self._before = _install(self._request)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _restore(self._before)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if number == _HANGUP:
            _end_of_connection()
            self.wanted = True
            return
        if self.wanted:
            raise KeyboardInterrupt
        self.wanted = True


def _install(handler: Any) -> dict[int, Any]:
    """Set the handler of each signal; returns those before."""
    # Python allows signal handlers in the main thread only.
    if threading.current_thread() is not threading.main_thread():
        return {}
    wanted = [
        number
        for number in _SIGNALS
        if number != _HANGUP or signal.getsignal(number) != signal.SIG_IGN
    ]
    return {number: signal.signal(number, handler) for number in wanted}


def _restore(before: dict[int, Any]) -> None:
    for number, handler in before.items():
        # Once the connection has ended, further signals of its end stay ignored.
        if number != _HANGUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


def _raise(number: int, frame: FrameType | None) -> None:
    if number == _HANGUP:
        _end_of_connection()
    raise KeyboardInterrupt


def _end_of_connection() -> None:
    """Ignore what comes after the first SIGHUP, and stop writing to a terminal that is gone.

    The system and the shell each send one: the second must not cut short what the first began.
    """
    if _HANGUP is not None:
        signal.signal(_HANGUP, signal.SIG_IGN)
    for stream in (1, 2):
        if _is_gone(stream):
            with suppress(OSError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, stream)
                os.close(null)


def _is_gone(stream: int) -> bool:
    """Whether a stream was a terminal that has hung up: every call on it fails with EIO."""
    import errno
    import termios

    try:
        termios.tcgetattr(stream)
    except termios.error as error:
        return bool(error.args[0] == errno.EIO)
    return False
