"""Makes `mps` a device of this process, on machines without Apple's GPU; it cannot be undone.

`device.cpp` computes on the CPU and refuses what MPS refuses. What MPS has is read from torch's
dispatch table. g++ compiles it once for each version of torch.
"""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tests.doctor.mps_operators import dispatch_table, support

_SOURCE = Path(__file__).with_name("device.cpp")
_NAME = "pretended_mps"
# A torch built without MPS picks these where MPS has `_mps_convolution`; both copy through `copy_`.
_ADDED = ("copy_", "convolution_overrideable", "convolution_backward_overrideable")
# It has a composite kernel, which would be taken for the CPU's; MPS has one of its own.
_STRUCTURED = ("silu_backward",)
# They make views or memory: no kernel runs, and no graph is compiled.
_NO_KERNELS = frozenset(
    {
        "_reshape_alias", "as_strided", "empty.memory_format", "empty_strided", "permute", "unfold",
        "view",
    }
)  # fmt: skip
# The faults that `planted` knows, each reported of real MPS.
FAULTS = (
    "transposed linear",
    "attention of one query",
    "gradient after another shape",
    "wide product",
    "nan in masked softmax",
)


def why_unavailable() -> str | None:
    """Why the pretended device cannot be built here; None if it can."""
    if sys.platform != "linux":
        return "the pretended MPS is built on Linux only"
    if shutil.which("g++") is None:
        return "the pretended MPS needs g++"
    return None


def build(cache: Path) -> Path:
    """The compiled device for this torch, Python and source; a minute if it is not in the cache.

    Raises:
        RuntimeError: g++ fails, with its message.
    """
    python = sysconfig.get_config_var("SOABI")
    recipe = f"{torch.__version__} {python}".encode() + _SOURCE.read_bytes()
    target = cache / "pretended-mps" / f"{hashlib.sha256(recipe).hexdigest()[:16]}.so"
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    root = Path(torch.__file__).parent
    scratch = target.with_suffix(f".{os.getpid()}")
    command = [
        "g++", "-std=c++20", "-O1", "-w", "-fPIC", "-shared", f"-DTORCH_EXTENSION_NAME={_NAME}",
        "-DTORCH_API_INCLUDE_EXTENSION_H", f"-I{root}/include",
        f"-I{root}/include/torch/csrc/api/include", f"-I{sysconfig.get_paths()['include']}",
        str(_SOURCE), "-o", str(scratch), f"-L{root}/lib", "-lc10", "-ltorch_cpu", "-ltorch",
        "-ltorch_python", f"-Wl,-rpath,{root}/lib",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"g++ failed: {done.stderr[-2000:]}")
    scratch.replace(target)
    return target


class PretendedMps:
    """The device of this process, and what it recorded.

    Args:
        path: of `build`.
    """

    def __init__(self, path: Path) -> None:
        spec = importlib.util.spec_from_file_location(_NAME, path)
        if spec is None or spec.loader is None:
            raise RuntimeError(f"not a module: {path}")
        self._module: Any = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self._module)
        torch._C._has_mps = True
        backend = torch.backends.mps
        for name in ("is_available", "is_macos_or_newer", "is_macos13_or_newer"):
            getattr(backend, name).cache_clear()
        table = dispatch_table()
        own = {name for name in table if table[name]["func"].partition("(")[0] == name}
        own = {name for name in own if support(name, table) == "own"}
        lacking = {name for name in table if support(name, table) is None}
        self._module.configure(lacking, sorted(own | {*_ADDED, *_STRUCTURED}))

    def reset(self) -> None:
        """Forget what was recorded."""
        self._module.reset()

    def records(self) -> dict[str, Any]:
        """By operator: `calls`, `fallbacks`, `syncs`, `host_indices` and distinct `shapes`.

        Also `live` and `peak`, in bytes.
        """
        records: dict[str, Any] = self._module.records()
        return records

    def kernels(self) -> int:
        """Operators that computed something: views and allocations left out."""
        calls: dict[str, int] = self.records()["calls"]
        return sum(count for name, count in calls.items() if name not in _NO_KERNELS)

    def num_shapes(self) -> int:
        """Distinct shapes and number formats of these operators' arguments, by operator."""
        shapes: dict[str, int] = self.records()["shapes"]
        return sum(count for name, count in shapes.items() if name not in _NO_KERNELS)

    def syncs(self) -> int:
        """Times that the host waited for a value."""
        return sum(self.records()["syncs"].values())

    def set_limit(self, num_bytes: int) -> None:
        """From now on an allocation beyond `num_bytes` runs out of memory; 0 for no limit."""
        self._module.set_limit(num_bytes)

    @property
    def limit(self) -> int:
        """Most bytes that the device gives; 0 for no limit."""
        return int(self._module.limit())

    @contextmanager
    def planted(self, fault: str) -> Iterator[None]:
        """Inside the block the device computes wrong, by one of `FAULTS`."""
        self._module.plant(fault)
        try:
            yield
        finally:
            self._module.plant("")
