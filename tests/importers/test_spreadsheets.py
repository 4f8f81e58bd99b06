"""Tables as spreadsheets save them: headings, rows, encodings and times."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from tests.messages import Messages

from moonshine_tune.core.errors import ProblemsError, RequestError
from moonshine_tune.corpus.manifest import Utterance, read_manifest
from moonshine_tune.importers.base import ImportRequest
from moonshine_tune.importers.run import import_data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Recordings a.wav and b.wav of three seconds each."""
    made = tmp_path / "rec"
    made.mkdir()
    for name in "ab":
        sf.write(made / f"{name}.wav", np.full(48_000, 0.1), 16_000)
    return made


def imported(
    folder: Path, lines: list[str] | bytes, *, ending: str = ".csv", **options: Any
) -> tuple[tuple[Utterance, ...], list[str]]:
    table, out, progress = folder.parent / f"t{ending}", folder.parent / "out.jsonl", Messages()
    content = lines if isinstance(lines, bytes) else ("\r\n".join(lines) + "\r\n").encode()
    table.write_bytes(content)
    import_data(ImportRequest(folder, out, table=table, force=True, **options), progress)
    return read_manifest(out).utterances, progress.lines


def texts(utterances: tuple[Utterance, ...]) -> list[str | None]:
    return [item.text for item in utterances]


@pytest.mark.parametrize(
    "lines",
    [
        ["file,text,,", "a.wav,go on,,", "b.wav,stop,,"],
        [",file,text", ",a.wav,go on", ",b.wav,stop"],
        ["sep=;", "file;text", "a.wav;go on", "b.wav;stop"],
        ['"sep=\t"', "file\ttext", "a.wav\tgo on", "b.wav\tstop"],
        ["My recordings,,", "file,text,", "a.wav,go on,", "b.wav,stop,"],
        ["My recordings", "", "file;text", "a.wav;go on", "b.wav;stop"],
        ["Lab 3;May 2024", "File Name;Transcript", "a.wav;go on", "b.wav;stop"],
        [" file ; text ", " a.wav ; go on ", "b.wav;stop "],
        ["file,text,remark", "a.wav,go on,loud", "b.wav,stop"],
        ["file,text,speaker", "a.wav,go on,anna", "b.wav,stop"],
        ["\ufefffile|text", "a.wav|go on", "b.wav|stop|"],
        ["file,text", 'a.wav,"=""go on"""', 'b.wav,="stop"'],
    ],
)
def test_habits_of_spreadsheets(lines: list[str], folder: Path) -> None:
    utterances, _ = imported(folder, lines)
    assert texts(utterances) == ["go on", "stop"]
    assert {key for item in utterances for key in item.extra} <= {"remark"}


def test_titles_are_reported(folder: Path) -> None:
    _, remarks = imported(folder, ["My takes,", "file,text", "a.wav,go on"])
    assert "above the heading, left out: 'My takes'" in remarks


def test_a_column_without_a_name_keeps_its_cells(folder: Path) -> None:
    utterances, _ = imported(folder, [",file,text", "0,a.wav,go on", "1,b.wav,stop"])
    assert [item.extra for item in utterances] == [{"column 1": "0"}, {"column 1": "1"}]


@pytest.mark.parametrize("row", ["b.wav,anna", "b.wav", "b.wav,stop,anna,0.5,1.5,more"])
def test_a_row_that_lacks_a_cell_in_the_middle_is_refused(row: str, folder: Path) -> None:
    lines = ["file,text,speaker,start,end", "a.wav,go on,anna,0,1", row]
    with pytest.raises(ProblemsError, match="columns where the heading has 5"):
        imported(folder, lines)
    with pytest.raises(ProblemsError, match="2 columns where the heading has 3"):
        imported(folder, ["file,text,speaker", "a.wav,go on,anna", "b.wav,anna"])


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig"])
def test_unicode_with_and_without_a_mark(encoding: str, folder: Path) -> None:
    content = "file\ttext\r\na.wav\t왼쪽으로 가세요\r\n".encode(encoding)
    assert texts(imported(folder, content)[0]) == ["왼쪽으로 가세요"]


@pytest.mark.parametrize(
    ("encoding", "text"),
    [("cp1252", "café – “x”"), ("cp1251", "привет"), ("cp932", "左へ"), ("mac_roman", "Grüße")],
)
def test_another_encoding_is_shown_and_can_be_named(encoding: str, text: str, folder: Path) -> None:
    content = f"file;text\r\na.wav;{text}\r\n".encode(encoding)
    with pytest.raises(RequestError, match="not UTF-8") as caught:
        imported(folder, content)
    assert f"in {encoding}" in caught.value.message or encoding == "cp932"
    assert "--encoding" in str(caught.value.hint)
    assert texts(imported(folder, content, encoding=encoding)[0]) == [text]


def test_wrong_encodings_are_plain_errors(folder: Path) -> None:
    content = "file;text\r\na.wav;café\r\n".encode("cp1252")
    with pytest.raises(RequestError, match="no encoding is called 'western'"):
        imported(folder, content, encoding="western")
    with pytest.raises(RequestError, match="not ascii"):
        imported(folder, content, encoding="ascii")


