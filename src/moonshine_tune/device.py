"""Choosing where and in which number format to compute, each choice with its reason."""

import gc
import re
from dataclasses import dataclass

import torch

from moonshine_tune.errors import MachineError, RequestError
from moonshine_tune.machine import peak_resident_mb, resident_mb

_MB = 1_000_000
_DTYPES = {
    "float32": torch.float32, "fp32": torch.float32,
    "bfloat16": torch.bfloat16, "bf16": torch.bfloat16,
}  # fmt: skip


@dataclass(frozen=True)
class DeviceChoice:
    """A device and why it was taken."""

    device: torch.device
    reason: str


@dataclass(frozen=True)
class DtypeChoice:
    """The format of the arithmetic (float32, or bfloat16 autocast) and why it was taken."""

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
    """The number format for `device`; `wanted` is None or "auto", "float32" or "bfloat16".

    Raises:
        RequestError: another format. float16 is refused: it is known for NaN on these models.
        MachineError: bfloat16 on a GPU that lacks it.
    """
    name = (wanted or "auto").strip().lower()
    if name == "auto":
        return _best_dtype(device)
    if name not in _DTYPES:
        hint = "use auto, float32 or bfloat16"
        if name in ("float16", "fp16", "half"):
            hint = "float16 overflows to NaN in training here: use bfloat16 or float32"
        raise RequestError(f"no number format {wanted!r}", hint=hint)
    dtype = _DTYPES[name]
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
            "safe on MPS; bfloat16 saves about a quarter of memory, on request",
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
    return MemoryReading(resident_mb(), peak_resident_mb(), tensors, driver)


def release_memory(device: torch.device) -> None:
    """Give cached memory back to the system; on MPS the cache grows with every new shape."""
    gc.collect()
    if device.type == "mps":
        torch.mps.empty_cache()
    elif device.type == "cuda":
        torch.cuda.empty_cache()


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
