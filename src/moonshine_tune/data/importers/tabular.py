"""Columns of tables: which one is the recording, which the transcript, and the row of a record.

Shared by the importers of tables, of corpora that contain tables, and of datasets.
"""

import csv
import hashlib
import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

from moonshine_tune.audio.io import AUDIO_ENDINGS
from moonshine_tune.core.bounded_files import is_file
from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import write_bytes_atomic
from moonshine_tune.core.json_text import JsonError, parse_json_line
from moonshine_tune.data.importers.base import ColumnNames, Row, Rows, read_text

# Common names of columns, the likeliest first; compared without case, spaces, "_" and "-".
_NAMES = {
    "audio": ("audio", "audiofilepath", "audiopath", "audiofile", "audiofilename", "path", "file",
              "filepath", "filename", "wav", "wavpath", "wavfile", "wavfilename", "recording",
              "clip"),
    "text": ("text", "transcript", "transcription", "sentence", "rawtranscription",
             "normalizedtext", "utterance", "reference", "words", "prompt"),
    "speaker": ("speaker", "speakerid", "speakername", "clientid", "spk", "spkid", "reader",
                "readerid", "userid", "user", "who", "voice"),
    "id": ("id", "uttid", "utteranceid", "uid"),
    "start": ("start", "starttime", "offset", "begin"),
    "end": ("end", "endtime"),
    "duration": ("duration",),
    "language": ("language", "locale", "lang"),
    "split": ("split", "subset"),
    "session": ("session", "sessionid"),
}  # fmt: skip
_NUMBERS = ("start", "end", "duration")
_JSON_ENDINGS = (".jsonl", ".json", ".ndjson")
# Names of splits in datasets, and in manifests.
SPLIT_NAMES = {"train": "train", "validation": "dev", "valid": "dev", "dev": "dev", "test": "test"}
_AUDIO_SIGNATURES = {b"RIFF": ".wav", b"fLaC": ".flac", b"OggS": ".ogg", b"ID3": ".mp3"}


def read_table(path: Path, names: ColumnNames, *, want_text: bool) -> Rows:
    """Read a CSV, TSV or JSONL table.

    CSV may be separated by commas, semicolons, tabs or bars; the heading decides. A table without a
    heading is read if its first column names recordings; its columns are then "1", "2", "3".

    Args:
        want_text: whether a text column is required.

    Raises:
        RequestError: no such file, not text, no rows, or no column for audio (or text).
    """
    if not path.is_file():
        raise RequestError("no such table", where=path, hint="name it with --table FILE")
    content = read_text(path)
    if path.suffix.lower() in _JSON_ENDINGS:
        heading, records = _json_table(content)
    else:
        named = [name for name in astuple(names) if name]
        heading, records = _delimited_table(path, content, named)
    if not heading or not records:
        raise RequestError("the table has no rows", where=path)
    columns = choose_columns(heading, names, path, want_text=want_text)
    rows = [
        Row(f"{path}:{number}", "", problem=record)
        if isinstance(record, str)
        else row_of(f"{path}:{number}", record, columns)
        for number, record in records
    ]
    used = ", ".join(f"{name} from {column!r}" for name, column in columns.items())
    return Rows(f"{path.name}: {used}", path.parent, tuple(rows))


# Number of each line, with its record or the problem in a sentence.
_Records = list[tuple[int, dict[str, Any] | str]]


def _json_table(content: str) -> tuple[list[str], _Records]:
    """All keys, and the records of JSON lines."""
    records: _Records = []
    heading: dict[str, None] = {}
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = parse_json_line(line)
        except JsonError as error:
            records.append((number, str(error)))
            continue
        if isinstance(record, dict):
            heading.update(dict.fromkeys(record))
        records.append((number, record if isinstance(record, dict) else "not a JSON object"))
    return list(heading), records