@pytest.mark.parametrize("start", [b"PK\x03\x04", b"\xd0\xcf\x11\xe0"])
def test_a_workbook_is_named_with_what_to_do(start: bytes, folder: Path) -> None:
    with pytest.raises(RequestError, match="Excel") as caught:
        imported(folder, start + b"\x00" * 99, ending=".xlsx")
    assert "save it as CSV" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("0,25", "2,75"),
        ("0,250", "2,750"),
        ("00:00.250", "00:02.750"),
        ("0:00:00,25", "0:00:02,75"),
        ("0.25 s", "2750 ms"),
        (" 0.25", "2.75 "),
        ("250", "2750"),
        ("4000", "44000"),
        ("2,8935185E-06", "3,1828704E-05"),
    ],
)
def test_times_of_spreadsheets(start: str, end: str, folder: Path) -> None:
    lines = ["file;start;end;text"]
    lines += [f"{name}.wav;{start};{end};turn left heading two" for name in "ab"]
    utterances, remarks = imported(folder, lines)
    spans = [(round(item.start or 0, 4), round(item.end or 0, 4)) for item in utterances]
    assert spans == [(0.25, 2.75)] * 2
    unit = {"250": "milliseconds", "4000": "samples", "2,8935185E-06": "days"}.get(start)
    assert any("times are in" in line for line in remarks) == (unit is not None)
    assert unit is None or f"times are in {unit}" in "\n".join(remarks)


@pytest.mark.parametrize(
    ("start", "problem"),
    [
        ("2024-05-02 09:10:07", "a date or a time of day"),
        ("02.05.2024", "a date or a time of day"),
        ("9:10:07 AM", "a date or a time of day"),
        ("1,250", "which may be 1.250 or 1250"),
        ("00:75", "not a number"),
        ("soon", "not a number"),
        ("nan", "not a number"),
        ("1_0", "not a number"),
    ],
)
def test_what_is_no_time_is_refused_plainly(start: str, problem: str, folder: Path) -> None:
    with pytest.raises(ProblemsError, match=problem):
        imported(folder, ["file\tstart\ttext", f"a.wav\t{start}\tgo on"])


def test_one_wrong_span_does_not_change_the_unit(folder: Path) -> None:
    lines = ["file,start,end,text", "a.wav,0,2,turn left now", "b.wav,1,9,go on then"]
    with pytest.raises(ProblemsError, match="the span 1 to 9 s"):
        imported(folder, lines)
    lines = ["file,start,end,text", "a.wav,0,2500,turn left heading", "b.wav,0,9000,go on and on"]
    with pytest.raises(ProblemsError, match="the span 0 to 9000 s"):
        imported(folder, lines)


def test_milliseconds_that_would_fit_as_seconds(tmp_path: Path) -> None:
    folder = tmp_path / "long"
    folder.mkdir()
    sf.write(folder / "talk.wav", np.zeros(8000 * 700, dtype=np.int16), 8000)
    lines = ["file,start,end,text"]
    lines += [f"talk.wav,{n * 100},{n * 100 + 300},go on" for n in range(3)]
    utterances, _ = imported(folder, lines)
    assert [(item.start, item.end) for item in utterances] == [(0, 0.3), (0.1, 0.4), (0.2, 0.5)]


def test_json_without_a_text_is_counted_and_other_types_are_refused(folder: Path) -> None:
    lines = ['{"file": "a.wav", "text": NaN}', '{"file": "a.wav", "text": null, "speaker": NaN}',
             '{"file": "b.wav", "text": "12.0", "mood": NaN}']  # fmt: skip
    utterances, _ = imported(folder, lines, ending=".jsonl")
    assert texts(utterances) == ["12.0"]
    for value in ("true", "12.0", "[1]", "{}"):
        with pytest.raises(ProblemsError, match="not a string"):
            imported(folder, [f'{{"file": "a.wav", "text": {value}}}'], ending=".jsonl")


@pytest.mark.parametrize("name", ["TABLE.CSV", "Table.Tsv"])
def test_endings_in_capitals(name: str, folder: Path) -> None:
    (folder / name).write_text("file\ttext\na.wav\tgo on\n")
    import_data(ImportRequest(folder, folder.parent / "out.jsonl"), Messages())


def test_a_table_of_the_folder_is_proposed(folder: Path) -> None:
    (folder / "words.csv").write_text("file,text\na.wav,go on\n")
    request = ImportRequest(folder, folder.parent / "out.jsonl", table=Path("words.csv"))
    with pytest.raises(RequestError, match="no such table") as caught:
        import_data(request, Messages())
    assert str(folder / "words.csv") in str(caught.value.hint)


@pytest.mark.parametrize("name", ["voices.list", "words.txt", "words.xlsx"])
def test_a_list_may_be_named_instead_of_the_folder(name: str, folder: Path) -> None:
    (folder / name).write_text("a.wav|go on\nb.wav|stop\n")
    out = folder.parent / "out.jsonl"
    import_data(ImportRequest(folder / name, out), Messages())
    assert texts(read_manifest(out).utterances) == ["go on", "stop"]


def test_milliseconds_by_the_names_of_the_columns(folder: Path) -> None:
    lines = ["file,start_ms,end_ms,text", "a.wav,1,2,go on", "b.wav,0.5,2500,stop"]
    utterances, _ = imported(folder, lines)
    assert [(item.start, item.end) for item in utterances] == [(0.001, 0.002), (0.0005, 2.5)]


def test_starts_alone_last_until_the_next(folder: Path) -> None:
    lines = ["file,start,text", "a.wav,1.5,stop", "a.wav,0,go on"]
    utterances, remarks = imported(folder, lines)
    spans = sorted((item.start or 0, item.end, item.text) for item in utterances)
    assert spans[0] == (0, 1.5, "go on")
    assert "1 starts without an end last until the next" in "\n".join(remarks)


def test_a_merged_cell_of_speakers_is_named(folder: Path) -> None:
    utterances, remarks = imported(folder, ["file,text,speaker", "a.wav,go,anna", "b.wav,stop,"])
    assert [item.speaker for item in utterances] == ["anna", None]
    assert "1 of 2 rows have no value in column 'speaker'" in "\n".join(remarks)
