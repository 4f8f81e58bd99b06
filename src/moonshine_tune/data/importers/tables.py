"""Rows of recordings and transcripts, as people keep them: tables, side-by-side files, folders."""

import csv
import io
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

from moonshine_tune.audio.io import AUDIO_ENDINGS
from moonshine_tune.core.errors import RequestError

TABLE_ENDINGS = (".csv", ".tsv", ".jsonl")

# Names that columns go by, the likeliest first; compared without case, spaces, "_" and "-".
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
# Of these, the clip's own header tells better.
_SPAN_FIELDS = ("start", "end", "duration")


@dataclass(frozen=True)
class Row:
    """One recording as its source tells it; nothing is checked yet.

    Attributes:
        place: file and line (or the file alone) to name in messages.
        audio: the path as written.
        values: the fields that a manifest knows, by name.
        extra: all others.
        problem: why the row cannot be used, where it cannot.
    """

    place: str
    audio: str
    values: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    problem: str | None = None


@dataclass(frozen=True)
class Source:
    """Rows, where they came from in a few words, and the folder that their paths start from."""

    description: str
    folder: Path
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class ColumnNames:
    """Columns that the user has named; the others are guessed."""

    audio: str | None = None
    text: str | None = None
    speaker: str | None = None


def read_table(path: Path, names: ColumnNames, *, want_text: bool) -> Source:
    """Read a CSV, TSV or JSONL table.

    CSV may be separated by commas, semicolons, tabs or bars; the heading tells. A table without a
    heading is read where its first column names recordings; its columns are then "1", "2", "3".

    Args:
        want_text: whether a text column must be there.

    Raises:
        RequestError: no such file, not text, no rows, or no column for audio (or text).
    """
    if not path.is_file():
        raise RequestError("no such table", where=path, hint="name it with --table FILE")
    content = decoded(path)
    if path.suffix.lower() in (".jsonl", ".json", ".ndjson"):
        return _json_lines(path, content, names, want_text=want_text)
    heading, lines = _delimited(path, content, [name for name in astuple(names) if name])
    columns = choose_columns(heading, names, path, want_text=want_text)
    rows = []
    for number, cells in lines:
        place = f"{path}:{number}"
        if len(cells) != len(heading):
            problem = f"{len(cells)} columns where the heading has {len(heading)}"
            rows.append(Row(place, "", problem=problem))
            continue
        record = dict(zip(heading, cells, strict=True))
        rows.append(row_of(place, {k: v for k, v in record.items() if v.strip()}, columns))
    if not rows:
        raise RequestError("the table has no rows", where=path)
    return Source(_describe(path, columns), path.parent, tuple(rows))


def rows_beside_texts(folder: Path, audio: Sequence[Path]) -> Source | None:
    """Recordings with a `.txt` of the same name beside each; None where no recording has one."""
    rows, found = [], 0
    for path in audio:
        beside = path.with_suffix(".txt")
        values = {}
        if beside.is_file():
            found += 1
            values["text"] = decoded(beside)
        rows.append(Row(str(path), str(path), values))
    description = f"{found} .txt files beside {len(audio)} recordings"
    return Source(description, folder, tuple(rows)) if found else None


def rows_of_trans_files(folder: Path, audio: Sequence[Path]) -> Source | None:
    """Recordings whose texts lie in `*.trans.txt` files (a name and its words a line).

    Names of the form speaker-chapter-number give speaker and session. None without such files.
    """
    files = sorted(folder.rglob("*.trans.txt"))
    if not files:
        return None
    by_name = {(path.parent, path.stem): path for path in audio}
    rows = []
    for file in files:
        for number, line in enumerate(decoded(file).splitlines(), start=1):
            if not line.strip():
                continue
            name, _, text = line.strip().partition(" ")
            path = by_name.get((file.parent, name))
            parts = name.split("-")
            values: dict[str, Any] = {"id": name, "text": text}
            if len(parts) == 3:
                values |= {"speaker": parts[0], "session": f"{parts[0]}-{parts[1]}"}
            rows.append(Row(f"{file}:{number}", str(path or file.parent / name), values))
    return Source(f"{len(files)} .trans.txt files", folder, tuple(rows))


def rows_without_texts(folder: Path, audio: Sequence[Path]) -> Source:
    """Recordings alone."""
    rows = tuple(Row(str(path), str(path)) for path in audio)
    return Source(f"{len(audio)} recordings without transcripts", folder, rows)


def decoded(path: Path) -> str:
    """Text of a file: UTF-8, or UTF-16 as Excel saves it, with or without a byte order mark."""
    raw = path.read_bytes()
    encoding = "utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        raise RequestError(
            f"not UTF-8 text (byte {error.start})", where=path, hint="save it again as UTF-8"
        ) from error


