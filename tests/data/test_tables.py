"""Tables: nothing may be swallowed by a stray quotation mark, nor taken for a heading."""

from pathlib import Path

import pytest

from moonshine_tune.core.errors import RequestError
from moonshine_tune.data.importers.tables import ColumnNames, Source, read_table


def read(folder: Path, content: str, name: str = "words.csv", **columns: str) -> Source:
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return read_table(path, ColumnNames(**columns), want_text=True)


def texts(source: Source) -> list[str]:
    return [row.values["text"] for row in source.rows]


def test_a_quote_that_is_never_closed_is_an_error_at_its_line(tmp_path: Path) -> None:
    with pytest.raises(RequestError) as caught:
        read(tmp_path, 'file,text\na.wav,fine\nb.wav,"never closed\nc.wav,three\n')
    assert caught.value.where == f"{tmp_path / 'words.csv'}:3"
    assert "quotation mark" in str(caught.value.hint)


def test_quoted_cells_hold_separators_and_quotes_and_lines(tmp_path: Path) -> None:
    source = read(tmp_path, 'file,text\na.wav,"One, ""two"""\nb.wav,"three\nfour"\nc.wav,five\n')
    assert texts(source) == ['One, "two"', "three\nfour", "five"]
    assert [row.place.rpartition(":")[2] for row in source.rows] == ["2", "3", "5"]


@pytest.mark.parametrize(("name", "mark"), [("words.tsv", "\t"), ("words.csv", "|")])
def test_quotation_marks_are_text_between_tabs_and_bars(
    name: str, mark: str, tmp_path: Path
) -> None:
    content = 'file,text\na.wav,"Go he said\nb.wav,"all of it"\nc.wav,x\n'.replace(",", mark)
    assert texts(read(tmp_path, content, name)) == ['"Go he said', "all of it", "x"]


def test_columns_named_by_number_mean_that_there_is_no_heading(tmp_path: Path) -> None:
    source = read(tmp_path, "a|one|1\nb|two|2\n", audio="1", text="2")
    assert [row.audio for row in source.rows] == ["a", "b"]
    assert texts(source) == ["one", "two"]


def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="'words'") as caught:
        read(tmp_path, "file,text\na.wav,one\n", text="words")
    assert "file, text" in str(caught.value.hint)


def test_a_row_with_a_cell_too_many_is_a_problem_of_its_own(tmp_path: Path) -> None:
    source = read(tmp_path, "file,text\na.wav,one, two\nb.wav,three\n")
    assert [row.problem is None for row in source.rows] == [False, True]
    assert source.rows[0].place.endswith(":2")


def test_the_speaker_may_be_called_who(tmp_path: Path) -> None:
    source = read(tmp_path, "file,text,who\na.wav,fine,Anna\n")
    assert [row.values["speaker"] for row in source.rows] == ["Anna"]
