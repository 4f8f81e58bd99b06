"""Delimited tables (CSV, TSV, bars) as spreadsheets and scripts write them: heading and records."""

import csv
import io
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moonshine_tune.core.errors import RequestError
from moonshine_tune.importers.columns import is_audio_name, num_known_names

# The likeliest first. A tab or a bar is hardly ever part of a text; commas and semicolons are.
_MARKS = "\t|;,"
_SEP_LINE = re.compile(r'\ufeff?"?sep=([^"\r\n])"?[;,|\t]*\r?$', re.IGNORECASE)
# Titles and notes above a heading are a few lines; the separator shows in the same few.
_HEADING_LINES = 10
_SAMPLED_LINES = 50

# Where each record is (`:12` is line 12), with the record or the problem in a sentence.
Records = list[tuple[str, dict[str, Any] | str]]


@dataclass(frozen=True)
class Table:
    """What a table holds, before its columns have roles.

    Attributes:
        heading: names of the columns; "1", "2", "3" if it has no heading.
        records: cells that are not blank, by column.
        cut_rows: where a record is → columns after the last cell of a row that is too short.
        has_decimal_commas: the semicolon divides cells where the comma divides numbers.
        remarks: what was decided about the layout, a sentence each.
    """

    heading: list[str]
    records: Records
    has_heading: bool = True
    cut_rows: Mapping[str, Sequence[str]] = field(default_factory=dict)
    has_decimal_commas: bool = False
    remarks: tuple[str, ...] = ()


def read_delimited(
    path: Path, content: str, named: Collection[str], stems: Collection[str] = ()
) -> Table:
    """Read a CSV or TSV. Cells are as written; columns without a name and without cells are gone.

    Args:
        named: columns that the user named. Numbers mean that there is no heading, unless one is
            recognized.
        stems: names of recordings without their endings, which tell a first row from a heading.

    Raises:
        RequestError: empty, quotation marks without partner, or a repeated name of a column.
    """
    first, newline, rest = content.partition("\n")
    sep = _SEP_LINE.match(first)
    if sep:
        content = newline + rest
    delimiter = sep[1] if sep else _delimiter(path, content)
    lines = _lines(path, content, delimiter)
    if not lines:
        raise RequestError("the table is empty", where=path)
    start, has_heading = _heading_row([cells for _, cells in lines[:_HEADING_LINES]], named, stems)
    remarks = []
    if start:
        shown = ", ".join(repr(" ".join(filter(None, cells))) for _, cells in lines[:start])
        remarks.append(f"above the heading, left out: {shown[:200]}")
    if has_heading:
        heading = [cell.strip() for cell in lines[start][1]]
        lines = lines[start + 1 :]
        heading, lines = _without_empty_columns(heading, lines)
        _refuse_repeated(heading, path)
    else:
        lines = lines[start:]
        width = Counter(len(cells) for _, cells in lines[:_SAMPLED_LINES]).most_common(1)[0][0]
        heading = [str(position) for position in range(1, width + 1)]
    records, cut_rows = _records(heading, lines)
    return Table(heading, records, has_heading, cut_rows, delimiter == ";", tuple(remarks))


def _delimiter(path: Path, content: str) -> str:
    """The mark of a recognized heading; else the one with the same count in most lines."""
    lines = [line for line in content[: 1 << 16].splitlines() if line.strip()][:_SAMPLED_LINES]
    if path.suffix.lower() == ".tsv" and any("\t" in line for line in lines):
        return "\t"
    split = {mark: [_cells(line, mark) for line in lines] for mark in _MARKS}
    known = {
        mark: max((num_known_names(cells) for cells in rows[:_HEADING_LINES]), default=0)
        for mark, rows in split.items()
    }
    best = max(_MARKS, key=lambda mark: known[mark])
    if known[best] >= 2:
        return best

    def evenness(mark: str) -> tuple[float, int]:
        widths = Counter(len(cells) for cells in split[mark] if len(cells) > 1)
        same = max(widths.values(), default=0)
        return same / max(len(lines), 1), -_MARKS.index(mark)

    return max(_MARKS, key=evenness) if any(evenness(mark)[0] for mark in _MARKS) else ","


def _cells(line: str, mark: str) -> list[str]:
    try:
        if mark in "\t|":
            return next(csv.reader([line], delimiter=mark, quoting=csv.QUOTE_NONE))
        return next(csv.reader([line], delimiter=mark))
    except (csv.Error, StopIteration):
        return []


