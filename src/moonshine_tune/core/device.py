"""Device, number format and memory, each choice with its reason."""

import ctypes
import gc
import os
import platform
import re
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass

import torch

from moonshine_tune.core import machine_errors
from moonshine_tune.core.errors import MachineError, RequestError
from moonshine_tune.core.hardware import peak_resident_mb, resident_mb
from moonshine_tune.core.precision import passed_gradient_check

_MB = 1_000_000
# M_MMAP_THRESHOLD of mallopt(3) in glibc: blocks of this size and larger get their own mapping.
_M_MMAP_THRESHOLD, _TIGHT_BYTES = -3, 256 * 1024
# The user's own limit of MPS's memory, and the largest share that torch accepts.
_MPS_LIMIT, _MOST_OF_MPS = "PYTORCH_MPS_HIGH_WATERMARK_RATIO", 2.0
# The name of `doctor`'s check of frozen weights in bfloat16.
FROZEN_BFLOAT16 = "frozen bfloat16"
_counted_as: ContextVar[str | None] = ContextVar("counted_as", default=None)
_DTYPES = ("float32", "bfloat16", "float16")
# MPS's cache is released above this share of what Metal recommends as the most: 1.3 GiB with 16 GB.
_UNUSED_SHARE = 0.125
# The smallest widths of a batch where shapes cost: 1.3 to 1.5 seconds, and a short sentence.
_LEAST_FRAMES, _LEAST_TOKENS = 64, 16
_MOST_PADDED_FRAMES = 256


@dataclass(frozen=True)
class DeviceChoice:
    """A device, and the reason for it."""

    device: torch.device
    reason: str


@dataclass(frozen=True)
class DtypeChoice:
    """The number format of the arithmetic (float32, or autocast to 16 bits), and the reason."""

    dtype: torch.dtype
    reason: str


@dataclass(frozen=True)
class MemoryReading:
    """Memory in MB of 10^6 bytes.

    Attributes:
        resident_mb, peak_resident_mb: of the process, now and at its peak.
        device_mb: of all tensors on the accelerator; 0 on the CPU.
        device_driver_mb: everything that the accelerator's driver holds; None on the CPU.
    """

    resident_mb: int
    peak_resident_mb: int
    device_mb: int
    device_driver_mb: int | None


def choose_device(requested: str | None = None) -> DeviceChoice:
    """The device for a name: None or "auto", "cpu", "mps", "cuda" or "cuda:1".

    Raises:
        RequestError: no device has that name.
        MachineError: this machine or this torch does not have the device.
    """
    name = (requested or "auto").strip().lower()
    if name == "auto":
        return _best_device()
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise RequestError(
            f"no device is called {requested!r}", hint="use auto, cpu, mps, cuda or cuda:N"
        )
    unavailable = _unavailable_reason(name)
    if unavailable:
        raise MachineError(
            f"the device {name} cannot be used: {unavailable}",
            hint="leave the device out, or run: moonshine-tune doctor",
        )
    return DeviceChoice(torch.device(name), "requested")


def _best_device() -> DeviceChoice:
    no_cuda, no_mps = _unavailable_reason("cuda"), _unavailable_reason("mps")
    if no_cuda is None:
        return DeviceChoice(torch.device("cuda"), f"CUDA: {torch.cuda.get_device_name(0)}")
    if no_mps is None:
        return DeviceChoice(torch.device("mps"), "Apple's GPU (MPS) is built in and available")
    return DeviceChoice(torch.device("cpu"), f"no accelerator: {no_cuda}; {no_mps}")


def _unavailable_reason(name: str) -> str | None:
    """Why this machine cannot use the device; None if it can."""
    if name == "cpu":
        return None
    if name == "mps":
        if not torch.backends.mps.is_built():
            return "this torch is built without MPS"
        if not torch.backends.mps.is_available():
            return "MPS needs macOS 15 or later on an Apple-silicon Mac"
        return None
    if torch.version.cuda is None:
        return "this torch is built without CUDA"
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = int(name.partition(":")[2] or 0)
    if index >= count:
        return f"{count} CUDA devices found" if count else "no CUDA device found"
    return None


def choose_dtype(device: torch.device, requested: str | None = None) -> DtypeChoice:
    """The number format for a device: None or "auto", "float32", "bfloat16" or "float16".

    "auto" never chooses 16 bits on MPS, because several chips and torch versions have computed
    silently wrong results there. bfloat16 is available on MPS after `doctor` has compared gradients
    on this machine.

    Raises:
        RequestError: no number format has that name.
        MachineError: bfloat16 on a GPU that lacks it, or on MPS before that check has passed.
    """
    name = (requested or "auto").strip().lower()
    if name == "auto":
        return _best_dtype(device)
    if name not in _DTYPES:
        raise RequestError(
            f"no number format {requested!r}", hint="use auto, float32, bfloat16 or float16"
        )
    reason = "requested"
    if name == "float16":
        reason += "; its range ends at 65,504: steps that overflow are skipped and counted"
    elif name == "bfloat16" and device.type == "mps":
        if not passed_gradient_check("mps", "bfloat16", torch.__version__):
            raise MachineError(
                "bfloat16 is not verified on this machine with this torch",
                hint="compare its gradients with the CPU's first: moonshine-tune doctor "
                "--device mps; until then: --set device.dtype=float32",
            )
        reason += f"; doctor's check passed with torch {torch.__version__}"
    elif name == "bfloat16" and device.type == "cuda" and not _cuda_has_bfloat16():
        raise MachineError("this GPU has no bfloat16", hint="use float32")
    elif name == "bfloat16" and device.type == "cpu":
        reason += " (most CPUs are slower with it)"
    return DtypeChoice(getattr(torch, name), reason)


