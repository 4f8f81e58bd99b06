"""JSON of unknown origin, read within limits.

Python's own reader takes NaN, integers that no float holds, halves of characters and any depth.
Each of these fails later, where the message does not name the file: in a comparison of numbers, in
UTF-8, in a function that calls itself.
"""

import json
import math
import re
from json import JSONDecodeError, JSONDecoder
from typing import Any

# A record has at most five levels, and a tokenizer eight.
MAX_DEPTH = 64
# An integer beyond the range of a float (10^308) cannot be compared or divided.
MAX_DIGITS = 300
# Half a day of speech in one transcript is about 600,000 characters.
MAX_LINE_CHARS = 1_000_000
# A hundred thousand file names are 15 MB. Nested arrays of this size take 0.8 GB in memory.
MAX_FILE_BYTES = 32_000_000
_HALF_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]")


class JsonError(ValueError):
    """A text that is not JSON, or exceeds a limit; the message is a sentence."""


def parse_json(text: str, *, lenient: bool = False, with_nan: bool = False) -> Any:
    """The value of a JSON text.

    Args:
        lenient: take NaN, Infinity and half of a character, for a reader that shows whatever a
            damaged file holds.
        with_nan: take NaN, which Python and pandas write where there is no number.

    Raises:
        JsonError: not JSON (NaN and Infinity are not), nested too deep, a number out of range, or
            half of a character in an escape.
    """
    try:
        value = (_LENIENT if lenient else _WITH_NAN if with_nan else _STRICT).decode(text)
    except JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise JsonError(f"not JSON ({error.msg} at {line}column {error.colno})") from error
    except RecursionError as error:
        raise _too_deep() from error
    # Counting the brackets is quick; they may also be part of a text.
    if text.count("[") + text.count("{") > MAX_DEPTH and _depth_of(value) > MAX_DEPTH:
        raise _too_deep()
    if not lenient and _HALF_CHARACTER.search(text):
        # Two halves make a character. One alone can be neither saved nor shown.
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError as error:
            raise JsonError(r"has a broken \u escape (half of a character)") from error
    return value


def parse_json_line(line: str, *, lenient: bool = False, with_nan: bool = False) -> Any:
    """The value of one line of a JSON Lines file.

    Args: as of `parse_json`.

    Raises:
        JsonError: as of `parse_json`, or longer than a line may be.
    """
    if len(line) > MAX_LINE_CHARS:
        raise _beyond_limit(f"{len(line):,} characters, the most in a line is {MAX_LINE_CHARS:,}")
    return parse_json(line, lenient=lenient, with_nan=with_nan)


def parse_json_object(line: str, *, lenient: bool = False) -> dict[str, Any]:
    """The JSON object in one line of a JSON Lines file.

    Args: as of `parse_json`.

    Raises:
        JsonError: as of `parse_json_line`, or not an object.
    """
    value = parse_json_line(line, lenient=lenient)
    if not isinstance(value, dict):
        raise JsonError("not a JSON object")
    return value


def _beyond_limit(what: str) -> JsonError:
    return JsonError(f"not JSON that can be read ({what})")


def _too_deep() -> JsonError:
    return _beyond_limit(f"nested more than {MAX_DEPTH} levels deep")


def _depth_of(value: Any) -> int:
    depth, level = 0, [value] if isinstance(value, dict | list) else []
    while level and depth <= MAX_DEPTH:
        depth += 1
        level = [
            item
            for container in level
            for item in (container.values() if isinstance(container, dict) else container)
            if isinstance(item, dict | list)
        ]
    return depth


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise _beyond_limit(f"a number of {len(text)} digits, the most is {MAX_DIGITS}")
    return int(text)


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _beyond_limit(f"the number {text[:40]} is out of range")
    return value


def _refuse_constant(name: str) -> float:
    raise JsonError(f"not JSON ({name}; write null)")


def _nan(name: str) -> float:
    return math.nan if name == "NaN" else _refuse_constant(name)


_LENIENT = JSONDecoder(parse_int=_integer)
_STRICT = JSONDecoder(parse_int=_integer, parse_float=_number, parse_constant=_refuse_constant)
_WITH_NAN = JSONDecoder(parse_int=_integer, parse_float=_number, parse_constant=_nan)
