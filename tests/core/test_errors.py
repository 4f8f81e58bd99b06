"""What an error says, and with which code the command line ends."""

from pathlib import Path

import pytest

from moonshine_tune.core import errors
from moonshine_tune.core.errors import (
    AudioError,
    MachineError,
    NegativeAnswerError,
    ProblemsError,
    RequestError,
    SourceUnreachableError,
    TuneError,
)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (NegativeAnswerError, 1),
        (RequestError, 2),
        (AudioError, 2),
        (ProblemsError, 2),
        (MachineError, 3),
        (SourceUnreachableError, 3),
    ],
)
def test_each_kind_has_its_exit_code(kind: type[TuneError], code: int) -> None:
    assert kind.exit_code == code
    assert issubclass(kind, TuneError)


def test_every_kind_has_a_code_that_the_command_line_knows() -> None:
    kinds = [value for value in vars(errors).values() if isinstance(value, type)]
    found = {kind.exit_code for kind in kinds if issubclass(kind, TuneError)}
    assert found == {1, 2, 3}


def test_the_place_comes_first() -> None:
    error = RequestError("no text", where=Path("a") / "train.jsonl", line=7, hint="mend it")
    assert str(error) == "a/train.jsonl:7: no text"
    assert (error.message, error.where, error.hint) == ("no text", "a/train.jsonl:7", "mend it")


def test_an_error_without_a_place_is_its_message() -> None:
    error = MachineError("no memory")
    assert (str(error), error.where, error.hint) == ("no memory", None, None)
    # A line without a file says nothing.
    assert RequestError("odd", line=3).where is None


def test_problems_are_told_together() -> None:
    error = ProblemsError("3 of 9 lines are wrong", ["one", "two", "three"], hint="mend them")
    assert str(error).splitlines() == [
        "3 of 9 lines are wrong", "  - one", "  - two", "  - three"
    ]  # fmt: skip
    assert error.problems == ("one", "two", "three")
    assert error.hint == "mend them"


def test_very_many_problems_are_counted_and_kept() -> None:
    error = ProblemsError("wrong", [f"problem {number}" for number in range(53)])
    lines = str(error).splitlines()
    assert lines[1] == "  - problem 0"
    assert lines[-1] == "  … and 33 more"
    assert len(lines) == 22
    assert len(error.problems) == 53
