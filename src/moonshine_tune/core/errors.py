"""The tree of errors that a user can meet.

Each says what happened, where, and what to do next, and carries the exit code of the command
line: 1 it ran and the answer is no; 2 the request is wrong; 3 this machine cannot.
"""

from collections.abc import Sequence
from pathlib import Path


class TuneError(Exception):
    """Root of all expected failures.

    Args:
        message: one plain sentence with the offending value.
        hint: the next move, where possible a command.
        where: the file (and line) at fault.
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
    """The request cannot be met as asked: wrong input, settings or combination."""

    exit_code = 2


class ProblemsError(RequestError):
    """Several problems of one input, reported together."""

    def __init__(self, title: str, problems: Sequence[str], *, hint: str | None = None) -> None:
        self.problems = tuple(problems)
        shown = [f"  - {problem}" for problem in self.problems[:20]]
        if len(self.problems) > len(shown):
            shown.append(f"  … and {len(self.problems) - len(shown)} more")
        super().__init__("\n".join([title, *shown]), hint=hint)


class AudioError(RequestError):
    """A recording cannot be read or used."""


class NegativeAnswerError(TuneError):
    """The work ran to its end and the answer is no: a gate, a check, a parity test."""

    exit_code = 1


class MachineError(TuneError):
    """This machine cannot do it: no memory, no disk, no network, a missing library."""

    exit_code = 3


class SourceUnreachableError(MachineError):
    """A model source could not be reached or does not have the model."""