def choose_frozen_format(device: torch.device, requested: str) -> DtypeChoice:
    """The number format of the frozen weights: the one requested, or float32 with the reason.

    Weights in 16 bits make MPS compute in 16 bits, so they wait for `doctor`'s check as the
    arithmetic does. A run that lacks it takes more memory instead of ending. A plan for a Mac, made
    on another machine, gets what it asks for.
    """
    unverified = device.type == "mps" and torch.backends.mps.is_available()
    if not unverified or requested == "float32":
        return DtypeChoice(getattr(torch, requested), "requested")
    if passed_gradient_check("mps", FROZEN_BFLOAT16, torch.__version__):
        return DtypeChoice(
            torch.bfloat16, f"requested; doctor's check passed with torch {torch.__version__}"
        )
    return DtypeChoice(
        torch.float32,
        f"frozen weights in float32: {requested} is not verified on this machine with torch "
        f"{torch.__version__} (verify it with: moonshine-tune doctor --device mps)",
    )


def _best_dtype(device: torch.device) -> DtypeChoice:
    if device.type == "cuda":
        if _cuda_has_bfloat16():
            return DtypeChoice(torch.bfloat16, "this GPU computes bfloat16 natively")
        return DtypeChoice(torch.float32, "this GPU has no bfloat16, and float16 gives NaN")
    if device.type == "mps":
        return DtypeChoice(
            torch.float32,
            "safe on MPS; bfloat16 saves a quarter of the memory, on request after doctor's check",
        )
    return DtypeChoice(torch.float32, "16-bit arithmetic is not faster on most CPUs")


def _cuda_has_bfloat16() -> bool:
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def memory_mb(device: torch.device) -> MemoryReading:
    """Memory of this process and of its tensors on `device`.

    On MPS, watch the driver's value: its caches grow with every new shape, and neither the resident
    size nor the sum of the tensors shows them.
    """
    tensors, driver = 0, None
    if device.type == "mps":
        tensors = torch.mps.current_allocated_memory() // _MB
        driver = torch.mps.driver_allocated_memory() // _MB
    elif device.type == "cuda":
        tensors = torch.cuda.memory_allocated(device) // _MB
        driver = torch.cuda.memory_reserved(device) // _MB
    resident = resident_mb()
    # The system updates the peak slightly later than the resident size.
    return MemoryReading(resident, max(resident, peak_resident_mb()), tensors, driver)


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Autocast to `dtype` inside the block; nothing changes for float32."""
    if dtype == torch.float32:
        return nullcontext()
    context: AbstractContextManager[object] = torch.autocast(device.type, dtype)
    return context


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Autocast off inside the block, where it is on."""
    if not torch.is_autocast_enabled(device.type):
        return nullcontext()
    context: AbstractContextManager[object] = torch.autocast(device.type, enabled=False)
    return context


def mps_memory_bytes() -> int | None:
    """The memory that Metal recommends as the most for this Mac's GPU; None without MPS.

    Two thirds of the memory of a Mac with 16 GB, three quarters of larger ones.
    """
    return torch.mps.recommended_max_memory() if torch.backends.mps.is_available() else None


def limit_memory(device: torch.device, num_bytes: int) -> bool:
    """Make MPS run out of memory at `num_bytes`, so that a run backs off; elsewhere nothing.

    torch's own limit is 1.7 times of what Metal recommends: 18.1 GiB on a Mac with 16 GB, where the
    system swaps, freezes or stops the process first. A limit that the user has set is kept.

    Returns:
        Whether there is a new limit.
    """
    recommended = mps_memory_bytes() if device.type == "mps" else None
    if not recommended or _MPS_LIMIT in os.environ:
        return False
    torch.mps.set_per_process_memory_fraction(min(num_bytes / recommended, _MOST_OF_MPS))
    return True


def clear_cache_every(device: torch.device, step: int, every: int) -> bool:
    """Release MPS's cache at an `every`-th step (0: never), if it has grown; returns whether.

    Each new clip length leaves blocks in that cache: tens of gigabytes of driver memory have been
    observed with only a few in use. Releasing it also drops the compiled graphs (torch 2.13 and
    later), which the next steps compile again, so a small cache stays.
    """
    if device.type != "mps" or every == 0 or step % every:
        return False
    unused = torch.mps.driver_allocated_memory() - torch.mps.current_allocated_memory()
    if unused < _UNUSED_SHARE * torch.mps.recommended_max_memory():
        return False
    torch.mps.empty_cache()
    return True


