"""Manifests: reading valid lines, reporting invalid ones, writing."""

import hashlib
import json
import unicodedata
from pathlib import Path

import pytest

from moonshine_tune.core.errors import ProblemsError, RequestError
from moonshine_tune.corpus.manifest import (
    Utterance,
    read_manifest,
    scan_manifest,
    seconds_of,
    write_manifest,
)


def write(folder: Path, *lines: str, name: str = "train.jsonl") -> Path:
    for number in range(1, 6):
        (folder / f"{number}.wav").touch()
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_known_fields_are_read_and_others_kept(tmp_path: Path) -> None:
    record = {
        "id": "u-1", "audio": "1.wav", "text": "Hallo Wörld", "speaker": "anna", "duration": 2.5,
        "language": "de", "split": "train", "session": "monday", "mood": "calm", "tags": [1, 2],
    }  # fmt: skip
    manifest = read_manifest(write(tmp_path, json.dumps(record)))
    (utterance,) = manifest.utterances
    assert utterance.audio == (tmp_path / "1.wav").resolve()
    assert (utterance.id, utterance.text, utterance.speaker) == ("u-1", "Hallo Wörld", "anna")
    assert (utterance.language, utterance.split, utterance.session) == ("de", "train", "monday")
    assert utterance.extra == {"mood": "calm", "tags": [1, 2]}
    assert utterance.line == 1
    assert manifest.remarks == ()


def test_nemo_names_are_read(tmp_path: Path) -> None:
    line = '{"audio_filepath": "1.wav", "text": "a", "offset": 3.5, "duration": 2.0}'
    (utterance,) = read_manifest(write(tmp_path, line)).utterances
    assert (utterance.start, utterance.end, utterance.known_seconds) == (3.5, 5.5, 2.0)
    assert utterance.extra == {}


def test_length_is_that_of_the_span(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        '{"id": 1, "audio": "1.wav", "text": "a", "start": 1.0, "end": 1.5, "duration": 60}',
        '{"id": 2, "audio": "1.wav", "text": "a", "duration": 2.0}',
        '{"id": 3, "audio": "1.wav", "text": "a"}',
    )
    utterances = read_manifest(path).utterances
    assert [item.known_seconds for item in utterances] == [0.5, 2.0, None]
    assert [item.id for item in utterances] == ["1", "2", "3"]
    assert seconds_of(utterances) == 2.5


def test_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_bytes(b'\xef\xbb\xbf{"audio": "1.wav", "text": "a"}\r\n\r\n')
    assert len(read_manifest(path)) == 1


BAD = [
    ("{not json", "not JSON"),
    ("[1, 2]", "not a JSON object"),
    ("[" * 100_000, "not JSON"),
    ('{"audio": "1.wav", "text": "a", "duration": ' + "9" * 5000 + "}", "not JSON"),
    ('{"text": "a"}', 'no "audio" path'),
    ('{"audio": "", "text": "a"}', 'no "audio" path'),
    ('{"audio": 7, "text": "a"}', 'no "audio" path'),
    ('{"audio": "1.wav"}', 'no "text"'),
    ('{"audio": "1.wav", "text": null}', 'no "text"'),
    ('{"audio": "1.wav", "text": 12}', '"text" is 12, not a string'),
    ('{"audio": "1.wav", "text": "a", "id": ["x"]}', "\"id\" is ['x'], not a string"),
    ('{"audio": "1.wav", "text": "a", "id": true}', '"id" is True, not a string'),
    ('{"audio": "1.wav", "text": "a", "duration": "2"}', "not a number of seconds"),
    ('{"audio": "1.wav", "text": "a", "duration": true}', "not a number of seconds"),
    ('{"audio": "1.wav", "text": "a", "start": -1}', "not a number of seconds of at least 0"),
    ('{"audio": "1.wav", "text": "a", "start": NaN}', "not JSON (NaN"),
    ('{"audio": "1.wav", "text": "a", "start": 2, "end": 1}', '"end" (1) is not after'),
    ('{"audio": "gone.wav", "text": "a"}', "no such recording"),
    ('{"audio": "' + "x" * 5000 + '.wav", "text": "a"}', "no such recording"),
    (r'{"audio": "a\u0000b.wav", "text": "a"}', "not a path"),
    (r'{"audio": "1.wav", "text": "half \ud83d"}', "half of a character"),
    ('{"audio": "2.wav", "text": "b", "id": "good"}', "line 1 also has the id 'good'"),
]


