"""Patching the forward pass of a library's modules by a subclass of their class."""

from functools import cache
from typing import Any

from torch import nn


def patch_forward(mixin: Any, module: nn.Module) -> None:
    """Put the class `mixin` in front of a module's class; its `super().forward` is the original."""
    if not isinstance(module, mixin):
        kind: Any = type(module)
        module.__class__ = _patched(mixin, kind)


@cache
def _patched(mixin: Any, kind: Any) -> Any:
    return type(kind.__name__, (mixin, kind), {})