def _delimited_table(
    path: Path, content: str, named: Collection[str]
) -> tuple[list[str], _Records]:
    """Heading and records of a CSV or TSV; columns named by numbers mean that it has no heading."""
    first = content.lstrip().partition("\n")[0]
    # A tab or a bar is hardly ever part of a text; commas and semicolons are.
    delimiter = next((mark for mark in "\t|" if mark in first), max(",;", key=first.count))
    if path.suffix.lower() == ".tsv":
        delimiter = "\t"
    # Tabs and bars need no quotes. Quotation marks there are part of the transcripts: read as
    # quotes, one of them would swallow the lines up to the next.
    is_bare = delimiter in "\t|"
    reader = csv.reader(
        io.StringIO(content, newline=""),
        delimiter=delimiter,
        quoting=csv.QUOTE_NONE if is_bare else csv.QUOTE_MINIMAL,
        # Otherwise a quotation mark without its partner swallows all following lines silently.
        strict=True,
    )
    lines = [
        (number, [_unquoted(cell) for cell in cells] if is_bare else cells)
        for number, cells in _numbered(reader, path)
        if any(cell.strip() for cell in cells)
    ]
    if not lines:
        raise RequestError("the table is empty", where=path)
    heading = [cell.strip() for cell in lines[0][1]]
    by_number = {name for name in named if name.isdecimal()} - set(heading)
    if by_number or _looks_like_data(lines[0][1], path.parent):
        heading = [str(position) for position in range(1, len(heading) + 1)]
    else:
        del lines[0]
    repeated = sorted({name for name in heading if heading.count(name) > 1})
    if repeated:
        raise RequestError(f"the heading repeats {', '.join(map(repr, repeated))}", where=path)
    records: _Records = []
    for number, cells in lines:
        if len(cells) == len(heading):
            pairs = zip(heading, cells, strict=True)
            records.append((number, {name: cell for name, cell in pairs if cell.strip()}))
        else:
            problem = f"{len(cells)} columns where the heading has {len(heading)}"
            records.append((number, problem))
    return heading, records


def _numbered(reader: Any, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Rows with the number of the line on which each starts."""
    start = 1
    try:
        for cells in reader:
            yield start, cells
            start = reader.line_num + 1
    except csv.Error as error:
        raise RequestError(
            f"not a table that can be read ({error})",
            where=path,
            line=start,
            hint="a quotation mark without its partner is the usual cause",
        ) from error


def _unquoted(cell: str) -> str:
    """The cell without quotation marks around it."""
    inner = cell[1:-1]
    if len(cell) >= 2 and cell[0] == cell[-1] == '"' and '"' not in inner.replace('""', ""):
        return inner.replace('""', '"')
    return cell


def _looks_like_data(cells: Sequence[str], folder: Path) -> bool:
    """Whether the first line is a recording already and not a heading."""
    name = cells[0].strip()
    if not name or len(cells) < 2 or any(_simple(name) in known for known in _NAMES.values()):
        return False
    if Path(name).suffix.lower() in AUDIO_ENDINGS:
        return True
    folders = [folder, *(folder / sub for sub in ("wavs", "wav", "audio", "clips"))]
    return any(is_file(candidate / f"{name}.wav") for candidate in folders)


def _simple(name: str) -> str:
    return "".join(character for character in name.casefold() if character not in " _-")


def choose_columns(
    heading: Sequence[str], names: ColumnNames, path: Path, *, want_text: bool
) -> dict[str, str]:
    """Field of the manifest → column: as the user named it, else by common names.

    Raises:
        RequestError: a named column does not exist, or none is likely for audio (or text).
    """
    by_simple = {_simple(name): name for name in reversed(heading)}
    columns: dict[str, str] = {}
    for field, known in _NAMES.items():
        named = getattr(names, field, None)
        if named is not None and named not in heading:
            raise RequestError(
                f"no column is called {named!r}",
                where=path,
                hint=f"its columns: {', '.join(heading)}",
            )
        guess = next((by_simple[name] for name in known if name in by_simple), None)
        if named is not None:
            columns[field] = named
        elif guess is not None and guess not in columns.values():
            columns[field] = guess
    if all(name.isdecimal() for name in heading):
        columns.setdefault("audio", "1")
        columns.setdefault("text", "2")
    for field in ("audio", "text") if want_text else ("audio",):
        if field not in columns:
            raise RequestError(
                f"no column looks like {field}; the columns are: {', '.join(heading)}",
                where=path,
                hint=f"name it with --{field}-column NAME"
                + (", or import without texts: --no-text" if field == "text" else ""),
            )
    return columns


def row_of(location: str, record: Mapping[str, Any], columns: Mapping[str, str]) -> Row:
    """The row of a record whose columns are known."""
    audio = record.get(columns["audio"])
    if not isinstance(audio, str) or not audio.strip():
        return Row(location, "", problem=f'no recording in column "{columns["audio"]}"')
    values: dict[str, Any] = {}
    for name, column in columns.items():
        value = record.get(column)
        if name == "audio" or value is None or value == "":
            continue
        if name in _NUMBERS:
            try:
                values[name] = float(value)
            except (TypeError, ValueError):
                return Row(location, audio, problem=f'"{column}" is {value!r}, not a number')
        elif isinstance(value, str | int) and not isinstance(value, bool):
            values[name] = str(value)
        else:
            return Row(location, audio, problem=f'"{column}" is {value!r}, not a string')
    extra = {key: value for key, value in record.items() if key not in columns.values()}
    return Row(location, audio.strip(), values, extra)


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
