"""Which recording a row of a table names: never one of the same name in another folder."""

from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from tests.messages import Messages

from moonshine_tune.core.errors import ProblemsError
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.corpus.manifest import read_manifest
from moonshine_tune.importers.base import ImportRequest
from moonshine_tune.importers.run import import_data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "rec"
    made.mkdir()
    return made


def clips(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        sf.write(folder / name, np.full(1600, 0.1), 16_000)


def texts(
    folder: Path,
    paths: list[str],
    *,
    header: str = "file",
    skip_bad: bool = False,
    speakers: str = "",
) -> tuple[dict[str, str | None], list[str]]:
    """Relative path → text of what is imported, which is the path in the table; and remarks."""
    table = folder.parent / "words.csv"
    table.write_text(
        f"{header};text{';speaker' if speakers else ''}\n"
        + "".join(f"{path};{path}{';' + speakers if speakers else ''}\n" for path in paths),
        encoding="utf-8",
    )
    out, progress = folder.parent / "out.jsonl", Messages()
    request = ImportRequest(folder, out, table=table, force=True, skip_bad=skip_bad)
    import_data(request, progress)
    kept = {
        item.audio.relative_to(folder.resolve()).as_posix(): item.text
        for item in read_manifest(out).utterances
    }
    return kept, progress.lines


BOTH = ["anna/001.wav", "anna/002.wav", "ben/001.wav", "ben/002.wav"]
WINDOWS = "C:\\Users\\lab\\rec\\"


def test_a_missing_recording_is_not_replaced_by_its_namesake(folder: Path) -> None:
    clips(folder, "anna/001.wav", "ben/001.wav", "ben/002.wav")
    with pytest.raises(ProblemsError) as caught:
        texts(folder, BOTH)
    (problem,) = caught.value.problems
    assert "no such recording: anna/002.wav" in problem
    assert "'ben/002.wav' has that name in another folder" in problem
    kept, _ = texts(folder, BOTH, skip_bad=True)
    assert kept == {name: name for name in BOTH if name != "anna/002.wav"}
    with pytest.raises(ProblemsError):
        texts(folder, BOTH[:2])


@pytest.mark.parametrize("root", [WINDOWS, "/home/lab/rec/", "\\\\server\\share\\", "rec/", "x/y/"])
def test_a_root_of_another_machine_is_read_as_the_folder(root: str, folder: Path) -> None:
    clips(folder, *BOTH)
    paths = [root + name.replace("/", "\\" if "\\" in root else "/") for name in BOTH]
    kept, remarks = texts(folder, paths)
    assert kept == dict(zip(BOTH, paths, strict=True))
    # The path from the parent of the folder is no other root.
    assert root == "rec/" or "is read as" in remarks[-1]


@pytest.mark.parametrize("root", [WINDOWS, "/home/lab/rec/"])
def test_a_speaker_who_was_left_behind_is_missing(root: str, folder: Path) -> None:
    clips(folder, *BOTH[2:])
    paths = [root + name.replace("/", "\\" if "\\" in root else "/") for name in BOTH]
    with pytest.raises(ProblemsError) as caught:
        texts(folder, paths)
    assert [problem.split("recording: ")[1].split(";")[0] for problem in caught.value.problems] == (
        paths[:2]
    )
    kept, _ = texts(folder, paths, skip_bad=True)
    assert kept == dict(zip(BOTH[2:], paths[2:], strict=True))


def test_names_alone_are_read_in_one_folder_if_all_are_there(folder: Path) -> None:
    clips(folder, "0.wav", "1.wav", "other/2.wav")
    kept, _ = texts(folder, ["D:\\work\\slicer\\0.wav", "D:\\work\\slicer\\1.wav"])
    assert set(kept) == {"0.wav", "1.wav"}
    with pytest.raises(ProblemsError, match="3 of 3 rows"):
        texts(folder, [f"D:\\work\\slicer\\{n}.wav" for n in range(3)])


@pytest.mark.parametrize("root", ["anna/", WINDOWS + "anna\\"])
def test_the_folder_of_one_speaker_is_not_read_as_that_of_another(root: str, folder: Path) -> None:
    clips(folder, "ben/001.wav", "ben/002.wav")
    paths = [f"{root}001.wav", f"{root}002.wav"]
    with pytest.raises(ProblemsError, match="2 of 2 rows"):
        texts(folder, paths)
    with pytest.raises(ProblemsError, match="2 of 2 rows"):
        texts(folder / "ben", paths, speakers="Anna")


def test_two_possible_roots_are_no_root(folder: Path) -> None:
    clips(folder, "old/anna/001.wav", "new/anna/001.wav")
    with pytest.raises(ProblemsError, match="no such recording"):
        texts(folder, [WINDOWS + "anna\\001.wav"])


def test_names_without_a_folder_may_be_in_any(folder: Path) -> None:
    clips(folder, "day 1/a.wav", "day 2/b.WAV")
    kept, _ = texts(folder, ["a.wav", "b"])
    assert kept == {"day 1/a.wav": "a.wav", "day 2/b.WAV": "b"}
    with pytest.raises(ProblemsError, match=r"'day 2/b.WAV' has that name"):
        texts(folder, ["day 1/a.wav", "b.WAV"])


@pytest.mark.parametrize(
    ("named", "near"),
    [("TAKE 1.WAV", "take 1.wav"), ("take 1.mp3", "take 1.wav"), ("DAY/b.flac", "day/b.wav")],
)
def test_a_near_name_is_a_hint(named: str, near: str, folder: Path) -> None:
    clips(folder, "take 1.wav", "day/b.wav")
    with pytest.raises(ProblemsError, match=f"did you mean '{near}'"):
        texts(folder, [named])


def test_texts_beside_recordings_of_one_name_in_a_relative_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips(folder, *BOTH)
    for name in BOTH:
        (folder / name).with_suffix(".txt").write_text(name)
    monkeypatch.chdir(folder.parent)
    out = Path("out.jsonl")
    import_data(ImportRequest(Path("rec"), out), SilentProgress())
    utterances = read_manifest(out).utterances
    assert {
        item.audio.relative_to(folder.resolve()).as_posix(): item.text for item in utterances
    } == {name: name for name in BOTH}


@pytest.mark.parametrize("field", ["speaker", "folder", "split"])
def test_a_field_that_names_folders_says_which_recording_is_meant(field: str, folder: Path) -> None:
    clips(folder, *BOTH)
    table = folder.parent / "words.csv"
    rows = [f"{who},00{n}.wav,{who} says {n}" for who in ("anna", "ben") for n in (1, 2)]
    table.write_text("\n".join([f"{field},file,text", *rows]) + "\n", encoding="utf-8")
    out = folder.parent / "out.jsonl"
    import_data(ImportRequest(folder, out, table=table), SilentProgress())
    kept = {item.audio.parent.name: item.text for item in read_manifest(out).utterances}
    assert kept == {"anna": "anna says 2", "ben": "ben says 2"}


@pytest.mark.parametrize(
    "recordings", [["ben/001.wav", "ben/002.wav"], ["anna/001.wav", *BOTH[2:]]]
)
def test_a_name_alone_is_not_bound_to_another_speakers_recording(
    recordings: list[str], folder: Path
) -> None:
    clips(folder, *recordings)
    table = folder.parent / "words.csv"
    table.write_text("file,text,speaker\n002.wav,two,anna\n002.wav,too,ben\n", encoding="utf-8")
    request = ImportRequest(folder, folder.parent / "out.jsonl", table=table)
    with pytest.raises(ProblemsError, match=r"'ben/002\.wav' has that name in another"):
        import_data(request, SilentProgress())


def test_beside_a_table_with_its_recordings_the_others_are_missing(folder: Path) -> None:
    clips(folder, "anna/001.wav", "ben/001.wav", "ben/002.wav")
    table = folder / "anna" / "words.csv"
    table.write_text("file,text\n001.wav,one\n002.wav,two\n", encoding="utf-8")
    request = ImportRequest(folder, folder.parent / "out.jsonl", table=table)
    with pytest.raises(ProblemsError, match=r"no such recording: 002\.wav"):
        import_data(request, SilentProgress())
