"""Nested mappings to flat ones with dotted keys, and back."""

from collections.abc import Iterator, Mapping
from typing import Any


def flatten(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys with their values: `{"a": {"b": 1}}` yields `("a.b", 1)`."""
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mapping of dotted keys; the inverse of `flatten`."""
    result: dict[str, Any] = {}
    for key, value in flat.items():
        *parents, last = key.split(".")
        branch = result
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[last] = value
    return result
