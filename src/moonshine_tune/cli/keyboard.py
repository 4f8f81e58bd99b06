"""Single keys of a terminal, read without waiting."""

import os
import select
import sys
import termios
import tty
from types import TracebackType
from typing import Any


class Keys:
    """Reads keys as they are pressed: as a context manager, which restores the terminal.

    Without a terminal, the characters of standard input; its end reads as `q`.
    """

    def __init__(self) -> None:
        self._handle = sys.stdin.fileno()
        self._before: list[Any] | None = None

    def read(self) -> str:
        """The next key; empty where none was pressed."""
        if not select.select([self._handle], [], [], 0)[0]:
            return ""
        return os.read(self._handle, 1).decode("latin-1") or "q"

    def __enter__(self) -> "Keys":
        if os.isatty(self._handle):
            self._before = termios.tcgetattr(self._handle)
            # Keys come one by one and are not shown; Ctrl-C still interrupts.
            tty.setcbreak(self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._before is not None:
            termios.tcsetattr(self._handle, termios.TCSADRAIN, self._before)
