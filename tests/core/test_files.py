"""Writes are complete or absent: no failure leaves a partial file or folder."""

import errno
import hashlib
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moonshine_tune.core.errors import MachineError, RequestError, TuneError
from moonshine_tune.core.files import (
    complete_folder,
    disk_errors,
    free_disk_mb,
    sha256_of,
    write_bytes_atomic,
    write_json_atomic,
    write_jsonl_atomic,
    write_text_atomic,
)


def _names(folder: Path) -> list[str]:
    """Everything in a folder, hidden names too."""
    return sorted(path.name for path in folder.iterdir())


def _failing(code: int) -> Callable[..., Any]:
    def fail(*_given: Any, **_named: Any) -> Any:
        raise OSError(code, os.strerror(code))

    return fail


# --- files


def test_text_is_written_as_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "neu" / "Text ü.txt"
    write_text_atomic(path, "naïve\n東京\n")
    assert path.read_bytes() == "naïve\n東京\n".encode()
    assert _names(path.parent) == ["Text ü.txt"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_json_and_lines_can_be_read_back(tmp_path: Path) -> None:
    write_json_atomic(tmp_path / "a.json", {"wörter": [1, 2.5, None]})
    assert json.loads((tmp_path / "a.json").read_text("utf-8")) == {"wörter": [1, 2.5, None]}
    write_jsonl_atomic(tmp_path / "a.jsonl", [{"id": "é"}, {"id": "line\nbreak"}])
    lines = (tmp_path / "a.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["é", "line\nbreak"]
    assert "é" in lines[0]


def test_a_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_bytes_atomic(path, b"old, and longer")
    write_bytes_atomic(path, b"new")
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("function", ["os.fsync", "pathlib.Path.replace", "pathlib.Path.chmod"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    path = tmp_path / "a.json"
    write_text_atomic(path, "old")
    monkeypatch.setattr(function, _failing(errno.ENOSPC))
    with pytest.raises(MachineError, match="disk is full") as caught:
        write_text_atomic(path, "new")
    assert (caught.value.where, caught.value.exit_code) == (str(path), 3)
    assert caught.value.hint
    assert path.read_text() == "old"
    assert _names(tmp_path) == ["a.json"]


def test_a_disk_that_fills_up_while_writing_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the bytes are on disk when the error comes."""
    real = Path.open

    class Filling:
        def __init__(self, file: Any) -> None:
            self.file = file

        def __enter__(self) -> "Filling":
            return self

        def __exit__(self, *_rest: object) -> None:
            self.file.close()

        def write(self, data: bytes) -> None:
            self.file.write(data[: len(data) // 2])
            self.file.flush()
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", lambda *given: Filling(real(*given)))
    with pytest.raises(MachineError, match="disk is full"):
        write_bytes_atomic(tmp_path / "a", b"x" * 10_000)
    assert _names(tmp_path) == []


def test_an_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_handle: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_bytes_atomic(tmp_path / "a", b"x")
    assert _names(tmp_path) == []


def test_records_that_cannot_be_written_leave_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write_jsonl_atomic(path, [{"id": 1}])
    with pytest.raises(TypeError):
        write_jsonl_atomic(path, [{"id": 2}, {"id": object()}])
    assert path.read_text() == '{"id": 1}\n'
    assert _names(tmp_path) == ["a.jsonl"]


# --- errors of the disk


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (errno.ENOSPC, MachineError, "disk is full"),
        (errno.EDQUOT, MachineError, "disk is full"),
        (errno.EACCES, RequestError, "cannot be written"),
        (errno.EPERM, RequestError, "cannot be written"),
        (errno.EROFS, RequestError, "cannot be written"),
    ],
)
def test_errors_of_the_disk_are_plain(code: int, kind: type[TuneError], words: str) -> None:
    with pytest.raises(kind, match=words) as caught, disk_errors(Path("some/path")):
        raise OSError(code, os.strerror(code))
    assert caught.value.where == "some/path"
    assert "--out" in (caught.value.hint or "")
    assert isinstance(caught.value.__cause__, OSError)


def test_other_errors_pass_unchanged() -> None:
    with pytest.raises(FileNotFoundError), disk_errors(Path("a")):
        raise FileNotFoundError(errno.ENOENT, "gone")
    with pytest.raises(RequestError, match="mine"), disk_errors(Path("a")):
        raise RequestError("mine")


def test_a_folder_that_may_not_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.mkstemp", _failing(errno.EACCES))
    with pytest.raises(RequestError, match="cannot be written"):
        write_text_atomic(tmp_path / "a", "b")


# --- folders


def test_a_folder_appears_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "a" / "run é"
    with complete_folder(path) as scratch:
        (scratch / "inner").mkdir()
        (scratch / "inner" / "file").write_text("content")
        assert not path.exists()
        assert scratch.parent == path.parent
    assert (path / "inner" / "file").read_text() == "content"
    assert _names(path.parent) == ["run é"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o755


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_folder_that_fails_never_appears(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "run"
    with pytest.raises(error), complete_folder(path) as scratch:
        (scratch / "half").write_text("written")
        raise error
    assert _names(tmp_path) == []


def test_an_existing_folder_is_kept_and_refused(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.mkdir()
    (path / "mine").write_text("old")
    with pytest.raises(RequestError, match="exists already") as caught, complete_folder(path):
        pytest.fail("the block must not run")
    assert caught.value.where == str(path)
    assert (path / "mine").read_text() == "old"
    assert _names(tmp_path) == ["run"]


def test_replacing_swaps_the_folder(tmp_path: Path) -> None:
    path = tmp_path / "adapter"
    for content in ("old", "new"):
        with complete_folder(path, replace=True) as scratch:
            (scratch / content).write_text(content)
            # The old one is readable until the new one is complete.
            assert content == "old" or (path / "old").read_text() == "old"
    assert _names(path) == ["new"]
    assert _names(tmp_path) == ["adapter"]


def test_a_replacement_that_fails_keeps_the_old_folder(tmp_path: Path) -> None:
    path = tmp_path / "adapter"
    with complete_folder(path, replace=True) as scratch:
        (scratch / "old").write_text("old")
    with pytest.raises(ValueError), complete_folder(path, replace=True) as scratch:
        (scratch / "new").write_text("new")
        raise ValueError
    assert _names(path) == ["old"]
    assert _names(tmp_path) == ["adapter"]


def test_a_full_disk_in_the_block_leaves_nothing(tmp_path: Path) -> None:
    with (
        pytest.raises(MachineError, match="disk is full") as caught,
        complete_folder(tmp_path / "run") as scratch,
    ):
        (scratch / "half").write_text("x")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.where == str(tmp_path / "run")
    assert _names(tmp_path) == []


def test_a_full_disk_at_the_last_move_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "replace", _failing(errno.ENOSPC))
    with pytest.raises(MachineError), complete_folder(tmp_path / "run") as scratch:
        (scratch / "file").write_text("x")
    assert _names(tmp_path) == []


def test_when_the_second_move_of_a_swap_fails_the_old_folder_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between both moves the folder is absent: an error there must not lose it."""
    path = tmp_path / "adapter"
    with complete_folder(path) as scratch:
        (scratch / "old").write_text("old")
    real = Path.replace

    def second_fails(self: Path, target: Path) -> Path:
        if ".partial-" in self.name:
            raise OSError(errno.EIO, "input/output error")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", second_fails)
    with pytest.raises(OSError), complete_folder(path, replace=True) as scratch:
        (scratch / "new").write_text("new")
    assert _names(tmp_path) == ["adapter"]
    assert _names(path) == ["old"]


def test_a_file_as_the_parent_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises((RequestError, OSError)), complete_folder(tmp_path / "file" / "run"):
        pytest.fail("the block must not run")
    assert _names(tmp_path) == ["file"]


# --- hashes and space


def test_the_hash_is_sha256_of_the_content(tmp_path: Path) -> None:
    data = os.urandom(3 * (1 << 20) + 17)
    (tmp_path / "a").write_bytes(data)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(data).hexdigest()
    (tmp_path / "empty").write_bytes(b"")
    assert sha256_of(tmp_path / "empty") == hashlib.sha256(b"").hexdigest()


def test_free_space_of_a_missing_folder_is_that_of_its_nearest_parent(tmp_path: Path) -> None:
    free = free_disk_mb(tmp_path)
    assert free > 0
    assert free_disk_mb(tmp_path / "not" / "there" / "yet") == pytest.approx(free, rel=0.2, abs=500)
