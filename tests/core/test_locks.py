"""A file or folder has one writer; the lock of a dead process holds nobody up."""

import errno
import fcntl
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.other_process import other_process

from moonshine_tune.core import locks
from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import holds_out
from moonshine_tune.core.locks import (
    beside,
    is_anyone_working,
    last_writer,
    one_writer,
    work_together,
    writer_of,
)


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _holder(path: Path) -> str:
    return f"with one_writer(Path({str(path)!r})):\n    wait()\n"


def test_a_second_process_is_refused_at_once_with_the_number_of_the_first(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "a"
    with other_process(_holder(path)) as process:
        with (
            pytest.raises(RequestError, match=rf"another process \(pid {process.pid}\)") as caught,
            one_writer(path),
        ):
            pytest.fail("the block must not run")
        assert caught.value.exit_code == 2
        assert caught.value.where == str(path)
        writer = writer_of(path)
        assert writer is not None
        assert writer.pid == process.pid
        process.communicate("\n", timeout=20)
    assert writer_of(path) is None
    # Nothing is left, and no folder was made for nothing.
    assert _names(tmp_path) == []


def test_a_killed_process_holds_nobody_up(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with other_process(_holder(path)) as process:
        process.kill()
        process.wait()
        assert _names(tmp_path) == [".a.jsonl.lock"]
        assert writer_of(path) is None
        last = last_writer(path)
        assert last is not None
        assert last.pid == process.pid
    with one_writer(path):
        writer = writer_of(path)
        assert writer is not None
        assert writer.pid == os.getpid()
    assert _names(tmp_path) == []


def test_the_number_of_a_dead_process_that_another_has_now_is_no_owner(tmp_path: Path) -> None:
    """The kernel's lock decides, not the number in the file."""
    record = {"pid": os.getppid(), "host": "elsewhere", "since": "2020-01-01T00:00:00+00:00"}
    (tmp_path / ".a.lock").write_text(json.dumps(record))
    assert writer_of(tmp_path / "a") is None
    with one_writer(tmp_path / "a"):
        pass
    assert _names(tmp_path) == []


def test_two_ways_to_one_folder_are_one_lock(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    refused = []

    def write(path: Path) -> None:
        try:
            with one_writer(path):
                pass
        except RequestError as error:
            refused.append(str(error))

    with one_writer(tmp_path / "link"):
        for path in (tmp_path / "real", tmp_path / "real" / ".." / "real", tmp_path / "free"):
            thread = threading.Thread(target=write, args=(path,))
            thread.start()
            thread.join()
    assert len(refused) == 2
    assert all("this process already writes here" in text for text in refused)


def test_a_part_of_a_job_may_hold_the_path_of_the_job(tmp_path: Path) -> None:
    with one_writer(tmp_path / "a"):
        with one_writer(tmp_path / "a"):
            pass
        assert writer_of(tmp_path / "a") is not None
        with one_writer(tmp_path / "a" / "adapter"):
            pass
    assert writer_of(tmp_path / "a") is None


def test_a_job_holds_its_output_and_removes_what_dead_jobs_left(tmp_path: Path) -> None:
    @holds_out(lambda request, out=None: out)
    def job(request: str, out: Path | None = None) -> bool:
        return out is None or writer_of(out) is not None

    (tmp_path / ".a.jsonl.partial-12345678").write_text("half")
    (tmp_path / ".b.jsonl.partial-12345678").write_text("half")
    assert job("x", tmp_path / "a.jsonl")
    assert job("x")
    assert _names(tmp_path) == [".b.jsonl.partial-12345678"]


def test_a_folder_whose_parent_cannot_be_written_has_its_lock_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a volume that is mounted at /out."""
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with one_writer(tmp_path / "out"):
        assert _names(tmp_path / "out") == [".lock"]
        assert writer_of(tmp_path / "out") is not None
    assert _names(tmp_path / "out") == []


def test_a_path_that_cannot_be_written_is_a_plain_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> int:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(RequestError, match="cannot be written"), one_writer(tmp_path / "a"):
        pytest.fail("the block must not run")


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_without_locks_of_the_file_system_the_process_number_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def no_locks(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    path, file = tmp_path / "a", tmp_path / ".a.lock"
    with other_process("wait()") as process:
        monkeypatch.setattr(fcntl, "flock", no_locks)
        with one_writer(path):
            assert writer_of(path) is not None
        living = {"pid": process.pid, "host": locks.node(), "since": "2999-01-01T00:00:00+00:00"}
        file.write_text(json.dumps(living))
        with pytest.raises(RequestError, match=f"pid {process.pid}"), one_writer(path):
            pytest.fail("the block must not run")
        # Its number, but it started later than that: another process.
        file.write_text(json.dumps(living | {"since": "2000-01-01T00:00:00+00:00"}))
        with one_writer(path):
            pass
        file.write_text(json.dumps(living | {"host": "cluster-7"}))
        with pytest.raises(RequestError, match="on cluster-7") as caught, one_writer(path):
            pytest.fail("the block must not run")
        assert f"remove {file}" in (caught.value.hint or "")
        process.kill()
        process.wait()
        file.write_text(json.dumps(living))
        with one_writer(path):
            pass
    assert _names(tmp_path) == []


def test_names_too_long_for_a_mark_are_shortened_and_stay_apart(tmp_path: Path) -> None:
    one, two = tmp_path / ("ü" * 120 + "1"), tmp_path / ("ü" * 120 + "2")
    assert beside(one, ".lock") != beside(two, ".lock")
    with one_writer(one), one_writer(two):
        pass


def test_processes_that_work_together_are_seen_while_they_live(tmp_path: Path) -> None:
    file = tmp_path / "locks" / "search.lock"
    assert not is_anyone_working(file)
    with work_together(file), work_together(file):
        assert is_anyone_working(file)
    assert not is_anyone_working(file)


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "7", '{"pid": -1, "host": "a", "since": "2020-01-01"}',
     '{"pid": 1, "host": "a", "since": "yesterday"}', "\0" * 100],
)  # fmt: skip
def test_a_damaged_lock_file_holds_nobody_up(tmp_path: Path, content: str) -> None:
    (tmp_path / ".a.lock").write_text(content)
    assert last_writer(tmp_path / "a") is None
    assert writer_of(tmp_path / "a") is None
    with one_writer(tmp_path / "a"):
        assert writer_of(tmp_path / "a") is not None
    assert _names(tmp_path) == []


def test_a_lock_holds_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as that of `runs clean`, which makes room."""

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, one_writer(tmp_path / "b"):
        patch.setattr(os, "write", full)
        with one_writer(tmp_path / "a"):
            assert writer_of(tmp_path / "a") is not None
    assert _names(tmp_path) == []
