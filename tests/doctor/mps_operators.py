"""Operators that a function calls, and whether Apple's GPU (MPS) has each; no Mac is needed.

Every operator that reaches a backend is recorded, backward and optimizer included, and looked up in
the dispatch table that torch ships (`native_functions.yaml`). An operator without an MPS kernel
runs on the CPU there, hundreds of times slower; 64-bit floats do not exist on MPS.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from moonshine_tune.core.errors import MachineError

_TABLE = Path("packaged/ATen/native/native_functions.yaml")
_COMPOSITE = frozenset(
    {
        "CompositeImplicitAutograd",
        "CompositeExplicitAutograd",
        "CompositeExplicitAutogradNonFunctional",
    }
)
_WIDE = frozenset({torch.float64, torch.complex128})
# torch chooses fused attention by device: these are for the CPU only, and MPS uses the others
# instead (with gradients, the matrix products of the math path).
_REPLACED = {
    "_scaled_dot_product_flash_attention_for_cpu": "_scaled_dot_product_attention_math_for_mps",
    "_scaled_dot_product_flash_attention_for_cpu_backward": "_softmax_backward_data",
}


@dataclass(frozen=True)
class WideTensor:
    """A 64-bit float tensor that an operator read or returned.

    Attributes:
        operator: name with overload, such as `add.Tensor`.
        made: the operator returned it; otherwise it was an argument.
    """

    operator: str
    made: bool
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.operator} {'made' if self.made else 'was given'} 64 bits {list(self.shape)}"


@dataclass(frozen=True)
class OperatorReport:
    """The operators that a function called.

    Attributes:
        calls: number of calls of each operator, by name.
        lacking: operators that MPS does not have.
        wide: 64-bit float tensors, the first of each operator, in order of appearance.
    """

    calls: dict[str, int]
    lacking: tuple[str, ...]
    wide: tuple[WideTensor, ...]

    @property
    def runs_on_mps(self) -> bool:
        """Whether all operators run on MPS, without a fallback to the CPU."""
        return not self.lacking and not self.wide


def record_operators(work: Callable[[], object]) -> OperatorReport:
    """Run `work` and report every operator that it called.

    Raises:
        MachineError: this torch ships without its dispatch table.
    """
    table = dispatch_table()
    with _Recorder() as recorder:
        work()
    lacking = tuple(sorted(name for name in recorder.calls if support(name, table) is None))
    return OperatorReport(dict(sorted(recorder.calls.items())), lacking, tuple(recorder.wide))


def support(operator: str, table: dict[str, dict[str, Any]] | None = None) -> str | None:
    """How MPS runs an operator; None if it cannot.

    Args:
        operator: name with overload, without the namespace: `add.Tensor`, `mm`.
        table: of `dispatch_table`.

    Returns:
        `own` (a kernel for MPS), `composite` (composed of other operators), `structured` (by the
        kernel of its out variant) or `replaced` (torch uses another operator on MPS).
    """
    table = dispatch_table() if table is None else table
    entry = table.get(operator)
    if entry is None:
        return None
    keys = _dispatch_keys(entry)
    if "MPS" in keys:
        return "own"
    delegate = entry.get("structured_delegate")
    if delegate:
        return "structured" if support(str(delegate), table) else None
    # Without a dispatch block an operator is CompositeImplicitAutograd.
    if not keys or keys & _COMPOSITE:
        return "composite"
    name = operator.partition(".")[0]
    if name in _REPLACED and support(_REPLACED[name], table):
        return "replaced"
    return None


@cache
def dispatch_table() -> dict[str, dict[str, Any]]:
    """torch's table of native functions by name with overload; generated variants included.

    Raises:
        MachineError: the file is not where torch ships it.
    """
    spec = importlib.util.find_spec("torchgen")
    path = Path(spec.origin).parent / _TABLE if spec and spec.origin else _TABLE
    if not path.is_file():
        raise MachineError(
            "torch's dispatch table is missing", where=path, hint="install torch from its wheel"
        )
    # The C parser reads the 600 KB in less than a second, the Python parser in ten.
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    with path.open(encoding="utf-8") as file:
        entries: list[dict[str, Any]] = yaml.load(file, Loader=loader)
    table = {str(entry["func"]).partition("(")[0]: entry for entry in entries}
    for entry in entries:
        for name in str(entry.get("autogen", "")).replace(",", " ").split():
            # A generated variant calls the written one and copies, so both run on the same devices.
            table.setdefault(name, entry)
    return table


def _dispatch_keys(entry: dict[str, Any]) -> frozenset[str]:
    rows = entry.get("dispatch") or {}
    return frozenset(key.strip() for row in rows for key in str(row).split(","))


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: dict[str, int] = {}
        self.wide: list[WideTensor] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        namespace, _, name = str(func.name()).partition("::")
        if namespace in ("profiler", "prim"):
            # Profiler marks of the optimizer, and queries such as a tensor's device: they reach no
            # device.
            return func(*args, **(kwargs or {}))
        # Without gradients torch dispatches composite operators undivided, but a device runs their
        # parts.
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
            with self:
                parts = func.decompose(*args, **(kwargs or {}))
            if parts is not NotImplemented:
                return parts
        # Operators of other packages keep their namespace; the table does not list them.
        name = name if namespace == "aten" else f"{namespace}::{name}"
        self.calls[name] = self.calls.get(name, 0) + 1
        argument = self._widest((args, kwargs))
        result = func(*args, **(kwargs or {}))
        made = self._widest(result)
        tensor = made if made is not None else argument
        if tensor is not None and all(item.operator != name for item in self.wide):
            self.wide.append(WideTensor(name, made is not None, tuple(tensor.shape)))
        return result

    @staticmethod
    def _widest(values: object) -> torch.Tensor | None:
        for value in tree_leaves(values):
            if isinstance(value, torch.Tensor) and value.dtype in _WIDE:
                return value
        return None
