"""What dead processes leave is removed; what live ones use, or another program made, is not."""

import os
from pathlib import Path

import pytest
from tests.other_process import other_process

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import complete_file, complete_folder, write_text_atomic
from moonshine_tune.core.scratch import remove_leftovers


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_that_another_program_makes_meanwhile_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "pack"
    with (
        pytest.raises(RequestError, match="made this folder meanwhile") as caught,
        complete_folder(path) as scratch,
    ):
        (scratch / "result").write_text("hours of work")
        path.mkdir()
        (path / "thesis.txt").write_text("precious")
    assert (path / "thesis.txt").read_text() == "precious"
    # Neither is lost: the finished work has a name of its own, which the hint gives.
    assert _names(tmp_path) == ["pack", "pack-2"]
    assert str(tmp_path / "pack-2") in (caught.value.hint or "")
    assert (tmp_path / "pack-2" / "result").read_text() == "hours of work"


@pytest.mark.parametrize("kind", ["empty folder", "file", "link to nothing"])
def test_anything_that_is_made_meanwhile_is_kept(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "pack"
    with pytest.raises(RequestError, match="meanwhile"), complete_folder(path) as scratch:
        (scratch / "result").write_text("x")
        if kind == "file":
            path.write_text("mine")
        elif kind == "empty folder":
            path.mkdir()
        else:
            path.symlink_to("nowhere")
    assert not (path / "result").exists()
    assert _names(tmp_path) == ["pack", "pack-2"]


@pytest.mark.parametrize("has_links", [True, False])
def test_a_file_that_is_made_meanwhile_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool
) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    if not has_links:
        monkeypatch.setattr(os, "link", no_links)
    path = tmp_path / "train.tar.gz"
    write_text_atomic(path, "mine", replace=False)
    with pytest.raises(RequestError, match="made this file meanwhile"):
        write_text_atomic(path, "new", replace=False)
    assert path.read_text() == "mine"
    assert (tmp_path / "train-2.tar.gz").read_text() == "new"
    write_text_atomic(path, "new")
    assert path.read_text() == "new"
    with pytest.raises(RequestError, match="exists already"), complete_file(path):
        pytest.fail("the block must not run")
    assert _names(tmp_path) == ["train-2.tar.gz", "train.tar.gz"]


def test_what_a_killed_process_left_is_removed_by_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "pack"
    code = f"with complete_folder(Path({str(path)!r})) as s:\n    (s / 'a').touch()\n    wait()\n"
    with other_process(code) as process:
        scratch = next(tmp_path.glob(".pack.partial-*"))
        # A live process keeps its scratch, whoever cleans.
        assert remove_leftovers(tmp_path) == []
        with pytest.raises(RequestError, match=f"pid {process.pid}"), complete_folder(path):
            pytest.fail("the block must not run")
        assert scratch.is_dir()
        process.kill()
        process.wait()
    assert scratch.is_dir()
    assert remove_leftovers(tmp_path, dry_run=True) == [scratch, tmp_path / ".pack.lock"]
    with complete_folder(path) as scratch:
        (scratch / "result").touch()
    assert _names(tmp_path) == ["pack"]


def test_a_half_written_file_of_a_killed_process_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    code = (
        f"os.fsync = lambda handle: wait()\nwrite_text_atomic(Path({str(path)!r}), 'half of it')\n"
    )
    with other_process(code) as process:
        assert remove_leftovers(tmp_path) == []
        process.kill()
        process.wait()
    assert len(remove_leftovers(tmp_path)) == 1
    assert _names(tmp_path) == []


def test_files_of_people_and_of_other_programs_are_no_leftovers(tmp_path: Path) -> None:
    names = [
        ".a.partial", ".a.partial-1234567", ".a.partial-UPPERCAS", "a.partial-12345678",
        ".a.lock", ".lock", ".old-12345678",
    ]  # fmt: skip
    for name in names:
        (tmp_path / name).write_text("mine")
    assert remove_leftovers(tmp_path) == []
    assert _names(tmp_path) == sorted(names)


def test_only_the_leftovers_of_that_path_are_removed(tmp_path: Path) -> None:
    for name in (".a.partial-12345678", ".a.b.partial-12345678", ".ab.partial-12345678"):
        (tmp_path / name).mkdir()
    remove_leftovers(tmp_path, of=tmp_path / "a")
    assert _names(tmp_path) == [".a.b.partial-12345678", ".ab.partial-12345678"]


def test_the_only_copy_of_a_folder_is_never_a_leftover(tmp_path: Path) -> None:
    """A process that dies between the two moves of a swap leaves both contents, and no folder."""
    for mark in ("old", "partial"):
        (tmp_path / f".state.{mark}-12345678").mkdir()
    assert remove_leftovers(tmp_path) == []
    with complete_folder(tmp_path / "state", replace=True) as scratch:
        (scratch / "new").touch()
    assert _names(tmp_path) == ["state"]