@pytest.mark.parametrize(("line", "message"), BAD)
def test_an_invalid_line_is_reported_with_its_number(
    tmp_path: Path, line: str, message: str
) -> None:
    good = '{"audio": "1.wav", "text": "a", "id": "good"}'
    path = write(tmp_path, good, "", line)
    with pytest.raises(ProblemsError) as caught:
        read_manifest(path)
    (problem,) = caught.value.problems
    assert problem.startswith(f"{path}:3: ")
    assert message in problem
    assert "1 of 2 lines" in str(caught.value)
    assert caught.value.hint


def test_all_invalid_lines_are_reported_together_and_a_scan_keeps_the_others(
    tmp_path: Path,
) -> None:
    good = '{"audio": "1.wav", "text": "a", "id": "good"}'
    path = write(tmp_path, good, *(line for line, _ in BAD))
    with pytest.raises(ProblemsError) as caught:
        read_manifest(path)
    assert len(caught.value.problems) == len(BAD)
    scan = scan_manifest(path)
    assert [item.id for item in scan.utterances] == ["good"]
    assert scan.num_lines == 1 + len(BAD)
    assert [problem.line for problem in scan.problems] == list(range(2, 2 + len(BAD)))
    assert {problem.kind for problem in scan.problems} == {
        "bad_line", "no_text", "duplicate_id", "missing_recording",
    }  # fmt: skip


def test_texts_and_files_can_be_optional(tmp_path: Path) -> None:
    path = write(tmp_path, '{"audio": "gone.wav"}')
    (utterance,) = read_manifest(path, require_text=False, check_files=False).utterances
    assert utterance.text is None
    with pytest.raises(RequestError, match="has no text"):
        _ = utterance.reference


def test_recordings_outside_the_folder_are_allowed_with_a_remark(tmp_path: Path) -> None:
    folder = tmp_path / "manifests"
    folder.mkdir()
    (tmp_path / "out.wav").touch()
    path = write(folder, '{"audio": "1.wav", "text": "a"}', '{"audio": "../out.wav", "text": "a"}')
    manifest = read_manifest(path)
    assert manifest.utterances[1].audio == (tmp_path / "out.wav").resolve()
    assert manifest.remarks == ("1 of 2 recordings are outside the manifest's folder",)


def test_missing_unreadable_and_empty_manifests_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no such manifest") as caught:
        read_manifest(tmp_path / "gone.jsonl")
    assert "data import" in (caught.value.hint or "")
    with pytest.raises(RequestError, match="a folder"):
        read_manifest(tmp_path)
    latin = tmp_path / "latin.jsonl"
    latin.write_bytes('{"audio": "ü.wav"}'.encode("latin-1"))
    with pytest.raises(RequestError, match=r"not UTF-8 text \(byte 11\)") as caught:
        read_manifest(latin)
    assert "data import" in (caught.value.hint or "")
    with pytest.raises(RequestError, match="no utterances") as caught:
        read_manifest(write(tmp_path, "", " "))
    assert "data import" in (caught.value.hint or "")


def test_the_lines_of_another_program_are_to_be_imported(tmp_path: Path) -> None:
    with pytest.raises(ProblemsError, match="2 of 2 lines") as caught:
        read_manifest(write(tmp_path, '{"wav": "a.wav"}', '{"wav": "b.wav"}'))
    assert "moonshine-tune data import" in (caught.value.hint or "")


