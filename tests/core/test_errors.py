"""Messages and exit codes of the errors."""

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


def test_the_exit_codes_are_1_2_and_3() -> None:
    kinds = [value for value in vars(errors).values() if isinstance(value, type)]
    codes = {kind.exit_code for kind in kinds if issubclass(kind, TuneError)}
    assert codes == {1, 2, 3}


def test_the_file_comes_first() -> None:
    error = RequestError("no text", where=Path("a") / "train.jsonl", line=7, hint="fix it")
    assert str(error) == "a/train.jsonl:7: no text"
    assert (error.message, error.where, error.hint) == ("no text", "a/train.jsonl:7", "fix it")


def test_an_error_without_a_file_is_its_message() -> None:
    error = MachineError("no memory")
    assert (str(error), error.where, error.hint) == ("no memory", None, None)
    # A line number without a file is dropped.
    assert RequestError("odd", line=3).where is None


def test_problems_are_reported_together() -> None:
    error = ProblemsError("3 of 9 lines are wrong", ["one", "two", "three"], hint="fix them")
    assert str(error).splitlines() == [
        "3 of 9 lines are wrong", "  - one", "  - two", "  - three"
    ]  # fmt: skip
    assert error.problems == ("one", "two", "three")
    assert error.hint == "fix them"


def test_more_than_20_problems_are_counted() -> None:
    error = ProblemsError("wrong", [f"problem {number}" for number in range(53)])
    lines = str(error).splitlines()
    assert lines[1] == "  - problem 0"
    assert lines[-1] == "  … and 33 more"
    assert len(lines) == 22
    assert len(error.problems) == 53
