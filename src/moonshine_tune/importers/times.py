"""Times of spans in tables: how cells write them, and which unit a table counts in."""

import math
import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from moonshine_tune.audio.io import AudioInfo
from moonshine_tune.core.errors import AudioError
from moonshine_tune.importers.base import Row

# Manifests round times to milliseconds: a span may end this far after its recording.
SPAN_SLACK_S = 0.1
# No utterance is shorter: seconds that are taken for milliseconds would be.
_SHORTEST_SPAN_S = 0.05
# Characters of speech per second, of languages with and without an alphabet. Nobody reads a
# transcript at less than a character in three seconds.
_SLOW, _FAST, _SLOWEST = 1.5, 45.0, 0.3
_CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d\d?(?:[.,]\d+)?)$")
_WITH_UNIT = re.compile(r"(\d+(?:[.,]\d+)?)\s*(ms|msec|s|sec|seconds)$", re.IGNORECASE)
_DECIMAL_COMMA = re.compile(r"-?\d+,\d+(?:[eE][+-]?\d{1,3})?$")
_THOUSANDS = re.compile(r"[1-9]\d{0,2},\d{3}$")
_MILLISECONDS = re.compile(r"(ms|msec|milliseconds)\W*$", re.IGNORECASE)
_DATE = re.compile(
    r"\d{4}[-/.]\d\d?[-/.]\d\d?|\d\d?[-/.]\d\d?[-/.]\d{2,4}|\d\s*[AP]M$", re.IGNORECASE
)


