"""Classes of our own in front of those of a library's modules, which do what ours leave to them."""

from functools import cache
from typing import Any

from torch import nn


def patch_forward(own: Any, module: nn.Module) -> None:
    """Let a module compute by the class `own`, which may hand on to what the module was."""
    if not isinstance(module, own):
        kind: Any = type(module)
        module.__class__ = _in_front(own, kind)


@cache
def _in_front(own: Any, kind: Any) -> Any:
    return type(kind.__name__, (own, kind), {})