def _delimited(
    path: Path, content: str, named: Collection[str]
) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Heading and numbered lines of a CSV or TSV; columns named as numbers mean no heading."""
    first = content.lstrip().partition("\n")[0]
    # A tab or a bar is hardly ever part of a text; commas and semicolons are.
    delimiter = next((mark for mark in "\t|" if mark in first), max(",;", key=first.count))
    if path.suffix.lower() == ".tsv":
        delimiter = "\t"
    # Tabs and bars need no quotes, and the quotation marks of transcripts must not be taken for
    # any: read as quotes, one of them would swallow the lines up to the next.
    bare = delimiter in "\t|"
    reader = csv.reader(
        io.StringIO(content, newline=""),
        delimiter=delimiter,
        quoting=csv.QUOTE_NONE if bare else csv.QUOTE_MINIMAL,
        # Else a quotation mark without its partner swallows every line that follows, silently.
        strict=True,
    )
    lines = [
        (number, [_unquoted(cell) for cell in cells] if bare else cells)
        for number, cells in _numbered(reader, path)
        if any(cell.strip() for cell in cells)
    ]
    if not lines:
        raise RequestError("the table is empty", where=path)
    heading = [cell.strip() for cell in lines[0][1]]
    by_number = {name for name in named if name.isdecimal()} - set(heading)
    if by_number or _looks_like_data(lines[0][1], path.parent):
        return [str(position + 1) for position in range(len(heading))], lines
    if len(set(heading)) < len(heading):
        repeated = sorted({name for name in heading if heading.count(name) > 1})
        raise RequestError(f"the heading repeats {', '.join(map(repr, repeated))}", where=path)
    return heading, lines[1:]


def _numbered(reader: Any, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Rows with the number of the line on which each begins."""
    begin = 1
    try:
        for cells in reader:
            yield begin, cells
            begin = reader.line_num + 1
    except csv.Error as error:
        raise RequestError(
            f"not a table that can be read ({error})",
            where=path,
            line=begin,
            hint="a quotation mark without its partner is the usual cause",
        ) from error


def _unquoted(cell: str) -> str:
    """The cell without quotation marks that were put around all of it."""
    inner = cell[1:-1]
    if len(cell) >= 2 and cell[0] == cell[-1] == '"' and '"' not in inner.replace('""', ""):
        return inner.replace('""', '"')
    return cell


def _looks_like_data(cells: list[str], folder: Path) -> bool:
    """Whether the first line is a recording already and not a heading."""
    name = cells[0].strip()
    if not name or len(cells) < 2 or any(_simple(name) in known for known in _NAMES.values()):
        return False
    if Path(name).suffix.lower() in AUDIO_ENDINGS:
        return True
    places = [folder, *(folder / sub for sub in ("wavs", "wav", "audio", "clips"))]
    return any((place / f"{name}.wav").is_file() for place in places)


def _json_lines(path: Path, content: str, names: ColumnNames, *, want_text: bool) -> Source:
    records: list[tuple[int, dict[str, Any] | str]] = []
    seen: dict[str, None] = {}
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            records.append((number, f"not JSON ({getattr(error, 'msg', error)})"))
            continue
        if isinstance(record, dict):
            seen.update(dict.fromkeys(record))
            records.append((number, record))
        else:
            records.append((number, "not a JSON object"))
    if not seen:
        raise RequestError("the table has no rows", where=path)
    columns = choose_columns(list(seen), names, path, want_text=want_text)
    rows = [
        Row(f"{path}:{number}", "", problem=record)
        if isinstance(record, str)
        else row_of(f"{path}:{number}", record, columns)
        for number, record in records
    ]
    return Source(_describe(path, columns), path.parent, tuple(rows))


def _simple(name: str) -> str:
    return "".join(c for c in name.casefold() if c not in " _-")


def choose_columns(
    heading: Sequence[str], names: ColumnNames, path: Path, *, want_text: bool
) -> dict[str, str]:
    """Field → column, by the user's word first, then by the names that columns go by."""
    by_simple = {_simple(name): name for name in reversed(heading)}
    columns = {}
    for wanted, known in _NAMES.items():
        named = getattr(names, wanted, None)
        if named is not None:
            if named not in heading:
                raise RequestError(
                    f"no column is called {named!r}",
                    where=path,
                    hint=f"its columns: {', '.join(heading)}",
                )
            columns[wanted] = named
            continue
        guess = next((by_simple[name] for name in known if name in by_simple), None)
        if guess is not None and guess not in columns.values():
            columns[wanted] = guess
    if all(name.isdecimal() for name in heading):
        columns.setdefault("audio", "1")
        columns.setdefault("text", "2")
    for wanted in ("audio", "text") if want_text else ("audio",):
        if wanted not in columns:
            raise RequestError(
                f"no column looks like {wanted}; the columns are: {', '.join(heading)}",
                where=path,
                hint=f"name it with --{wanted}-column NAME"
                + (", or import without texts: --no-text" if wanted == "text" else ""),
            )
    return columns


def row_of(place: str, record: dict[str, Any], columns: dict[str, str]) -> Row:
    """The row of a record whose columns are known."""
    audio = record.get(columns["audio"])
    if not isinstance(audio, str) or not audio.strip():
        return Row(place, "", problem=f'no recording in column "{columns["audio"]}"')
    values: dict[str, Any] = {}
    for name, column in columns.items():
        value = record.get(column)
        if name == "audio" or value is None or value == "":
            continue
        if name in _SPAN_FIELDS:
            try:
                values[name] = float(value)
            except (TypeError, ValueError):
                return Row(place, audio, problem=f'"{column}" is {value!r}, not a number')
        elif isinstance(value, str | int) and not isinstance(value, bool):
            values[name] = str(value)
        else:
            return Row(place, audio, problem=f'"{column}" is {value!r}, not a string')
    extra = {key: value for key, value in record.items() if key not in columns.values()}
    return Row(place, audio.strip(), values, extra)


def _describe(path: Path, columns: dict[str, str]) -> str:
    used = ", ".join(f"{name} from {column!r}" for name, column in columns.items())
    return f"{path.name}: {used}"
