"""Errors of Python and of libraries that mean: this machine cannot. Memory, disk and limits.

Each library has its own class for them, and most have none: torch, ONNX Runtime and safetensors
state the cause in the message alone.
"""

import errno
import mmap
from collections.abc import Iterator

from moonshine_tune.core.errors import MachineError, TuneError
from moonshine_tune.core.text import first_line

_MB = 1_000_000
# Less than this, and what failed for no stated reason has most likely failed for lack of memory:
# importing torch alone maps 600 MB.
_LITTLE_MEMORY = 256 * _MB
_NO_MEMORY = (
    "out of memory", "allocate memory", "allocate a memory", "not enough memory",
    "insufficient memory", "defaultcpuallocator", "bad_alloc", "bad allocation",
    "unable to allocate",
    # Metal's, on MPS: one buffer beyond its bound, and a command that found no memory.
    "invalid buffer size", "erroroutofmemory",
    "failed to map segment from shared object", "start new thread", "thread creation failed",
    "os error 12)",
)  # fmt: skip
_NO_DISK = (
    "no space left on device", "disk quota exceeded", "database or disk is full", "os error 28)",
    "os error 122)",
)  # fmt: skip
_TOO_LARGE = ("file too large", "os error 27)")
_TOO_MANY = ("too many open files", "os error 24)")
_CAUSES = {
    errno.ENOMEM: _NO_MEMORY, errno.ENOSPC: _NO_DISK, errno.EDQUOT: _NO_DISK,
    errno.EFBIG: _TOO_LARGE, errno.EMFILE: _TOO_MANY, errno.ENFILE: _TOO_MANY,
}  # fmt: skip
_ANSWERS = {
    _NO_MEMORY: (
        "memory ran out",
        "close other programs, or raise the limit (ulimit -v); how to train in less: "
        "moonshine-tune estimate",
    ),
    _NO_DISK: ("the disk is full", "free some space, or choose another folder with --out"),
    _TOO_LARGE: (
        "a file may not become as large as needed",
        "raise the limit (ulimit -f unlimited), or choose another disk with --out",
    ),
    _TOO_MANY: ("too many open files", "raise the limit: ulimit -n 4096"),
}


def machine_error(error: BaseException) -> MachineError | None:
    """The error in plain words where its cause is this machine; else None.

    An error of this program counts by what caused it, not by its own words.
    """
    for cause in _causes(error):
        if isinstance(cause, MachineError):
            return cause
        answer = None if isinstance(cause, TuneError) else _answer(cause)
        if answer is not None:
            message, hint = _ANSWERS[answer]
            where = getattr(cause, "filename", None)
            return MachineError(f"{message} ({first_line(cause)})", hint=hint, where=where)
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error itself, not its cause, means that memory ran out."""
    return _answer(error) is _NO_MEMORY


def little_memory_error(error: BaseException, needed: int = _LITTLE_MEMORY) -> MachineError | None:
    """An error of unknown cause as one of memory, where less than `needed` bytes can be had.

    Libraries that cannot allocate may raise anything: "error return without exception set" from
    Python itself, "Unknown error" from the runtime.
    """
    try:
        mmap.mmap(-1, needed).close()
    except (OSError, ValueError, MemoryError):
        message, hint = _ANSWERS[_NO_MEMORY]
        return MachineError(f"{message} ({first_line(error.__cause__ or error)})", hint=hint)
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and what it was raised from."""
    current: BaseException | None = error
    seen: set[int] = set()
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        is_plain = current.__suppress_context__ or isinstance(current, TuneError)
        current = current.__cause__ or (None if is_plain else current.__context__)


def _answer(error: BaseException) -> tuple[str, ...] | None:
    if isinstance(error, MemoryError):
        return _NO_MEMORY
    if isinstance(error, OSError) and error.errno in _CAUSES:
        return _CAUSES[error.errno]
    message = str(error).lower()
    return next((words for words in _ANSWERS if any(word in message for word in words)), None)
