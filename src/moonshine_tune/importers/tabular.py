"""Columns of tables: which one is the recording, which the transcript, and the row of a record.

Shared by the importers of tables, of corpora that contain tables, and of datasets.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import astuple, replace
from math import isfinite, isnan
from pathlib import Path
from typing import Any

from moonshine_tune.audio.io import AUDIO_ENDINGS
from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import write_bytes_atomic
from moonshine_tune.importers.base import ColumnNames, Row, Rows, read_text
from moonshine_tune.importers.columns import (
    TIMES,
    choose_columns,
    columns_by_content,
    other_texts,
)
from moonshine_tune.importers.delimited import Table, read_delimited, without_cut_rows
from moonshine_tune.importers.times import clear_seconds_of, read_times, time_problem

__all__ = [
    "SPLIT_NAMES",
    "choose_columns",
    "read_table",
    "row_of",
    "row_with_embedded_audio",
    "rows_of_table",
    "table_text",
]

# Names of splits in datasets, and in manifests.
SPLIT_NAMES = {"train": "train", "validation": "dev", "valid": "dev", "dev": "dev", "test": "test"}
_AUDIO_SIGNATURES = {b"RIFF": ".wav", b"fLaC": ".flac", b"OggS": ".ogg", b"ID3": ".mp3"}


def read_table(
    path: Path,
    names: ColumnNames,
    *,
    want_text: bool,
    recordings: Sequence[Path] = (),
    encoding: str | None = None,
) -> Rows:
    """Read a CSV or TSV table.

    CSV may be separated by commas, semicolons, tabs or bars; the heading decides. Lines above the
    heading are left out and reported. The columns of a table without a heading are "1", "2", "3",
    and their content decides what they are.

    Args:
        want_text: whether a text column is required.
        recordings: audio files that the table may name, which tell columns and headings apart.
        encoding: of the file, unless it is UTF-8 or UTF-16.

    Raises:
        RequestError: no such file, not text, no rows, or no column for audio (or text).
        ProblemsError: the columns can be read in more than one way.
    """
    stems = {recording.stem for recording in recordings}
    named = [name for name in astuple(names) if name]
    table = delimited_table(path, named, stems, encoding)
    return rows_of_table(path, table, names, stems, want_text=want_text)


def delimited_table(
    path: Path, named: Collection[str], stems: Collection[str], encoding: str | None
) -> Table:
    """A CSV or TSV table before its columns have roles.

    Args, Raises: as of `read_delimited` and `table_text`; also if there are no rows.
    """
    table = read_delimited(path, table_text(path, encoding), named, stems)
    if not table.heading or not table.records:
        raise RequestError("the table has no rows", where=path)
    return table


def table_text(path: Path, encoding: str | None) -> str:
    """The text of a table.

    Raises:
        RequestError: no such file, or not text.
    """
    if not path.is_file():
        raise RequestError("no such table", where=path, hint="name it with --table FILE")
    return read_text(path, encoding)


def rows_of_table(
    path: Path, table: Table, names: ColumnNames, stems: Collection[str], *, want_text: bool
) -> Rows:
    """The rows of a table, once its columns have roles and its times are seconds.

    Args:
        stems: names of recordings without their endings.
        want_text: whether a text column is required.

    Raises:
        RequestError: no column for audio (or text).
        ProblemsError: the columns can be read in more than one way.
    """
    choose = choose_columns if table.has_heading else columns_by_content
    records = [record for _, record in table.records if isinstance(record, dict)]
    columns = choose(table.heading, names, path, want_text=want_text, records=records, stems=stems)
    times = [columns[name] for name in TIMES if name in columns]
    read_times(records, times, has_decimal_commas=table.has_decimal_commas)
    rows = [
        Row(f"{path}{where}", "", problem=record)
        if isinstance(record, str)
        else row_of(f"{path}{where}", record, columns)
        for where, record in without_cut_rows(table, columns)
    ]
    description = f"{path.name}: {_roles(columns, table)}"
    remarks = [*table.remarks, *(other_texts(columns, table.heading) if want_text else ())]
    if unnamed := sum("speaker" not in row.values for row in rows) if "speaker" in columns else 0:
        remarks.append(
            f"{unnamed:,} of {len(rows):,} rows have no value in column {columns['speaker']!r}: no "
            "speaker (a merged cell of a spreadsheet has its value in its first row alone)"
        )
    return Rows(description, path.parent, tuple(rows), remarks=tuple(remarks))


def _roles(columns: Mapping[str, str], table: Table) -> str:
    """The column of each role, for the line that says how the table is read."""
    if table.has_heading:
        return ", ".join(f"{name} from {column!r}" for name, column in columns.items())
    plurals = {"audio": "recordings", "text": "texts", "speaker": "speakers",
               "language": "languages"}  # fmt: skip
    return ", ".join(f"{plurals[name]}: column {column}" for name, column in columns.items())


def row_of(location: str, record: Mapping[str, Any], columns: Mapping[str, str]) -> Row:
    """The row of a record whose columns are known."""
    audio = record.get(columns["audio"])
    if not isinstance(audio, str) or not audio.strip():
        return Row(location, "", problem=f'no recording in column "{columns["audio"]}"')
    audio = audio.strip()
    values: dict[str, Any] = {}
    for name, column in columns.items():
        value = record.get(column)
        if name == "audio" or value is None or value == "":
            continue
        if isinstance(value, float) and isnan(value):
            continue  # what pandas writes for an empty cell
        if name in TIMES:
            seconds = value if type(value) is float else clear_seconds_of(value)
            if seconds is None or not isfinite(seconds):
                return Row(location, audio, problem=time_problem(column, value))
            values[name] = seconds
        elif isinstance(value, str):
            values[name] = value.strip()
        elif isinstance(value, int) and not isinstance(value, bool):
            values[name] = str(value)
        else:
            return Row(location, audio, problem=f'"{column}" is {value!r}, not a string')
    roles = columns.values()
    # A NaN, which pandas writes for an empty cell, is not equal to itself.
    extra = {key: value for key, value in record.items() if key not in roles and value == value}
    return Row(location, audio, values, extra, id_column=columns.get("id"))


def row_with_embedded_audio(
    location: str,
    record: Mapping[str, Any],
    columns: Mapping[str, str],
    split: str | None,
    folder: Path,
) -> Row:
    """The row of a dataset's record; a recording stored in it is written to a file of `folder`.

    Args:
        split: of the record, unless it names its own.
    """
    audio = record[columns["audio"]]
    if isinstance(audio, dict):
        content, name = audio.get("bytes"), str(audio.get("path") or "")
        path = _write_audio(content, name, folder) if content else name
        record = {**record, columns["audio"]: path}
    simple = {
        key: value
        for key, value in record.items()
        if key in columns.values() or isinstance(value, str | int | float | bool)
    }
    row = row_of(location, simple, columns)
    return replace(row, values={"split": split} | row.values) if split else row


def _write_audio(content: bytes, name: str, folder: Path) -> str:
    """Write a recording to a file named by its content, once."""
    ending = next((end for mark, end in _AUDIO_SIGNATURES.items() if content.startswith(mark)), "")
    if not ending:
        named = Path(name).suffix.lower()
        ending = named if named in AUDIO_ENDINGS else ".wav"
    path = folder / f"{hashlib.sha256(content).hexdigest()[:24]}{ending}"
    if not path.is_file():
        write_bytes_atomic(path, content)
    return str(path.absolute())