def _lines(path: Path, content: str, delimiter: str) -> list[tuple[int, list[str]]]:
    """Number and cells of each line that is not blank."""
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
    return [
        (number, [_unquoted(cell) if is_bare or cell[:2] == '="' else cell for cell in cells])
        for number, cells in _numbered(reader, path)
        if any(cell.strip() for cell in cells)
    ]


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
    """The cell without quotation marks around it; `="001"` is how spreadsheets keep a text."""
    cell = cell[1:] if cell[:2] == '="' else cell
    inner = cell[1:-1]
    if len(cell) >= 2 and cell[0] == cell[-1] == '"' and '"' not in inner.replace('""', ""):
        return inner.replace('""', '"')
    return cell


def _heading_row(
    lines: Sequence[Sequence[str]], named: Collection[str], stems: Collection[str]
) -> tuple[int, bool]:
    """Index of the first row that counts, and whether it is a heading.

    Rows above it are titles: a row of one cell above a wider one, or anything above a heading with
    known names.
    """
    wanted = {name for name in named if not name.isdecimal()}
    first_wide: int | None = None
    is_heading = False
    for index, cells in enumerate(lines):
        has_file = any(is_audio_name(cell, ()) for cell in cells)
        known = num_known_names(cells)
        if not has_file and (known >= 2 or wanted & {cell.strip() for cell in cells}):
            return index, True
        if has_file:
            # A row above the first recording is a heading if it is as wide, else a title.
            return (index, False) if first_wide is None else (first_wide, True)
        if not known and any(is_audio_name(cell, stems) for cell in cells):
            # The row above may be of a recording that is missing: it is never dropped.
            return (index if first_wide is None else first_wide), is_heading
        if first_wide is None and sum(1 for cell in cells if cell.strip()) >= 2:
            first_wide, is_heading = index, known > 0
    if any(name.isdecimal() for name in named):
        return 0, False
    return first_wide or 0, True


def _without_empty_columns(
    heading: list[str], lines: list[tuple[int, list[str]]]
) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Columns without a name go if they have no cells, else they are called by their position."""
    unnamed = [position for position, name in enumerate(heading) if not name]
    if not unnamed:
        return heading, lines
    used = {
        position
        for position in unnamed
        if any(len(cells) > position and cells[position].strip() for _, cells in lines)
    }
    keep = [position for position, name in enumerate(heading) if name or position in used]
    named = [heading[position] or f"column {position + 1}" for position in keep]
    width = len(heading)
    cut = [
        (number, [cells[p] for p in keep if p < len(cells)] + list(cells[width:]))
        for number, cells in lines
    ]
    return named, cut


def _refuse_repeated(heading: Sequence[str], path: Path) -> None:
    repeated = sorted({name for name in heading if heading.count(name) > 1})
    if repeated:
        raise RequestError(
            f"the heading repeats {', '.join(map(repr, repeated))}",
            where=path,
            hint="give each column a name of its own in the first line of the table",
        )


def _records(
    heading: Sequence[str], lines: Sequence[tuple[int, list[str]]]
) -> tuple[Records, dict[str, Sequence[str]]]:
    """The records, and the rows that end before the last column."""
    records: Records = []
    cut_rows: dict[str, Sequence[str]] = {}
    width = len(heading)
    for number, cells in lines:
        where = f":{number}"
        if len(cells) > width and not any(cell.strip() for cell in cells[width:]):
            cells = cells[:width]
        if len(cells) > width:
            records.append((where, _width_problem(len(cells), width)))
            continue
        if len(cells) < width:
            cut_rows[where] = heading[len(cells) :]
        pairs = zip(heading, cells, strict=False)
        records.append((where, {name: cell for name, cell in pairs if cell.strip()}))
    return records, cut_rows


def _width_problem(count: int, width: int) -> str:
    return f"{count} columns where the heading has {width}"


def without_cut_rows(table: Table, columns: Mapping[str, str]) -> Records:
    """The records, with a problem in place of each short row that may lack more than it seems.

    Spreadsheets leave out empty cells at the end of a row. That is certain where the missing
    columns are no part of an utterance, or where the last cell is no value of the missing speaker.
    """
    if not table.cut_rows:
        return table.records
    needed = {columns[role] for role in ("audio", "text", "start", "end", "duration", "id")
              if role in columns}  # fmt: skip
    others = {column for role, column in columns.items() if column not in needed}
    values: dict[str, set[Any]] = {
        column: {record.get(column) for _, record in table.records if isinstance(record, dict)}
        for column in others
    }
    width = len(table.heading)
    records: Records = []
    for where, record in table.records:
        missing = table.cut_rows.get(where, ())
        if isinstance(record, dict) and missing:
            last = next(reversed(record.values()), None)
            if needed & set(missing) or any(
                last in values[column] for column in others & set(missing)
            ):
                record = _width_problem(width - len(missing), width)
        records.append((where, record))
    return records
