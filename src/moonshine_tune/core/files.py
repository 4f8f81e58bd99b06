"""Atomic writes, JSON, hashes and disk space."""

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from moonshine_tune.core.bounded_files import open_regular, read_bounded
from moonshine_tune.core.errors import MachineError, RequestError
from moonshine_tune.core.json_text import MAX_FILE_BYTES, parse_json
from moonshine_tune.core.text import first_line

_CHUNK = 1 << 20
# Hypotheses of 100,000 utterances are 30 MB.
MAX_LINES_BYTES = 512_000_000


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk or a denied permission inside the block into a plain error."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise MachineError(
                "the disk is full",
                where=path,
                hint="free some space or choose another folder with --out, then run again",
            ) from error
        if error.errno == errno.EFBIG:
            raise MachineError(
                "the file may not become as large as needed",
                where=path,
                hint="raise the limit (ulimit -f unlimited), or choose another disk with --out",
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise RequestError(
                "this path cannot be written",
                where=path,
                hint="choose another folder with --out",
            ) from error
        raise


def check_writable(path: Path) -> None:
    """Refuse an output path that cannot be written, before the work that it is for.

    Nothing is created: a file without a name is opened in the folder, or in its nearest parent that
    exists, and closed.

    Raises:
        RequestError: no permission, a file system that may only be read, or a file in the way.
        MachineError: the disk is full.
    """
    existing = path.absolute()
    if not existing.is_dir():
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


def write_bytes_atomic(path: Path, data: bytes) -> None:
    """Write `data` so that `path` always holds either all of its old or all of its new content."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(name).chmod(0o644)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def write_text_atomic(path: Path, text: str) -> None:
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
    write_bytes_atomic(path, data)


def write_json_atomic(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, completely or not at all."""
    write_text_atomic(path, _json_of(value, path, indent=2) + "\n")


def write_jsonl_atomic(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object per line, completely or not at all."""
    lines = [_json_of(record, path) + "\n" for record in records]
    write_text_atomic(path, "".join(lines))


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
    try:
        return raw.decode("utf-8", "replace" if lenient else "strict").split("\n")
    except UnicodeDecodeError as error:
        raise RequestError(f"not UTF-8 text (byte {error.start})", where=path) from error


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

    Args:
        replace: replace an existing folder; without it, an existing folder is an error.
    """
    with disk_errors(path):
        if path.exists() and not replace:
            raise RequestError(
                "the folder exists already",
                where=path,
                hint="choose another folder, or remove this one first",
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.partial-", dir=path.parent))
        scratch.chmod(0o755)
        try:
            yield scratch
            if path.exists():
                old = scratch.with_name(scratch.name.replace(".partial-", ".old-"))
                path.replace(old)
                try:
                    scratch.replace(path)
                except BaseException:
                    old.replace(path)
                    raise
                shutil.rmtree(old, ignore_errors=True)
            else:
                scratch.replace(path)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise


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
