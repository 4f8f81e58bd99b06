"""Import: which tables and folders are read, which rows are kept, and why others are left out."""

import json
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from moonshine_tune.core.errors import ProblemsError, RequestError
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.corpus.manifest import Utterance, read_manifest
from moonshine_tune.importers import layouts
from moonshine_tune.importers.base import ColumnNames, ImportRequest, all_importers
from moonshine_tune.importers.run import ImportResult, import_data


def clip(path: Path, seconds: float = 0.5, rate: int = 16_000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, np.random.default_rng(len(path.name)).normal(0, 0.1, int(seconds * rate)), rate)
    return path


def run_import(folder: Path, **options: object) -> tuple[ImportResult, tuple[Utterance, ...]]:
    out = folder.parent / "out.jsonl"
    request = ImportRequest(location=folder, out=out, **options)  # type: ignore[arg-type]
    result = import_data(request, SilentProgress())
    return result, read_manifest(out, require_text=False).utterances


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A folder with three clips of half a second: a.wav, b.wav and sub/c 1.flac."""
    folder = tmp_path / "corpus"
    for name in ("a.wav", "b.wav", "sub/c 1.flac"):
        clip(folder / name)
    return folder


def texts(utterances: tuple[Utterance, ...]) -> dict[str, str | None]:
    return {item.audio.name: item.text for item in utterances}


EXPECTED = {"a.wav": "Hello, you", "b.wav": 'Say "go"', "c 1.flac": "Grüße"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", 'audio,text\na.wav,"Hello, you"\nb.wav,"Say ""go"""\nsub/c 1.flac,Grüße\n'),
        ("t.csv", 'File Name;Transcript\na.wav;Hello, you\nb.wav;"Say ""go"""\nsub/c 1.flac;Grüße'),
        ("t.tsv", 'path\tsentence\na.wav\tHello, you\nb.wav\tSay "go"\nc 1.flac\tGrüße\n'),
        ("t.csv", 'a|Hello, you\nb|Say "go"\nc 1|Grüße\n'),
        (
            "t.jsonl",
            '{"audio_filepath": "a.wav", "text": "Hello, you"}\n'
            '{"audio_filepath": "b.wav", "text": "Say \\"go\\""}\n'
            '{"audio_filepath": "sub/c 1.flac", "text": "Grüße"}\n',
        ),
        ("t.csv", 'wav,text\r\n.\\a.wav,"Hello, you"\r\nb,"Say ""go"""\r\nsub\\c 1.flac,Grüße\r\n'),
    ],
)
def test_tables_of_many_kinds(corpus: Path, name: str, content: str) -> None:
    (corpus / name).write_text(content, encoding="utf-8", newline="")
    result, utterances = run_import(corpus)
    assert texts(utterances) == EXPECTED
    assert (result.rows, result.kept, result.reasons, result.unlisted) == (3, 3, {}, 0)
    assert result.seconds == 1.5
    assert [item.duration for item in utterances] == [0.5, 0.5, 0.5]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_tables_as_spreadsheets_save_them(corpus: Path, encoding: str) -> None:
    (corpus / "t.csv").write_text("audio,text\na.wav,Grüße\n", encoding=encoding)
    _, utterances = run_import(corpus)
    assert texts(utterances) == {"a.wav": "Grüße"}


def test_a_quotation_mark_in_a_tsv_does_not_swallow_lines(corpus: Path) -> None:
    (corpus / "t.tsv").write_text('path\tsentence\na.wav\t"Hello\nb.wav\t"Quoted"\n')
    _, utterances = run_import(corpus)
    assert texts(utterances) == {"a.wav": '"Hello', "b.wav": "Quoted"}


def test_fields_of_a_table_reach_the_manifest(corpus: Path) -> None:
    (corpus / "t.csv").write_text(
        "path,sentence,client_id,locale,up_votes,start,end,text_id\n"
        "a.wav,one,anna,en,3,0.1,0.4,x\n"
        "a.wav,two,,,,,,\n"
    )
    result, (first, second) = run_import(corpus)
    assert (first.speaker, first.language) == ("anna", "en")
    assert (first.start, first.end, first.duration) == (0.1, 0.4, pytest.approx(0.3))
    assert first.extra == {"up_votes": "3", "text_id": "x"}
    assert (second.speaker, second.language, second.duration) == (None, None, 0.5)
    assert [first.id, second.id] == ["a", "a-2"]
    assert (result.speakers, result.unlisted) == (1, 2)


def test_named_columns_override_guesses(corpus: Path) -> None:
    (corpus / "t.csv").write_text("audio,path,text,raw,who\nx,a.wav,wrong,right,anna\n")
    names = ColumnNames(audio="path", text="raw", speaker="who")
    result, (utterance,) = run_import(corpus, columns=names)
    assert (utterance.text, utterance.speaker) == ("right", "anna")
    assert "text from 'raw'" in result.source
    with pytest.raises(RequestError, match="no column is called 'nope'") as caught:
        run_import(corpus, columns=ColumnNames(text="nope"), force=True)
    assert "raw" in (caught.value.hint or "")


