"""Lines of text with the form in which a synthesizer speaks them, where that is another one.

A text file has one text per line and, after a tab, its spoken form. A table (`.csv`) has a heading
with a column of texts and may have a column of spoken forms.
"""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from moonshine_tune.core.bounded_files import utf8_text
from moonshine_tune.core.errors import RequestError

_TEXT_COLUMNS = ("text", "term", "sentence", "transcript", "word", "phrase")
_SPOKEN_COLUMNS = ("spoken", "spoken_form", "pronunciation", "say_as")


@dataclass(frozen=True)
class SpokenLine:
    """A text, and how it is spoken.

    Attributes:
        text: with single spaces.
        spoken: empty where it is spoken as it is written.
        line: its number in the file, 1-based.
    """

    text: str
    spoken: str = ""
    line: int = 0


def read_spoken_lines(path: Path, what: str, *, comments: bool) -> tuple[SpokenLine, ...]:
    """The lines of a file that are not blank.

    Args:
        what: of what the lines are, for messages, such as "key terms".
        comments: whether lines that start with `#` are left out.

    Raises:
        RequestError: missing, not UTF-8 text, or a table without a column of texts.
    """
    try:
        content = utf8_text(path.read_bytes(), path, what=f"{what} cannot be read: ")
    except FileNotFoundError as error:
        raise RequestError(
            f"no such file of {what}", where=path, hint="name a text file, one per line"
        ) from error
    except OSError as error:
        raise RequestError(f"{what} cannot be read: {error}", where=path) from error
    numbered = list(enumerate(content.splitlines(), start=1))
    rows = _table_rows(path, numbered) if path.suffix.lower() == ".csv" else _text_rows(numbered)
    return tuple(
        line for line in rows if line.text and not (comments and line.text.startswith("#"))
    )


def _text_rows(numbered: Sequence[tuple[int, str]]) -> Iterator[SpokenLine]:
    for number, line in numbered:
        text, _, spoken = line.partition("\t")
        yield SpokenLine(" ".join(text.split()), " ".join(spoken.split()), number)


def _table_rows(path: Path, numbered: Sequence[tuple[int, str]]) -> Iterator[SpokenLine]:
    lines = [(number, line) for number, line in numbered if line.strip()]
    if not lines:
        return
    delimiter = max(",;\t|", key=lines[0][1].count)
    heading = next(csv.reader([lines[0][1]], delimiter=delimiter))
    names = [name.strip().lower() for name in heading]
    text = next((names.index(name) for name in _TEXT_COLUMNS if name in names), None)
    spoken = next((names.index(name) for name in _SPOKEN_COLUMNS if name in names), None)
    if text is None:
        raise RequestError(
            f"the table has no column of texts (line {lines[0][0]}: {', '.join(heading)})",
            where=path,
            hint="name one `text` or `term`, and spoken forms `spoken`, in its first line",
        )
    for number, line in lines[1:]:
        cells = next(csv.reader([line], delimiter=delimiter))
        chosen = [
            " ".join(cells[column].split()) if column is not None and column < len(cells) else ""
            for column in (text, spoken)
        ]
        yield SpokenLine(chosen[0], chosen[1], number)
