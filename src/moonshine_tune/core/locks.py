"""One writer for each file and folder: a lock that the system frees when its process ends.

The lock is a file beside the path (`.NAME.lock`), so that it can be held before the path exists and
while a folder is swapped. It names the process, and is removed at the end. What a dead process left
behind is recognized by its lock, which nobody holds.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from errno import EBADF, EINVAL, ENOLCK, ENOSYS, ENOTSUP, EOPNOTSUPP
from pathlib import Path
from platform import node

from moonshine_tune.core.errors import RequestError, disk_errors

FOLDER_LOCK = ".lock"
"""Lock file inside a folder, where none can be made beside it."""

# Bytes that a file name may have on every common file system, less what is added to a name here.
_MAX_NAME_BYTES = 255 - len("..partial-12345678")
# A reader that looks who writes holds the lock for an instant.
_TRIES, _PAUSE_S = 10, 0.02
_WAIT = "wait for it, or choose another --out"
# The file system has no locks (some network file systems): the process number decides.
_NO_LOCKS = frozenset({EBADF, EINVAL, ENOLCK, ENOSYS, ENOTSUP, EOPNOTSUPP})
# Paths that this process holds here, so that a job and a part of it may name the same path. A
# thread of its own starts without any: it is another writer.
_held: ContextVar[frozenset[Path]] = ContextVar("held", default=frozenset())


@dataclass(frozen=True)
class Writer:
    """The process that writes to a path; `since` is its time of start there, in UTC."""

    pid: int
    host: str
    since: str

    def __str__(self) -> str:
        elsewhere = "" if self.host == node() else f" on {self.host}"
        return f"process {self.pid}{elsewhere}, since {self.since}"


@contextmanager
def one_writer(path: Path, *, hint: str = _WAIT) -> Iterator[None]:
    """Hold a file or folder for this process; it does not have to exist.

    Inside the block the same path may be held again, by the same thread.

    Args:
        hint: what to do where another process holds it.

    Raises:
        RequestError: another process or thread holds it, or its folder cannot be written.
    """
    target = path.resolve()
    if target in _held.get():
        yield
        return
    outside, inside = _lock_files(target)
    file = inside if target.is_dir() and not os.access(target.parent, os.W_OK) else outside
    with disk_errors(path):
        missing = [folder for folder in (file.parent, *file.parent.parents) if not folder.exists()]
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = _acquire(file, path, hint)
    token = _held.set(_held.get() | {target})
    try:
        yield
    finally:
        _held.reset(token)
        # While it is held: a process that opens it in this instant sees that it is gone.
        with suppress(OSError):
            file.unlink(missing_ok=True)
            # A job that was refused leaves no empty folders.
            for folder in missing:
                folder.rmdir()
        os.close(handle)


@contextmanager
def work_together(file: Path) -> Iterator[None]:
    """Hold a lock file along with other processes: `is_anyone_working` is true while one does."""
    import fcntl

    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as handle:
        # A reader holds it for an instant.
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_SH)
        yield


def is_anyone_working(file: Path) -> bool:
    """Whether a process holds the lock file; true where that cannot be known."""
    try:
        handle = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not _try_lock(handle)
    except OSError:
        return True
    finally:
        os.close(handle)


def writer_of(path: Path) -> Writer | None:
    """The process that holds a path now; None where none does. Nothing is written."""
    for file in _lock_files(path.resolve()):
        with suppress(OSError):
            handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                if not _try_lock(handle, shared=True):
                    return _read_writer(file) or Writer(0, node(), "just now")
            except OSError as error:
                writer = _read_writer(file)
                if error.errno in _NO_LOCKS and writer and _may_be_alive(writer):
                    return writer
            finally:
                os.close(handle)
    return None


def last_writer(path: Path) -> Writer | None:
    """The process whose lock file is still there: it holds the path, or died while it did."""
    return next(filter(None, map(_read_writer, _lock_files(path.resolve()))), None)


def beside(path: Path, mark: str) -> Path:
    """`.NAME` with a mark at its end, beside `path`; a name that gets too long is shortened."""
    name = path.name
    if len(name.encode("utf-8", "surrogateescape")) > _MAX_NAME_BYTES:
        digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:16]
        name = f"{name[:40]}-{digest}"
    return path.with_name(f".{name}{mark}")


def is_lock_file(file: Path) -> bool:
    """Whether a file is a lock of this module, which names its process."""
    return _read_writer(file) is not None


@contextmanager
def own(path: Path) -> Iterator[bool]:
    """Hold the lock of an existing file or folder itself; false where a process has it.

    False too where this cannot be known: the path is gone, or its file system has no locks.
    """
    handle = None
    try:
        with suppress(OSError):
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        is_own = False
        if handle is not None:
            with suppress(OSError):
                is_own = _try_lock(handle) and _is_at(handle, path)
        yield is_own
    finally:
        if handle is not None:
            os.close(handle)


def _lock_files(target: Path) -> tuple[Path, Path]:
    """Lock file of a path; the second one for a folder whose parent cannot be written."""
    inside = target / FOLDER_LOCK
    return (beside(target, ".lock") if target.name else inside, inside)


def _acquire(file: Path, path: Path, hint: str) -> int:
    """The handle of a lock file that is held, and names this process.

    Raises:
        RequestError: another process holds it.
    """
    for number in range(_TRIES):
        if number:
            time.sleep(_PAUSE_S)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            handle = os.open(file, flags, 0o666)
        except PermissionError:
            # Of another user, who is dead or holds it.
            with own(file) as is_dead:
                if not is_dead:
                    raise
                file.unlink()
            continue
        try:
            # Its last holder may have removed it after it was opened here.
            if _lock_or_compare(handle, file) and _is_at(handle, file):
                writer = Writer(
                    os.getpid(), node(), datetime.now(UTC).isoformat(timespec="seconds")
                )
                # The name is for people; on a full disk the lock holds without it.
                with suppress(OSError):
                    os.ftruncate(handle, 0)
                    os.write(handle, json.dumps(asdict(writer)).encode())
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
    raise _busy(path, _read_writer(file), file, hint)


def _lock_or_compare(handle: int, file: Path) -> bool:
    """Lock a file; where the file system has no locks, whether its last holder is dead."""
    try:
        return _try_lock(handle)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        writer = _read_writer(file)
        return writer is None or not _may_be_alive(writer)


def _try_lock(handle: int, *, shared: bool = False) -> bool:
    # Here: the module can be imported on Windows, which lacks it, to say what works there.
    import fcntl

    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(handle: int, path: Path) -> bool:
    """Whether an open file is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(handle), path.lstat())
    except FileNotFoundError:
        return False


def _read_writer(file: Path) -> Writer | None:
    try:
        record = json.loads(file.read_bytes())
        writer = Writer(int(record["pid"]), str(record["host"]), str(record["since"]))
        datetime.fromisoformat(writer.since)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return writer if writer.pid > 0 else None


def _may_be_alive(writer: Writer) -> bool:
    """Whether a process may still live, by its number and start; on another machine it may."""
    import psutil

    if writer.host != node():
        return True
    try:
        start_time = psutil.Process(writer.pid).create_time()
    except psutil.Error:
        return False
    # A process that started later has the number of a dead one.
    return start_time <= datetime.fromisoformat(writer.since).timestamp() + 1


def _busy(path: Path, writer: Writer | None, file: Path, hint: str) -> RequestError:
    if writer is not None and (writer.pid, writer.host) == (os.getpid(), node()):
        return RequestError("this process already writes here", where=path)
    task = "writes this file" if path.suffix and not path.is_dir() else "works in this folder"
    holder = "" if writer is None else f" (pid {writer.pid})"
    if writer is not None and writer.host != node():
        holder = f" (pid {writer.pid} on {writer.host})"
        hint += f"; if that process is dead, remove {file}"
    return RequestError(f"another process{holder} {task}", where=path, hint=hint)