def test_columns_that_cannot_be_guessed_are_an_error_with_a_hint(corpus: Path) -> None:
    table = corpus / "t.csv"
    table.write_text("foo,bar\na.wav,hello\n")
    with pytest.raises(RequestError, match="no column looks like audio; the columns are: foo, bar"):
        run_import(corpus)
    with pytest.raises(RequestError, match="no column looks like text") as caught:
        run_import(corpus, columns=ColumnNames(audio="foo"))
    assert "--text-column" in (caught.value.hint or "")


def test_text_files_beside_recordings(corpus: Path) -> None:
    (corpus / "a.txt").write_text("  Hello\n  you \n")
    (corpus / "sub" / "c 1.txt").write_bytes("\ufeffGrüße".encode())
    result, utterances = run_import(corpus)
    assert texts(utterances) == {"a.wav": "Hello you", "c 1.flac": "Grüße"}
    assert result.summary() == "kept 2 of 3: 1 without text"


def test_trans_files_of_librispeech(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    chapter = folder / "84" / "121"
    clip(chapter / "84-121-0000.flac")
    clip(chapter / "84-121-0001.flac")
    (chapter / "84-121.trans.txt").write_text("84-121-0000 GO ON\n84-121-0001 WE WILL\n")
    result, (first, second) = run_import(folder)
    assert (first.id, first.text, first.speaker) == ("84-121-0000", "GO ON", "84")
    assert (second.text, second.session) == ("WE WILL", "84-121")
    assert (result.kept, result.speakers) == (2, 1)


def test_recordings_alone(corpus: Path) -> None:
    with pytest.raises(RequestError, match="3 recordings and no transcripts") as caught:
        run_import(corpus)
    assert "--no-text" in (caught.value.hint or "")
    result, utterances = run_import(corpus, want_text=False, language="en")
    assert result.summary() == "kept 3 of 3"
    assert {item.text for item in utterances} == {None}
    assert {item.language for item in utterances} == {"en"}


def test_a_manifest_is_imported_as_it_is(corpus: Path) -> None:
    lines = [
        {"id": "one", "audio": "a.wav", "text": "x", "speaker": 7, "mood": [1], "split": "dev"},
        {"id": "two", "audio_filepath": "b.wav", "text": "y", "offset": 0.1, "duration": 0.2},
    ]
    table, nemo = corpus / "old.jsonl", corpus / "nemo.jsonl"
    table.write_text(json.dumps(lines[0]) + "\n")
    nemo.write_text(json.dumps(lines[1]) + "\n")
    result, (kept,) = run_import(corpus, table=table)
    assert (kept.id, kept.speaker, kept.split, kept.extra) == ("one", "7", "dev", {"mood": [1]})
    result, (kept,) = run_import(corpus, table=nemo, force=True)
    assert (kept.start, kept.end, kept.duration) == (0.1, pytest.approx(0.3), pytest.approx(0.2))
    assert result.kept == 1


def test_all_invalid_rows_are_reported_with_file_and_line(corpus: Path) -> None:
    table = corpus / "t.csv"
    table.write_text(
        'audio,text,id,start\na.wav,"one\nmore",x,\ngone.wav,two,y,\na.wav,three,x,\n'
        "b.wav,four,z,soon\nb.wav,five\n,six,u,\nb.wav,seven,v,9\n"
    )
    with pytest.raises(ProblemsError) as caught:
        run_import(corpus)
    assert caught.value.problems == (
        f"{table}:4: no such recording: gone.wav",
        f"{table}:5: an earlier row has id 'x'",
        f"{table}:6: \"start\" is 'soon', not a number",
        f"{table}:7: 2 columns where the heading has 4",
        f'{table}:8: no recording in column "audio"',
        f"{table}:9: b.wav: the span 9 to 0.5 s is not within its 0.50 s",
    )
    assert "--skip-bad" in (caught.value.hint or "")
    assert not (corpus.parent / "out.jsonl").exists()
    result, utterances = run_import(corpus, skip_bad=True)
    assert [item.text for item in utterances] == ["one more"]
    assert result.rows == result.kept + sum(result.reasons.values()) == 7
    assert result.reasons == {
        "missing": 1, "with a repeated id": 1, "malformed": 3, "with a wrong span": 1,
    }  # fmt: skip


def test_invalid_json_lines_are_reported(corpus: Path) -> None:
    table = corpus / "t.jsonl"
    table.write_text(
        '{"audio": "a.wav", "text": "x"}\n{oops\n[1]\n{"audio": "b.wav", "text": []}\n'
    )
    with pytest.raises(ProblemsError) as caught:
        run_import(corpus)
    assert [problem.split(": ")[0] for problem in caught.value.problems] == [
        f"{table}:{number}" for number in (2, 3, 4)
    ]


def test_unreadable_recordings_and_rows_without_text_are_counted(corpus: Path) -> None:
    (corpus / "bad.wav").write_text("not audio")
    sf.write(corpus / "none.wav", np.zeros(0), 16_000)
    (corpus / "t.csv").write_text("audio,text\na.wav,one\nbad.wav,two\nb.wav,  \nnone.wav,three\n")
    result, utterances = run_import(corpus)
    assert [item.text for item in utterances] == ["one"]
    assert result.summary() == "kept 1 of 4: 1 unreadable, 1 without text, 1 empty"
    assert [item.location.rpartition(":")[2] for item in result.dropped] == ["3", "4", "5"]
    assert result.unlisted == 1


def test_nothing_usable_is_an_error_and_writes_nothing(corpus: Path) -> None:
    (corpus / "t.csv").write_text("audio,text\na.wav,\n")
    with pytest.raises(ProblemsError, match="kept 0 of 1: 1 without text"):
        run_import(corpus)
    assert not (corpus.parent / "out.jsonl").exists()


def test_an_existing_manifest_is_replaced_only_by_force(corpus: Path) -> None:
    run_import(corpus, want_text=False)
    out = corpus.parent / "out.jsonl"
    before = out.read_bytes()
    (corpus / "t.csv").write_text("audio,text\na.wav,one\n")
    with pytest.raises(RequestError, match="exists already") as caught:
        run_import(corpus)
    assert "--force" in (caught.value.hint or "")
    assert out.read_bytes() == before
    run_import(corpus, force=True)
    assert out.read_bytes() != before


def test_a_table_is_never_replaced_by_its_manifest(corpus: Path) -> None:
    table = corpus / "t.jsonl"
    table.write_text('{"audio": "a.wav", "text": "x"}\n')
    request = ImportRequest(location=corpus, out=table, table=table, force=True)
    with pytest.raises(RequestError, match="replace the table"):
        import_data(request, SilentProgress())


def test_two_recordings_of_one_name_are_an_error(corpus: Path) -> None:
    shutil.copy(corpus / "a.wav", corpus / "sub" / "x.wav")
    (corpus / "more").mkdir()
    shutil.copy(corpus / "b.wav", corpus / "more" / "x.wav")
    (corpus / "t.csv").write_text("audio,text\nx.wav,one\n")
    with pytest.raises(ProblemsError, match="2 recordings are called"):
        run_import(corpus)


def test_accents_match_in_any_unicode_form(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    clip(folder / (unicodedata.normalize("NFD", "grüße 1") + ".wav"))
    table = folder / "t.csv"
    table.write_text(unicodedata.normalize("NFC", "audio,text\ngrüße 1.wav,x\n"), encoding="utf-8")
    _, (utterance,) = run_import(folder)
    assert utterance.audio.is_file()
    assert utterance.id == unicodedata.normalize("NFC", "grüße 1")


def test_several_tables_are_an_error_with_a_hint(corpus: Path) -> None:
    for name in ("one.csv", "two.csv"):
        (corpus / name).write_text("audio,text\na.wav,x\n")
    with pytest.raises(RequestError, match=r"2 tables: one\.csv, two\.csv") as caught:
        run_import(corpus)
    assert "--table" in (caught.value.hint or "")


def test_wrong_locations_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no such folder"):
        run_import(tmp_path / "gone")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(RequestError, match="no recordings"):
        run_import(empty)
    with pytest.raises(RequestError, match="no such table"):
        run_import(empty, table=empty / "gone.csv")
    (empty / "latin.csv").write_bytes("audio,text\na.wav,ü\n".encode("latin-1"))
    with pytest.raises(RequestError, match="not UTF-8"):
        run_import(empty)


_MODULE = """
from moonshine_tune.importers.base import Importer, Row, Rows

def _recognizes(source):
    return (source.folder / "LIST").is_file()

def _read(source):
    names = (source.folder / "LIST").read_text().splitlines()
    rows = tuple(Row(f"LIST:{n}", name, {"text": name}) for n, name in enumerate(names, 1))
    return Rows("a LIST", source.folder, rows)

IMPORTER = Importer("LIST", 25, _recognizes, _read)
"""


def test_an_importer_in_a_new_module_is_used_without_any_other_edit(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = corpus.parent / "modules"
    modules.mkdir()
    (modules / "list_file.py").write_text(_MODULE, encoding="utf-8")
    (corpus / "LIST").write_text("a.wav\nb.wav\n", encoding="utf-8")
    monkeypatch.setattr(layouts, "__path__", [*layouts.__path__, str(modules)])
    all_importers.cache_clear()
    try:
        result, utterances = run_import(corpus)
    finally:
        monkeypatch.undo()
        all_importers.cache_clear()
    assert result.source == "a LIST"
    assert texts(utterances) == {"a.wav": "a.wav", "b.wav": "b.wav"}


def test_importers_have_names_and_priorities_of_their_own() -> None:
    for values in zip(*((item.name, item.priority) for item in all_importers()), strict=True):
        assert len(set(values)) == len(all_importers())
