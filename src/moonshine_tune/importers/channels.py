"""A column called `channel`: which channel of its recording a row is, or a field like any other."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moonshine_tune.audio.io import AudioInfo
from moonshine_tune.core.errors import AudioError, ProblemsError
from moonshine_tune.importers.base import Row

_COLUMN = "channel"
# Sides of a call, as Fisher and Switchboard name them.
_SIDES = ({"a": 1, "b": 2}, {"l": 1, "r": 2}, {"left": 1, "right": 2})


def channels_of(
    rows: Sequence[Row],
    paths: Sequence[Path | None],
    infos: Mapping[Path, AudioInfo | AudioError],
    requested: int | None,
) -> tuple[list[int | None], str | None]:
    """Channel of each row, from 1, or None; and what was decided, in a sentence.

    Layouts that define the numbers give them as the value `channel`. In a table the column counts
    only for recordings with several channels: numbers from 0 where a 0 is among them, else from 1.
    Words are a field. A channel that the user has requested is that of all other rows.

    Raises:
        ProblemsError: every row has 1, which may be the first channel or the second; or a number
            is higher than the recording's number of channels.
    """
    channels: list[int | None] = [row.values.get(_COLUMN) for row in rows]
    named: dict[int, tuple[str, int]] = {}
    for index, (row, path) in enumerate(zip(rows, paths, strict=True)):
        info = None if path is None else infos[path]
        if _COLUMN in row.extra and isinstance(info, AudioInfo) and info.channels > 1:
            value = _written(row.extra[_COLUMN])
            if value:
                named[index] = (value, info.channels)
    if requested is not None or not named:
        return channels, None
    values = {value for value, _ in named.values()}
    sides = next((sides for sides in _SIDES if values <= sides.keys()), None)
    if sides is not None and all(count == 2 for _, count in named.values()):
        numbers, first = dict(sides), next(value for value, side in sides.items() if side == 1)
    elif all(value.isdecimal() and len(value) < 4 for value in values):
        numbers, first = _numbered(rows, named), "0" if "0" in values else "1"
    else:
        shown = ", ".join(sorted(values)[:3])
        return channels, (
            f'column "{_COLUMN}" has words ({shown}) and is kept as a field: all channels of '
            f"{len(named):,} recordings are averaged; read one with --audio-out DIR --channel N"
        )
    for index, (value, _) in named.items():
        channels[index] = numbers[value]
    return channels, f'column "{_COLUMN}" is the channel of the recording; {first} is the first'


def _written(value: Any) -> str:
    """The value in lower case; whole numbers that a program wrote as 1.0 are 1, and so is ch1."""
    text = re.sub(r"^(?:channel|chan|ch)[ _-]?(?=\d+$)", "", str(value).strip().casefold())
    return text.removesuffix(".0") if text.removesuffix(".0").isdecimal() else text


def _numbered(rows: Sequence[Row], named: Mapping[int, tuple[str, int]]) -> dict[str, int]:
    values = {value: int(value) for value, _ in named.values()}
    shift = 1 if 0 in values.values() else 0
    if set(values.values()) == {1}:
        raise ProblemsError(
            f'every row has 1 in column "{_COLUMN}", and recordings with several channels',
            ["--audio-out DIR --channel 1: it is the first, counted from 1",
             "--audio-out DIR --channel 2: it is the second, counted from 0"],
            hint="run again with one of these lines",
        )  # fmt: skip
    problems = [
        f"{rows[index].location}: channel {value}, but {rows[index].audio} has {count} channels"
        for index, (value, count) in named.items()
        if values[value] + shift > count
    ]
    if problems:
        raise ProblemsError(
            f'{len(problems)} rows name a channel in column "{_COLUMN}" that does not exist',
            problems,
            hint="correct the numbers, or give the column another name if it is no channel",
        )
    return {value: number + shift for value, number in values.items()}