def seconds_of_cell(value: object) -> float | None:
    """Seconds of `1.5`, `1,5`, `1:30`, `0:01:30.250` or `1.5 s`; None if it is none of these."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        number = float(value)
    except ValueError:
        return _written_seconds(str(value).strip())
    except OverflowError:
        return None
    return number if math.isfinite(number) and "_" not in str(value) else None


def _written_seconds(text: str) -> float | None:
    if _DECIMAL_COMMA.match(text):
        return float(text.replace(",", "."))
    clock = _CLOCK.match(text)
    if clock:
        hours, minutes, seconds = (
            float((part or "0").replace(",", ".")) for part in clock.groups()
        )
        if seconds >= 60 or (clock[1] and minutes >= 60):
            return None
        return hours * 3600 + minutes * 60 + seconds
    unit = _WITH_UNIT.match(text)
    if unit:
        return float(unit[1].replace(",", ".")) / (1000 if unit[2].lower().startswith("m") else 1)
    return None


def clear_seconds_of(value: object) -> float | None:
    """Seconds of a cell that has one reading only: `1,250` may be 1.25 or 1250."""
    if isinstance(value, str) and _THOUSANDS.match(value.strip()):
        return None
    return seconds_of_cell(value)


def read_times(
    records: Sequence[dict[str, Any]], columns: Sequence[str], *, has_decimal_commas: bool = False
) -> None:
    """Replace the cells of these columns by seconds, in place; what is no time stays as it is.

    Columns whose names end with "ms" are milliseconds.

    Args:
        has_decimal_commas: whether `1,250` is 1.25. Without it, that is certain only if another
            cell of the table has a comma that cannot separate thousands.
    """
    with_commas: list[tuple[dict[str, Any], str]] = []
    for record in records:
        for column in columns:
            value = record.get(column)
            if value is None or type(value) is float:
                continue
            if isinstance(value, str) and "," in value:
                with_commas.append((record, column))
                continue
            seconds = seconds_of_cell(value)
            if seconds is not None:
                record[column] = seconds
    if has_decimal_commas or not all(
        _THOUSANDS.match(record[column].strip()) for record, column in with_commas
    ):
        for record, column in with_commas:
            seconds = seconds_of_cell(record[column])
            if seconds is not None:
                record[column] = seconds
    for column in columns:
        if _MILLISECONDS.search(column):
            for record in records:
                if type(record.get(column)) is float:
                    record[column] /= 1000


def time_problem(column: str, value: object) -> str:
    """Why a cell is no time, in a sentence."""
    problem = f'"{column}" is {value!r}, '
    if isinstance(value, str) and _DATE.search(value.strip()):
        return problem + "a date or a time of day, not seconds from the start of the recording"
    if isinstance(value, str) and _THOUSANDS.match(value.strip()):
        number = value.strip()
        return problem + (
            f"which may be {number.replace(',', '.')} or {number.replace(',', '')}: write decimals "
            "with a point, and no separator of thousands"
        )
    return problem + "not a number"


@dataclass(frozen=True)
class TimeUnit:
    """A unit of times, and how many of it are a second of a recording."""

    name: str
    per_second: Callable[[AudioInfo], float]


_SECONDS = TimeUnit("seconds", lambda _: 1.0)
_UNITS = (
    TimeUnit("milliseconds", lambda _: 1000.0),
    TimeUnit("samples", lambda info: float(info.sample_rate_hz)),
)
# What spreadsheets hold behind a time of day.
_DAYS = TimeUnit("days (as spreadsheets store them)", lambda _: 1 / 86_400)


_Span = tuple[float, float, AudioInfo, int]


def in_seconds(
    rows: Sequence[Row],
    paths: Sequence[Path | None],
    infos: Mapping[Path, AudioInfo | AudioError],
) -> tuple[Sequence[Row], str | None]:
    """The rows with their times in seconds, and the unit of the table if it is another.

    Another unit is certain where all times are whole numbers (of days: fractions) that do not fit
    as seconds, all fit in that unit, and the texts are then as fast as speech (without texts: the
    spans fill half of their recordings).
    """
    spans: list[_Span] = []
    is_whole = True
    for row, path in zip(rows, paths, strict=True):
        start, end, duration = (row.values.get(name) for name in ("start", "end", "duration"))
        info = None if path is None else infos[path]
        if (start is None and end is None) or not isinstance(info, AudioInfo):
            continue
        start = float(start or 0.0)
        end = float(end if end is not None else start + (duration or 0.0))
        if info.seconds <= 0:
            continue
        is_whole &= start.is_integer() and end.is_integer()
        if not is_whole and end - start >= _SHORTEST_SPAN_S:
            return rows, None
        spans.append((start, end, info, len(str(row.values.get("text") or ""))))
    if not spans or (_all_fit(spans, _SECONDS) and not _is_too_slow(spans)):
        return rows, None
    for unit in _UNITS if is_whole else (_DAYS,):
        if _all_fit(spans, unit) and _is_speech(spans, unit):
            return [
                _converted(row, None if path is None else infos[path], unit)
                for row, path in zip(rows, paths, strict=True)
            ], unit.name
    return rows, None


def with_ends(
    rows: Sequence[Row], paths: Sequence[Path | None]
) -> tuple[Sequence[Row], str | None]:
    """The rows, where a start lasts until the next one in recordings without any end.

    Also how many such rows there are, in a sentence. The last one lasts until the recording ends.
    """
    starts: dict[Path, set[float]] = defaultdict(set)
    with_end: set[Path] = set()
    for row, path in zip(rows, paths, strict=True):
        if path is not None and isinstance(row.values.get("start"), float):
            starts[path].add(row.values["start"])
            if "end" in row.values or "duration" in row.values:
                with_end.add(path)
    ordered = {
        path: sorted(times)
        for path, times in starts.items()
        if len(times) > 1 and path not in with_end
    }
    result, count = list(rows), 0
    for index, (row, path) in enumerate(zip(rows, paths, strict=True)) if ordered else ():
        start = row.values.get("start")
        if path not in ordered or start is None:
            continue
        following = ordered[path][bisect_right(ordered[path], start) :]
        if following:
            result[index] = replace(row, values={**row.values, "end": following[0]})
            count += 1
    if not count:
        return rows, None
    return result, f"{count:,} starts without an end last until the next of the same recording"


def _all_fit(spans: Sequence[_Span], unit: TimeUnit) -> bool:
    """Whether every span is within its recording, and none is shorter than an utterance."""
    for start, end, info, _ in spans:
        factor = unit.per_second(info)
        last = end / factor
        if start < 0 or last > info.seconds + SPAN_SLACK_S:
            return False
        if end > start and last - start / factor < _SHORTEST_SPAN_S:
            return False
    return True


def _characters_per_second(spans: Sequence[_Span], unit: TimeUnit) -> float | None:
    """The median over the spans; None if most have no text or no end."""
    rates = [
        length * unit.per_second(info) / (end - start)
        for start, end, info, length in spans
        if length and end > start
    ]
    return median(rates) if 2 * len(rates) > len(spans) else None


def _is_too_slow(spans: Sequence[_Span]) -> bool:
    rate = _characters_per_second(spans, _SECONDS)
    return rate is not None and rate < _SLOWEST


def _is_speech(spans: Sequence[_Span], unit: TimeUnit) -> bool:
    rate = _characters_per_second(spans, unit)
    if rate is not None and _SLOW <= rate <= _FAST:
        return True
    last: dict[int, float] = defaultdict(float)
    for _, end, info, _ in spans:
        last[id(info)] = max(last[id(info)], end / unit.per_second(info) / info.seconds)
    return median(last.values()) >= 0.5


def _converted(row: Row, info: AudioInfo | AudioError | None, unit: TimeUnit) -> Row:
    if not isinstance(info, AudioInfo):
        return row
    times = {
        name: row.values[name] / unit.per_second(info)
        for name in ("start", "end", "duration")
        if row.values.get(name) is not None
    }
    return replace(row, values=row.values | times)
