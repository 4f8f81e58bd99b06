"""Atomic writes, JSON, hashes and disk space."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from moonshine_tune.core.bounded_files import open_regular, read_bounded, utf8_text
from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.errors import disk_errors as disk_errors
from moonshine_tune.core.json_text import MAX_FILE_BYTES, parse_json
from moonshine_tune.core.locks import one_writer
from moonshine_tune.core.scratch import (
    move_into_place,
    new_scratch,
    refuse_existing,
    remove_leftovers,
)
from moonshine_tune.core.text import first_line

_P = ParamSpec("_P")
_R = TypeVar("_R")
_CHUNK = 1 << 20
# Hypotheses of 100,000 utterances are 30 MB.
MAX_LINES_BYTES = 512_000_000


def check_writable(path: Path, *, is_folder: bool = False) -> None:
    """Refuse an output path that cannot be written, before the work that it is for.

    Nothing is created: a file without a name is opened in the folder, or in its nearest parent that
    exists, and closed.

    Args:
        is_folder: whether it is to be a folder: a file there is in the way.

    Raises:
        RequestError: no permission, a file system that may only be read, or a file in the way.
        MachineError: the disk is full.
    """
    existing = path.absolute()
    if not is_folder and not existing.is_dir():
        existing = existing.parent
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise RequestError("a file, not a folder", where=existing, hint="choose another --out")
    with disk_errors(path):
        try:
            tempfile.TemporaryFile(dir=existing).close()
        except (FileNotFoundError, NotADirectoryError) as error:
            # Folders such as /proc exist, and take no files.
            raise RequestError(
                "this path cannot be written", where=path, hint="choose another folder with --out"
            ) from error


def write_bytes_atomic(path: Path, data: bytes, *, replace: bool = True) -> None:
    """Write `data` so that `path` always holds either all of its old or all of its new content.

    Args:
        replace: replace an existing file; without it, one that exists in the end is an error.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with new_scratch(path, is_folder=False) as scratch:
            with scratch.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            scratch.chmod(0o644)
            move_into_place(scratch, path, replace=replace)


def write_text_atomic(path: Path, text: str, *, replace: bool = True) -> None:
    """`write_bytes_atomic` for text, in UTF-8.

    Raises:
        RequestError: half of a character, as in a file name that is not UTF-8.
    """
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError as error:
        around = text[max(error.start - 40, 0) : error.end + 20]
        raise RequestError(
            f"cannot be written: {first_line(ascii(around))} is not UTF-8 text",
            where=path,
            hint="rename files and folders whose names are in another encoding",
        ) from error
    write_bytes_atomic(path, data, replace=replace)


def write_json_atomic(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, completely or not at all."""
    write_text_atomic(path, _json_of(value, path, indent=2) + "\n")


def write_jsonl_atomic(
    path: Path, records: Iterable[Mapping[str, Any]], *, replace: bool = True
) -> None:
    """Write one JSON object per line, completely or not at all."""
    lines = [_json_of(record, path) + "\n" for record in records]
    write_text_atomic(path, "".join(lines), replace=replace)


def read_lines(path: Path, *, lenient: bool = False) -> list[str]:
    """The lines of a text file, such as JSON Lines; the last one may be empty.

    Args:
        lenient: read what is not UTF-8 as the sign for it, for files of a run that was killed.

    Raises:
        RequestError: missing, no regular file, too large, or not UTF-8.
    """
    if not path.is_file():
        raise RequestError("no such file", where=path)
    raw = read_bounded(path, MAX_LINES_BYTES)
    return (raw.decode("utf-8", "replace") if lenient else utf8_text(raw, path)).split("\n")


def _json_of(value: Any, path: Path, *, indent: int | None = None) -> str:
    try:
        return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise RequestError(f"cannot be written: {first_line(error)}", where=path) from error


def read_json(path: Path, *, hint: str | None = None) -> dict[str, Any]:
    """The JSON object in a file.

    Args:
        hint: the next step if the file is missing or wrong, such as the command that writes it.

    Raises:
        RequestError: missing, unreadable, too large, not JSON (as of `parse_json`), or not an
            object.
    """
    if not path.is_file():
        raise RequestError("no such file", where=path, hint=hint)
    try:
        record = parse_json(read_bounded(path, MAX_FILE_BYTES).decode("utf-8"))
    except RequestError as error:
        raise RequestError(error.message, where=path, hint=hint) from error
    except (ValueError, OSError) as error:
        raise RequestError(f"cannot be read: {first_line(error)}", where=path, hint=hint) from error
    if not isinstance(record, dict):
        raise RequestError("not a JSON object", where=path, hint=hint)
    return record


@contextmanager
def complete_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a scratch folder beside `path` that becomes `path` only if the block succeeds.

    What dead processes left of the same folder is removed.

    Args:
        replace: replace an existing folder; without it, an existing folder is an error, at the
            start and at the end.

    Raises:
        RequestError: the folder exists, or another process writes it.
    """
    with disk_errors(path), one_writer(path):
        if not replace:
            refuse_existing(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent, of=path)
        with new_scratch(path, is_folder=True) as scratch:
            scratch.chmod(0o755)
            yield scratch
            move_into_place(scratch, path, replace=replace)
        # Also the `.old-` of a process that died while it swapped the folder.
        remove_leftovers(path.parent, of=path)


@contextmanager
def complete_file(path: Path) -> Iterator[Path]:
    """Yield a scratch file beside `path` that becomes `path` only if the block succeeds.

    Raises:
        RequestError: `path` exists, at the start or at the end, or another process writes it.
    """
    with disk_errors(path), one_writer(path):
        refuse_existing(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent, of=path)
        with new_scratch(path, is_folder=False) as scratch:
            yield scratch
            scratch.chmod(0o644)
            move_into_place(scratch, path, replace=False)


def holds_out(
    find: Callable[..., Path | None],
) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Let a job hold its output from its start: a second one is refused before it works.

    What dead jobs left there is removed.

    Args:
        find: takes the arguments of the job and returns the path; None holds nothing.
    """

    def decorated(job: Callable[_P, _R]) -> Callable[_P, _R]:
        @wraps(job)
        def held(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            path = find(*args, **kwargs)
            if path is None:
                return job(*args, **kwargs)
            with one_writer(path):
                remove_leftovers(path.parent, of=path)
                remove_leftovers(path)
                return job(*args, **kwargs)

        return held

    return decorated


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal.

    Raises:
        RequestError: not a regular file.
    """
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def free_disk_mb(path: Path) -> int:
    """Free space in MB at `path` or its nearest existing parent."""
    existing = path.absolute()
    while not existing.exists():
        existing = existing.parent
    return shutil.disk_usage(existing).free // 1_000_000
