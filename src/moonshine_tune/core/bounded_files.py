"""Files of unknown origin, read without surprises: regular files only, no more than a limit, UTF-8.

Opening a named pipe waits for a writer that may never come, and a device never ends.
"""

import os
import stat
from pathlib import Path
from typing import BinaryIO

from moonshine_tune.core.errors import RequestError

_NON_BLOCKING = getattr(os, "O_NONBLOCK", 0)
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def is_file(path: Path) -> bool:
    """Whether a regular file exists. One whose name is too long for the disk does not."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading, in binary.

    Raises:
        RequestError: a folder, a named pipe, a socket or a device.
        OSError: it is missing, or cannot be read.
    """
    # Looked at before it is opened (some devices act when they are opened) and, for a file that is
    # replaced meanwhile, again after that.
    _refuse_special(path, path.stat().st_mode)
    file = open(path, "rb", opener=_open_without_waiting)  # noqa: SIM115 - the caller closes it
    try:
        _refuse_special(path, os.fstat(file.fileno()).st_mode)
    except RequestError:
        file.close()
        raise
    return file


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """The content of a regular file of at most `max_bytes` bytes.

    Raises:
        RequestError: no regular file, or a larger one.
        OSError: it is missing, or cannot be read.
    """
    with open_regular(path) as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise RequestError(
            f"larger than {_size_text(max_bytes)}, the most that is read", where=path
        )
    return content


def utf8_text(
    raw: bytes, where: Path | None = None, *, what: str = "", hint: str = "save it as UTF-8"
) -> str:
    """UTF-8 as a text, without a byte order mark.

    Args:
        what: the start of the message, such as `key terms cannot be read: `.

    Raises:
        RequestError: it is something else.
    """
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(
            f"{what}not UTF-8 text (byte {error.start})", where=where, hint=hint
        ) from error


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | _NON_BLOCKING)


def _refuse_special(path: Path, mode: int) -> None:
    if stat.S_ISREG(mode):
        return
    kind = next((name for matches, name in _KINDS if matches(mode)), "something else")
    raise RequestError(f"{kind}, not a file", where=path)


def _size_text(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:g} MB" if num_bytes >= 1_000_000 else f"{num_bytes / 1000:g} kB"
