"""Choosing where and in which number format to compute, each choice with its reason."""

import ctypes
import gc
import platform
import re
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from moonshine_tune.core.errors import MachineError, RequestError
from moonshine_tune.core.hardware import peak_resident_mb, resident_mb
from moonshine_tune.core.precision import is_proved_format

_MB = 1_000_000
# mallopt(3): blocks of this size and larger are mapped on their own. Its number is glibc's.
_M_MMAP_THRESHOLD, _TIGHT_BYTES = -3, 256 * 1024
_DTYPES = {
    "float32": torch.float32, "fp32": torch.float32,
    "bfloat16": torch.bfloat16, "bf16": torch.bfloat16,
    "float16": torch.float16, "fp16": torch.float16,
}  # fmt: skip


@dataclass(frozen=True)
class DeviceChoice:
    """A device and why it was taken."""

    device: torch.device
    reason: str


@dataclass(frozen=True)
class DtypeChoice:
    """The format of the arithmetic (float32, or autocast to 16 bits) and why it was taken."""

    dtype: torch.dtype
    reason: str


@dataclass(frozen=True)
class MemoryReading:
    """Memory in MB: of the process now and at its peak; of tensors on an accelerator; and what
    its driver holds in all (None where the driver does not tell, or on the CPU)."""

    resident_mb: int
    peak_resident_mb: int
    device_mb: int
    device_driver_mb: int | None


def choose_device(wanted: str | None = None) -> DeviceChoice:
    """The device for `wanted`: None or "auto", "cpu", "mps", "cuda" or "cuda:1".

    Raises:
        RequestError: not the name of a device.
        MachineError: a device that this machine or this torch does not have.
    """
    name = (wanted or "auto").strip().lower()
    if name == "auto":
        return _best_device()
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise RequestError(
            f"no device is called {wanted!r}", hint="use auto, cpu, mps, cuda or cuda:N"
        )
    missing = _why_missing(name)
    if missing:
        raise MachineError(
            f"the device {name} cannot be used: {missing}",
            hint="leave the device out, or see: moonshine-tune doctor",
        )
    return DeviceChoice(torch.device(name), "asked for")


def _best_device() -> DeviceChoice:
    no_cuda, no_mps = _why_missing("cuda"), _why_missing("mps")
    if no_cuda is None:
        return DeviceChoice(torch.device("cuda"), f"CUDA: {torch.cuda.get_device_name(0)}")
    if no_mps is None:
        return DeviceChoice(torch.device("mps"), "Apple's GPU (MPS) is built in and available")
    return DeviceChoice(torch.device("cpu"), f"no accelerator: {no_cuda}; {no_mps}")


def _why_missing(name: str) -> str | None:
    """Why the device cannot be used here, or None where it can."""
    if name == "cpu":
        return None
    if name == "mps":
        if not torch.backends.mps.is_built():
            return "this torch is built without MPS"
        if not torch.backends.mps.is_available():
            return "MPS needs macOS 14 or newer on an Apple-silicon Mac"
        return None
    if torch.version.cuda is None:
        return "this torch is built without CUDA"
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = int(name.partition(":")[2] or 0)
    if index >= count:
        return f"{count} CUDA devices found" if count else "no CUDA device found"
    return None


def choose_dtype(device: torch.device, wanted: str | None = None) -> DtypeChoice:
    """The number format for `device`: None or "auto", "float32", "bfloat16" or "float16".

    16 bits are never taken by themselves on MPS: silent wrong results have come with every new
    chip and torch. bfloat16 is given there once `doctor` has compared gradients on this machine.

    Raises:
        RequestError: another format.
        MachineError: bfloat16 on a GPU that lacks it, or on MPS before that check has passed.
    """
    name = (wanted or "auto").strip().lower()
    if name == "auto":
        return _best_dtype(device)
    if name not in _DTYPES:
        raise RequestError(
            f"no number format {wanted!r}", hint="use auto, float32, bfloat16 or float16"
        )
    dtype = _DTYPES[name]
    if dtype == torch.float16:
        reason = "asked for; it ends at 65,504: steps that overflow are left out and counted"
        return DtypeChoice(dtype, reason)
    if dtype == torch.bfloat16 and device.type == "mps":
        if not is_proved_format("mps", "bfloat16", torch.__version__):
            raise MachineError(
                "bfloat16 has not been proved on this machine with this torch",
                hint="compare its gradients with the CPU's first: moonshine-tune doctor "
                "--device mps; until then: --set device.dtype=float32",
            )
        return DtypeChoice(
            dtype, f"asked for; doctor's check passed with torch {torch.__version__}"
        )
    if dtype == torch.bfloat16 and device.type == "cuda" and not _cuda_has_bfloat16():
        raise MachineError("this GPU has no bfloat16", hint="use float32")
    slow = dtype == torch.bfloat16 and device.type == "cpu"
    return DtypeChoice(dtype, "asked for (most CPUs are slower with it)" if slow else "asked for")


