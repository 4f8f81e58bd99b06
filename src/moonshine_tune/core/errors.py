"""The errors that a user can get.

Each has a message, the file at fault, a hint with the next step, and the exit code of the command
line: 1 the command ran and the answer is no; 2 the request is wrong; 3 this machine cannot do it.
"""

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


class TuneError(Exception):
    """Base class of all expected errors.

    Args:
        message: one plain sentence with the wrong value.
        hint: the next step, a command if possible.
        where, line: the file at fault and the line in it.
    """

    exit_code = 2

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        where: str | Path | None = None,
        line: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.where = None if where is None else (f"{where}:{line}" if line else str(where))

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message


class RequestError(TuneError):
    """The request is wrong: its input, its settings, or their combination."""

    exit_code = 2


class ProblemsError(RequestError):
    """One input has several problems, reported together."""

    def __init__(self, title: str, problems: Sequence[str], *, hint: str | None = None) -> None:
        self.problems = tuple(problems)
        shown = [f"  - {problem}" for problem in self.problems[:20]]
        if len(self.problems) > len(shown):
            shown.append(f"  … and {len(self.problems) - len(shown)} more")
        super().__init__("\n".join([title, *shown]), hint=hint)


class AudioError(RequestError):
    """A recording cannot be read."""


class NegativeAnswerError(TuneError):
    """The command ran, and the answer is no: a gate, a check or a parity test failed."""

    exit_code = 1


class MachineError(TuneError):
    """This machine cannot do it: memory, disk, network or a library is missing."""

    exit_code = 3


class SourceUnreachableError(MachineError):
    """No source of a model is reachable, or none has the model."""


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk or a denied permission inside the block into a plain error."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise MachineError(
                "the disk is full",
                where=path,
                hint="free some space or choose another folder with --out, then run again",
            ) from error
        if error.errno == errno.EFBIG:
            raise MachineError(
                "the file may not become as large as needed",
                where=path,
                hint="raise the limit (ulimit -f unlimited), or choose another disk with --out",
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise RequestError(
                "this path cannot be written",
                where=path,
                hint="choose another folder with --out",
            ) from error
        raise