def test_a_written_manifest_reads_the_same(tmp_path: Path) -> None:
    source = tmp_path / "a" / "ü 1.wav"
    outside = tmp_path / "outside.wav"
    source.parent.mkdir()
    source.touch()
    outside.touch()
    utterances = (
        Utterance("x", source.resolve(), "Grüße, „Welt“", "s", 1.5, extra={"k": None}, line=1),
        Utterance("y", outside.resolve(), start=1.0, end=2.0, line=2),
    )
    path = tmp_path / "a" / "m.jsonl"
    write_manifest(path, utterances)
    assert read_manifest(path, require_text=False).utterances == utterances
    first, second = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    assert first["audio"] == "ü 1.wav"
    assert second["audio"] == str(outside.resolve())


@pytest.mark.parametrize("way", ["absolute", "from here", "through a link"])
def test_recordings_beside_a_manifest_are_written_relative_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """The folder may be a scratch folder that is renamed later."""
    (tmp_path / "home").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "home")
    monkeypatch.chdir(tmp_path)
    folder = {"absolute": tmp_path / "home", "from here": Path("home"),
              "through a link": tmp_path / "link"}[way] / "scratch"  # fmt: skip
    (folder / "audio").mkdir(parents=True)
    (folder / "audio" / "a.wav").write_bytes(b"")
    utterance = Utterance("a", folder / "audio" / "a.wav", text="one")
    write_manifest(folder / "manifest.jsonl", [utterance])
    assert json.loads((folder / "manifest.jsonl").read_text())["audio"] == "audio/a.wav"
    folder.rename(folder.with_name("named"))
    (read,) = read_manifest(folder.with_name("named") / "manifest.jsonl").utterances
    assert read.audio == tmp_path.resolve() / "home" / "named" / "audio" / "a.wav"


def test_texts_and_names_are_read_in_one_way_and_counted(tmp_path: Path) -> None:
    decomposed = unicodedata.normalize("NFD", "déjà vu")
    texts = ["two  spaces\n", decomposed, "fine", "   ", "so\u00adft\u00a0hyphen"]
    names = [" Anna ", unicodedata.normalize("NFD", "Zoë"), "unknown", "N/A", "Anna"]
    records = [
        {"id": str(number), "audio": "1.wav", "text": text, "speaker": name, "session": name}
        for number, (text, name) in enumerate(zip(texts, names, strict=True))
    ]
    path = write(tmp_path, *(json.dumps(record) for record in records))
    scan = scan_manifest(path)
    read = [(item.text, item.speaker, item.session) for item in scan.utterances]
    assert read == [
        ("two spaces", "Anna", "Anna"), ("déjà vu", "Zoë", "Zoë"), ("fine", None, None),
        ("", None, None), ("soft hyphen", "Anna", "Anna"),
    ]  # fmt: skip
    assert scan.written_texts == {
        "0": texts[0], "1": decomposed, "3": "   ", "4": texts[4]
    }  # fmt: skip
    assert scan.remarks == (
        "4 of 5 texts are read with single spaces and composed characters (NFC)",
        "2 of 5 speakers name nobody ('unknown', 'N/A')",
    )
    assert scan.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    written = tmp_path / "again.jsonl"
    write_manifest(written, scan.utterances)
    assert scan_manifest(written).remarks == ()


def test_sets_of_a_corpus_in_one_manifest_are_named(tmp_path: Path) -> None:
    names = ("train", "train", "dev", "test", None)
    lines = [json.dumps({"id": f"u{n}", "audio": f"{n}.wav", "text": "go", "split": name})
             for n, name in enumerate(names, start=1)]  # fmt: skip
    (remark,) = read_manifest(write(tmp_path, *lines)).remarks
    assert remark.startswith("its split field has train (2), dev (1), test (1)")
    assert "--by-field" in remark
    assert read_manifest(write(tmp_path, *lines[:2])).remarks == ()


def test_languages_that_no_normalizer_treats_alike_are_named(tmp_path: Path) -> None:
    def remarks(*languages: str | None) -> tuple[str, ...]:
        lines = [json.dumps({"id": f"u{n}", "audio": "1.wav", "text": "go", "language": name})
                 for n, name in enumerate(languages)]  # fmt: skip
        return read_manifest(write(tmp_path, *lines)).remarks

    (remark,) = remarks("en", "ko", "en", None)
    assert remark.startswith("its language field has en (2), ko (1)")
    assert remarks("en", "en-US", "EN_gb", None) == ()