def _best_dtype(device: torch.device) -> DtypeChoice:
    if device.type == "cuda":
        if _cuda_has_bfloat16():
            return DtypeChoice(torch.bfloat16, "this GPU computes bfloat16 natively")
        return DtypeChoice(torch.float32, "this GPU has no bfloat16, and float16 gives NaN")
    if device.type == "mps":
        return DtypeChoice(
            torch.float32,
            "safe on MPS; bfloat16 saves a quarter of memory, on request after doctor's check",
        )
    return DtypeChoice(torch.float32, "16-bit arithmetic is not faster on most CPUs")


def _cuda_has_bfloat16() -> bool:
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def memory_mb(device: torch.device) -> MemoryReading:
    """Memory held by this process and by its tensors on `device`.

    On MPS the driver's figure counts: its caches grow with every new shape and show neither in
    the resident size nor in the tensors' sum.
    """
    tensors, driver = 0, None
    if device.type == "mps":
        tensors = torch.mps.current_allocated_memory() // _MB
        driver = torch.mps.driver_allocated_memory() // _MB
    elif device.type == "cuda":
        tensors = torch.cuda.memory_allocated(device) // _MB
        driver = torch.cuda.memory_reserved(device) // _MB
    resident = resident_mb()
    # The system notes a peak a little later than it gives the pages.
    return MemoryReading(resident, max(resident, peak_resident_mb()), tensors, driver)


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Arithmetic in `dtype` inside the block where the device's operators allow it."""
    if dtype == torch.float32:
        return nullcontext()
    context: AbstractContextManager[object] = torch.autocast(device.type, dtype)
    return context


def clear_cache_every(device: torch.device, step: int, every: int) -> bool:
    """Give MPS's cache back at every `every`-th step; 0 never. Returns whether it was done.

    Each new clip length leaves blocks and compiled graphs behind: tens of gigabytes of driver
    memory have been seen beside a few that were in use.
    """
    if device.type != "mps" or every == 0 or step % every:
        return False
    torch.mps.empty_cache()
    return True


def release_memory(device: torch.device) -> None:
    """Give cached memory back to the system; on MPS the cache grows with every new shape."""
    gc.collect()
    if device.type == "mps":
        torch.mps.empty_cache()
    elif device.type == "cuda":
        torch.cuda.empty_cache()
    trim_heap()


def trim_heap() -> None:
    """Give the C library's free pages back to the system, where it would keep them (Linux).

    What a step has freed lies on the heap, where a large block does not fit: scoring's would come
    on top of it. Price: milliseconds, and the pages are cleared again when they are next used.
    """
    if heap_keeps_freed_memory():
        ctypes.CDLL(None).malloc_trim(0)


def supports_foreach(device: torch.device) -> bool:
    """Whether the optimizer and the clipping of gradients hand all tensors over at once there.

    On CUDA that saves a launch for each of some hundred small matrices. Elsewhere one by one, said
    outright: left to itself torch clips in lists on the CPU and not on MPS, and what a CPU shows of
    a step would not be what MPS is asked for.
    """
    return device.type == "cuda"


def supports_fused(device: torch.device) -> bool:
    """Whether the optimizer's whole update is one kernel there.

    On the CPU that takes 1.2 ms for an adapter of 112 matrices instead of 6.5.
    """
    return device.type == "cpu"


def round_up_to_bucket(length: int) -> int:
    """`length` rounded up to one of eight sizes an octave: at most an eighth more, 6 % on average.

    Every new shape leaves blocks in the allocator and kernels in the libraries' caches. From half a
    second to half a minute these are 48 sizes instead of as many as there are clips.
    """
    step = 1 << max(length.bit_length() - 4, 0)
    return -(-length // step) * step


def batch_width(longest: int, device: torch.device) -> int:
    """The length to which a batch of audio or frames is padded: of few sizes where that helps.

    A CPU computes what is padded on, and a new shape costs it half a millisecond.
    """
    return longest if device.type == "cpu" else round_up_to_bucket(longest)


def heap_keeps_freed_memory() -> bool:
    """Whether the C library keeps large freed blocks on its heap, where they leave holes."""
    return sys.platform == "linux" and platform.libc_ver()[0] == "glibc"


def return_freed_memory_to_os() -> bool:
    """From here on, large blocks go back to the system as soon as they are freed.

    Clips of changing length leave holes in the heap of Linux's C library, which then holds two to
    three times what lives. Price: pages are cleared again for every block, up to a third of the
    time. Returns whether this system has the choice; elsewhere nothing is changed.
    """
    if not heap_keeps_freed_memory():
        return False
    library = ctypes.CDLL(None)
    return bool(library.mallopt(_M_MMAP_THRESHOLD, _TIGHT_BYTES))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error says that memory ran out, on any device.

    CUDA has its own class; MPS and the CPU allocator raise RuntimeError with these words.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    words = str(error).lower()
    return isinstance(error, RuntimeError) and (
        "out of memory" in words or "can't allocate memory" in words or "not enough memory" in words
    )
