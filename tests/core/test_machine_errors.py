"""Errors that mean "this machine cannot", whatever class a library raises for them."""

import errno
import os

import pytest

from moonshine_tune.core.device import is_out_of_memory
from moonshine_tune.core.errors import MachineError, NegativeAnswerError, RequestError
from moonshine_tune.core.machine_errors import little_memory_error, machine_error


class _LibraryError(Exception):
    """Of onnxruntime, safetensors, moonshine-voice: each has a class of its own."""


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "memory ran out"),
        (MemoryError("Unable to allocate 7.45 GiB for an array"), "7.45 GiB"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate "
                      "memory: you tried to allocate 4000000000 bytes."), "memory ran out"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), "memory ran out"),
        (RuntimeError("MPS backend out of memory (MPS allocated: 5 GB)"), "memory ran out"),
        (RuntimeError("can't start new thread"), "memory ran out"),
        (RuntimeError("unable to mmap 1000 bytes from file <x>: Cannot allocate memory (12)"),
         "memory ran out"),
        (_LibraryError("Failed to allocate memory for requested buffer of size 1073741824"),
         "memory ran out"),
        (_LibraryError("std::bad_alloc"), "memory ran out"),
        (_LibraryError("Error while serializing: I/O error: Cannot allocate memory (os error 12)"),
         "memory ran out"),
        (ImportError("libtorch.so: failed to map segment from shared object"), "memory ran out"),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), "memory ran out"),
        (OSError(errno.EFBIG, os.strerror(errno.EFBIG), "a.bin"), "may not become as large"),
        (_LibraryError("I/O error: File too large (os error 27)"), "may not become as large"),
        (_LibraryError("I/O error: No space left on device (os error 28)"), "the disk is full"),
        (_LibraryError("database or disk is full"), "the disk is full"),
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), "too many open files"),
    ],
)  # fmt: skip
def test_the_cause_is_this_machine(error: Exception, words: str) -> None:
    known = machine_error(error)
    assert known is not None and known.exit_code == 3
    assert words in str(known) and known.hint


@pytest.mark.parametrize(
    "error",
    [
        ValueError("wrong"), RuntimeError("shape mismatch"), KeyError("memory"), OSError("odd"),
        FileNotFoundError(errno.ENOENT, "gone", "a"), RequestError("a name: out of memory"),
    ],
)  # fmt: skip
def test_other_errors_are_not(error: Exception) -> None:
    assert machine_error(error) is None


def _raised(kind: type[Exception], cause: Exception | None) -> Exception:
    try:
        raise kind("this file is damaged") from cause
    except Exception as error:
        return error


def test_an_error_of_ours_counts_by_its_cause() -> None:
    """`verify` must not blame a package for memory that ran out as it was read."""
    for kind in (RequestError, NegativeAnswerError):
        assert isinstance(machine_error(_raised(kind, MemoryError())), MachineError)
        assert machine_error(_raised(kind, ValueError("odd"))) is None
        inner = _raised(ValueError, OSError(errno.ENOSPC, "full"))
        assert isinstance(machine_error(_raised(kind, inner)), MachineError)


def test_a_machine_error_stays_as_it_is() -> None:
    error = MachineError("no GPU")
    assert machine_error(error) is error
    assert machine_error(_raised(RequestError, error)) is error


def test_an_error_of_unknown_cause_is_one_of_memory_where_there_is_none_left() -> None:
    error = SystemError("error return without exception set")
    assert little_memory_error(error, 1_000) is None
    # More than any address space has.
    known = little_memory_error(error, 1 << 62)
    assert known is not None and "error return without exception set" in str(known)


def test_the_training_loop_recognizes_the_same_messages() -> None:
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    assert is_out_of_memory(RuntimeError("std::bad_alloc"))
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("Invalid buffer size: 12.34 GiB"))
    metal = "Insufficient... (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)"
    assert is_out_of_memory(RuntimeError(metal))
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
    # Not an error of a batch: a smaller one would not help.
    assert not is_out_of_memory(OSError(errno.ENOSPC, "full"))
