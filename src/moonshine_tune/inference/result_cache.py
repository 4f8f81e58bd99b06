"""Results of the frozen base model that later runs use again, and the code that they depend on."""

import hashlib
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter

from moonshine_tune.core.hardware import cache_root, make_cache_folder

Value = TypeVar("Value")

# The code that computes encoder states: if it changes, they are computed again.
_STATE_CODE = (
    "audio/io.py", "models/base.py", "models/v1.py", "models/streaming.py",
    "models/kernels/attention.py",
)  # fmt: skip


def recipe_hash(*others: str) -> str:
    """Hash of the code that computes encoder states, for the identity of cached results.

    Args:
        others: further files of this package that the results depend on.
    """
    package = resources.files("moonshine_tune")
    digest = hashlib.sha256()
    for path in (*_STATE_CODE, *others):
        digest.update(package.joinpath(*path.split("/")).read_bytes())
    return digest.hexdigest()


def cached_path(kind: str, identity: Sequence[object]) -> Path:
    """The file of a result in the cache; the folder is made.

    Args:
        identity: everything that the result depends on, as JSON data.
    """
    name = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]
    return make_cache_folder(cache_root() / kind) / f"{name}.json"


def read_cached(path: Path, kind: type[list[Value]], count: int) -> list[Value] | None:
    """The cached list of `count` values; None where there is none, or it is damaged."""
    try:
        values = TypeAdapter(kind).validate_json(path.read_bytes())
    except (OSError, ValueError):
        return None
    return values if len(values) == count else None