def release_memory(device: torch.device) -> None:
    """Return cached memory of the device and free pages of the heap to the system."""
    gc.collect()
    if device.type == "mps":
        torch.mps.empty_cache()
    elif device.type == "cuda":
        torch.cuda.empty_cache()
    trim_heap()


def trim_heap() -> None:
    """Return the C library's free pages to the system (Linux; elsewhere nothing happens).

    Small blocks that a training step frees stay on the heap, where scoring cannot use them for its
    larger ones. Price: milliseconds, and the system clears the pages again at their next use.
    """
    if heap_keeps_freed_memory():
        ctypes.CDLL(None).malloc_trim(0)


def supports_foreach(device: torch.device) -> bool:
    """Whether the optimizer and gradient clipping process all tensors in one call on the device.

    On CUDA this saves one kernel launch for each of about a hundred small matrices. Elsewhere they
    go one by one: torch's default differs between CPU and MPS, and with the same choice the
    operators of a step on a CPU are those of a step on MPS.
    """
    return device.type == "cuda"


def supports_fused(device: torch.device) -> bool:
    """Whether the optimizer's update is one fused kernel on the device.

    On the CPU an adapter of 112 matrices then takes 1.2 ms instead of 6.5.
    """
    return device.type in ("cpu", "mps")


def is_launch_bound(device: torch.device) -> bool:
    """Whether a step costs its kernels and its new shapes more than its arithmetic.

    Models of this size keep Apple's GPU busy for microseconds a kernel, a shape that is new takes
    milliseconds to compile, and every kernel is encoded by one thread.
    """
    return (_counted_as.get() or device.type) == "mps"


@contextmanager
def counted_as(kind: str) -> Iterator[None]:
    """Take the code path of a kind of device inside the block, for the memory estimate.

    Its tensors have no data and lie on the CPU, because this torch may lack the device.
    """
    token = _counted_as.set(kind)
    try:
        yield
    finally:
        _counted_as.reset(token)


def round_up_to_bucket(length: int) -> int:
    """`length` rounded up to one of eight sizes per octave: at most 12.5 % more, 6 % on average.

    Every new shape leaves blocks in the allocator and kernels in the libraries' caches. Clips from
    half a second to half a minute then have 48 sizes, instead of one size each.
    """
    step = 1 << max(length.bit_length() - 4, 0)
    return -(-length // step) * step


def round_up_to_coarse_bucket(length: int, least: int, coarsest: int | None = None) -> int:
    """`length` rounded up to one of two sizes per octave, all multiples of `least`.

    At most 50 % more, a fifth on average: clips from half a second to half a minute have 10 sizes.

    Args:
        coarsest: most that two neighboring sizes differ by; None for any difference.
    """
    step = 1 << max((length - 1).bit_length() - 2, 0)
    step = max(step if coarsest is None else min(step, coarsest), least)
    return -(-length // step) * step


def batch_width(longest: int, device: torch.device, *, of_audio: bool = False) -> int:
    """The length to which a batch of frames is padded: a bucket size except on the CPU.

    A CPU computes the padding too, and a new shape costs it only half a millisecond.

    Args:
        of_audio: samples instead of frames.
    """
    if is_launch_bound(device):
        # Attention over padded frames of the longest clips takes more memory than shapes are worth.
        coarsest = None if of_audio else _MOST_PADDED_FRAMES
        return round_up_to_coarse_bucket(longest, _LEAST_FRAMES, coarsest)
    return longest if device.type == "cpu" else round_up_to_bucket(longest)


def text_width(longest: int, device: torch.device) -> int:
    """The length to which a batch of texts is padded: a bucket size, coarse where shapes cost."""
    if is_launch_bound(device):
        return round_up_to_coarse_bucket(longest, _LEAST_TOKENS)
    return round_up_to_bucket(longest)


def batch_rows(count: int, device: torch.device) -> int:
    """The number of rows to which a decoder's batch is filled up: more only where shapes cost."""
    return round_up_to_coarse_bucket(count, 1) if is_launch_bound(device) else count


def heap_keeps_freed_memory() -> bool:
    """Whether the C library (glibc) keeps large freed blocks on its heap, which then fragments."""
    return sys.platform == "linux" and platform.libc_ver()[0] == "glibc"


def return_freed_memory_to_os() -> bool:
    """From now on, return large blocks to the system as soon as they are freed.

    Clips of different lengths fragment glibc's heap, which then holds two to three times the live
    memory. Price: the system clears the pages of every block again, up to a third more time.

    Returns:
        Whether this system has the option; on others nothing changes.
    """
    if not heap_keeps_freed_memory():
        return False
    library = ctypes.CDLL(None)
    return bool(library.mallopt(_M_MMAP_THRESHOLD, _TIGHT_BYTES))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error means that memory ran out, on any device.

    CUDA has an exception class for it; MPS and the CPU allocator raise RuntimeError with a message.
    """
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError | MemoryError) and machine_errors.is_out_of_memory(error)
