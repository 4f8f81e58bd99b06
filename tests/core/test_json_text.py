"""JSON of unknown origin: what is read, and what is refused with the limit in the message."""

import math
from pathlib import Path

import pytest

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import read_json, read_lines, write_json_atomic, write_jsonl_atomic
from moonshine_tune.core.json_text import (
    MAX_DEPTH,
    MAX_LINE_CHARS,
    JsonError,
    parse_json,
    parse_json_line,
    parse_json_object,
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON (Expecting value at column 1)"),
        ('{"a": 1,\n "b": }', "at line 2, column 7"),
        ("[" * 3000, "levels deep"),
        ('{"a":' * 100 + "1" + "}" * 100, "more than 64 levels deep"),
        ("[" * 1_000_000, "levels deep"),
        ("9" * 401, "a number of 401 digits"),
        ('{"a": [-' + "9" * 5000 + "]}", "a number of 5001 digits"),
        ("1e999", "the number 1e999 is out of range"),
        ("NaN", "NaN; write null"),
        ('{"a": -Infinity}', "-Infinity; write null"),
        (r'"half \ud83d"', "half of a character"),
        (r'{"\uDFFF": 1}', "half of a character"),
    ],
)
def test_what_is_refused(text: str, message: str) -> None:
    with pytest.raises(JsonError) as caught:
        parse_json(text)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r'"\ud83d\ude00"', "😀"),
        ('"' + "[" * 500 + '"', "[" * 500),
        ("[" * MAX_DEPTH + "]" * MAX_DEPTH, None),
        ("[[]" + ", []" * 500 + "]", [[]] * 501),
        ("9" * 300, int("9" * 300)),
        ("1e-999", 0.0),
    ],
)
def test_what_is_read(text: str, value: object) -> None:
    assert parse_json(text) == value or value is None


def test_a_reader_of_damaged_files_takes_more() -> None:
    assert math.isnan(parse_json("NaN", lenient=True))
    assert parse_json(r'"\ud83d"', lenient=True) == "\ud83d"
    with pytest.raises(JsonError, match="levels deep"):
        parse_json("[" * 3000, lenient=True)


def test_a_line_has_a_longest_length_and_holds_an_object() -> None:
    assert parse_json_line(f'"{"a" * (MAX_LINE_CHARS - 2)}"')
    with pytest.raises(JsonError, match="10,000,002 characters"):
        parse_json_line(f'"{"a" * 10_000_000}"')
    for line in ("[1]", "5", "null"):
        with pytest.raises(JsonError, match="not a JSON object"):
            parse_json_object(line)


def test_a_file_has_a_largest_size(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(b'{"a": "' + b" " * 33_000_000 + b'"}')
    with pytest.raises(RequestError, match="larger than 32 MB") as caught:
        read_json(path, hint="make it again")
    assert (caught.value.where, caught.value.hint) == (str(path), "make it again")
    path.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(RequestError, match="cannot be read"):
        read_json(path)


def test_what_is_no_json_is_not_written(tmp_path: Path) -> None:
    """A later reader would refuse the file."""
    for value, message in ((math.inf, "not JSON compliant"), ("\udce9.wav", "not UTF-8 text")):
        with pytest.raises(RequestError, match=message):
            write_json_atomic(tmp_path / "a.json", {"a": value})
        with pytest.raises(RequestError, match=message):
            write_jsonl_atomic(tmp_path / "a.jsonl", [{"a": value}])
    assert not list(tmp_path.iterdir())


def test_lines_of_a_run_that_was_killed_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"step": 1}\n{"text": "caf\xc3')
    assert read_lines(tmp_path / "a.jsonl", lenient=True)[0] == '{"step": 1}'
    with pytest.raises(RequestError, match="not UTF-8 text"):
        read_lines(tmp_path / "a.jsonl")


def test_nan_is_read_where_programs_write_it_for_no_number() -> None:
    assert math.isnan(parse_json('{"mood": NaN}', with_nan=True)["mood"])
    for text in ("[Infinity]", "[-Infinity]", "[1e999]", r'["\ud800"]'):
        with pytest.raises(JsonError):
            parse_json(text, with_nan=True)
    with pytest.raises(JsonError, match="NaN; write null"):
        parse_json("[NaN]")
