"""Scratch files and folders beside the path that they become, and what dead processes leave.

A scratch is called `.NAME.partial-XXXXXXXX`, a folder that is being replaced `.NAME.old-XXXXXXXX`.
Its process holds its lock, so that another one removes it only when that process is dead.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.locks import beside, is_lock_file, own

_PARTIAL, _OLD, _LOCK = ".partial-", ".old-", ".lock"
_LEFTOVER = re.compile(r"\.(?P<name>.+)(?P<kind>\.partial-|\.old-)[a-z0-9_]{8}")


@contextmanager
def new_scratch(path: Path, *, is_folder: bool) -> Iterator[Path]:
    """Yield a new file or folder beside `path`, owned by this process; it is gone afterwards."""
    while True:
        scratch = _made(path, is_folder)
        with own(scratch):
            if not scratch.exists():
                # Another process took it for a dead one's before it was owned.
                continue
            try:
                yield scratch
            finally:
                _remove(scratch)
            return


def _made(path: Path, is_folder: bool) -> Path:
    prefix = beside(path, _PARTIAL).name
    if is_folder:
        return Path(tempfile.mkdtemp(prefix=prefix, dir=path.parent))
    handle, name = tempfile.mkstemp(prefix=prefix, dir=path.parent)
    os.close(handle)
    return Path(name)


def refuse_existing(path: Path) -> None:
    """Refuse a path that exists, also as a link to nothing.

    Raises:
        RequestError: it exists.
    """
    if os.path.lexists(path):
        kind = "folder" if path.is_dir() else "file"
        raise RequestError(
            f"the {kind} exists already",
            where=path,
            hint=f"choose another {kind}, or remove this one first",
        )


def move_into_place(scratch: Path, path: Path, *, replace: bool) -> None:
    """Rename a complete scratch to `path`.

    Without `replace`, a path that another process made meanwhile stays as it is, and the scratch is
    kept under a name beside it: the work may have taken hours.

    Raises:
        RequestError: `path` exists and is not replaced.
    """
    if not replace:
        _move_to_new(scratch, path)
    elif scratch.is_dir() and path.is_dir():
        old = scratch.with_name(scratch.name.replace(_PARTIAL, _OLD))
        path.replace(old)
        try:
            scratch.replace(path)
        except BaseException:
            old.replace(path)
            raise
        _remove(old)
    else:
        scratch.replace(path)


def _move_to_new(scratch: Path, path: Path) -> None:
    with suppress(OSError):
        if _renamed(scratch, path):
            return
    number = 2
    while not _renamed(scratch, kept := path.with_name(_numbered(path.name, number))):
        number += 1
    raise RequestError(
        f"another process made this {'folder' if path.is_dir() else 'file'} meanwhile",
        where=path,
        hint=f"it was left as it is; what this command made is in {kept}",
    )


def _numbered(name: str, number: int) -> str:
    """The name with a number before its ending: `a-2.jsonl`, `pack-2.tar.gz`."""
    stem, dot, ending = name.partition(".") if not name.startswith(".") else (name, "", "")
    return f"{stem}-{number}{dot}{ending}"


def _renamed(scratch: Path, path: Path) -> bool:
    """Rename to a path that does not exist; false where it does."""
    if scratch.is_dir():
        if os.path.lexists(path):
            return False
        # An empty folder that is made in this instant is replaced; a folder with content is not.
        scratch.replace(path)
        return True
    try:
        os.link(scratch, path)
    except FileExistsError:
        return False
    except OSError:
        # No links on this file system: claim the name first.
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            return False
        scratch.replace(path)
    return True


# --- what dead processes left


def _leftovers(folder: Path, *, of: Path | None) -> Iterator[Path]:
    """Scratch files, scratch folders and lock files in a folder that may be of dead processes.

    Where a process died while it replaced a folder, that folder is gone and both its old and its
    new content are leftovers: they are not listed, because one of them is the only copy.

    Args:
        of: only those of this path.
    """
    start = beside(of, ".").name if of is not None else "."
    with suppress(OSError):
        names = [entry.name for entry in os.scandir(folder) if entry.name.startswith(start)]
        matches = [match for name in names if (match := _LEFTOVER.fullmatch(name))]
        if of is not None:
            matches = [match for match in matches if f".{match['name']}." == start]
        replaced = {match["name"] for match in matches if match["kind"] == _OLD}
        lost = {name for name in replaced if not os.path.lexists(folder / name)}
        yield from (folder / match.string for match in matches if match["name"] not in lost)
        if of is None:
            locks = (folder / name for name in names if name.endswith(_LOCK))
            yield from (path for path in locks if is_lock_file(path))


def remove_leftovers(folder: Path, *, of: Path | None = None, dry_run: bool = False) -> list[Path]:
    """Remove what dead processes left in a folder, never what a live one uses; returns it."""
    removed = []
    for path in _leftovers(folder, of=of):
        with own(path) as is_dead:
            if is_dead:
                removed.append(path)
                if not dry_run:
                    _remove(path)
    return removed


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
