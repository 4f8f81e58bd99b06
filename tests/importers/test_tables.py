"""Tables: quotation marks, separators, headings and columns."""

from pathlib import Path

import pytest

from moonshine_tune.core.errors import RequestError
from moonshine_tune.importers.base import ColumnNames, Rows
from moonshine_tune.importers.tabular import read_table


def read(folder: Path, content: str, name: str = "words.csv", **columns: str) -> Rows:
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return read_table(path, ColumnNames(**columns), want_text=True)


def texts(table: Rows) -> list[str]:
    return [row.values["text"] for row in table.rows]


def test_a_quote_that_is_never_closed_is_an_error_at_its_line(tmp_path: Path) -> None:
    with pytest.raises(RequestError) as caught:
        read(tmp_path, 'file,text\na.wav,fine\nb.wav,"never closed\nc.wav,three\n')
    assert caught.value.where == f"{tmp_path / 'words.csv'}:3"
    assert "quotation mark" in str(caught.value.hint)


def test_quoted_cells_may_have_separators_quotes_and_line_breaks(tmp_path: Path) -> None:
    table = read(tmp_path, 'file,text\na.wav,"One, ""two"""\nb.wav,"three\nfour"\nc.wav,five\n')
    assert texts(table) == ['One, "two"', "three\nfour", "five"]
    assert [row.location.rpartition(":")[2] for row in table.rows] == ["2", "3", "5"]


@pytest.mark.parametrize(("name", "mark"), [("words.tsv", "\t"), ("words.csv", "|")])
def test_quotation_marks_are_text_between_tabs_and_bars(
    name: str, mark: str, tmp_path: Path
) -> None:
    content = 'file,text\na.wav,"Go he said\nb.wav,"all of it"\nc.wav,x\n'.replace(",", mark)
    assert texts(read(tmp_path, content, name)) == ['"Go he said', "all of it", "x"]


def test_columns_named_by_number_mean_that_there_is_no_heading(tmp_path: Path) -> None:
    table = read(tmp_path, "a|one|1\nb|two|2\n", audio="1", text="2")
    assert [row.audio for row in table.rows] == ["a", "b"]
    assert texts(table) == ["one", "two"]


def test_a_missing_column_is_reported_with_the_existing_ones(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="'words'") as caught:
        read(tmp_path, "file,text\na.wav,one\n", text="words")
    assert "file, text" in str(caught.value.hint)


def test_a_row_with_too_many_cells_is_a_problem(tmp_path: Path) -> None:
    table = read(tmp_path, "file,text\na.wav,one, two\nb.wav,three\n")
    assert [row.problem is None for row in table.rows] == [False, True]
    assert table.rows[0].location.endswith(":2")


def test_the_speaker_may_be_called_who(tmp_path: Path) -> None:
    table = read(tmp_path, "file,text,who\na.wav,fine,Anna\n")
    assert [row.values["speaker"] for row in table.rows] == ["Anna"]
