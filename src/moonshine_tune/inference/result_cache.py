"""Results of the frozen base model that later runs use again, and the code that they depend on."""

import hashlib
import json
import zlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter

from moonshine_tune.core.errors import RequestError, TuneError
from moonshine_tune.core.files import read_json, write_json_atomic
from moonshine_tune.core.hardware import cache_root, make_cache_folder
from moonshine_tune.core.progress import Progress

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
    """The file of a result in the cache, whether it exists or not.

    Args:
        identity: everything that the result depends on, as JSON data.
    """
    name = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]
    return cache_root() / kind / f"{name}.json"


def read_cached(
    path: Path, kind: type[list[Value]], count: int, progress: Progress
) -> list[Value] | None:
    """The cached list of `count` values; None where there is none, or it is damaged."""
    try:
        if not path.is_file():
            return None
        content = read_json(path)
        values = TypeAdapter(kind).validate_python(content["values"], strict=True)
        if content["crc32"] == _checksum(values) and len(values) == count:
            return values
    except (OSError, ValueError, KeyError, RequestError):
        # A file that cannot be opened counts as one that is damaged.
        pass
    progress.say(f"a damaged result in the cache is not used: {path}")
    return None


def write_cached(path: Path, values: Sequence[Any], progress: Progress) -> None:
    """Keep a list of values for later runs. If the cache cannot hold it, the run goes on."""
    try:
        folder = make_cache_folder(path.parent, progress.say)
        content = {"crc32": _checksum(values), "values": values}
        write_json_atomic(folder / path.name, content)
    except (OSError, TuneError) as error:
        progress.say(f"a result cannot be kept in the cache: {error}")


def _checksum(values: Sequence[Any]) -> int:
    """Of the text in the file: a flipped bit in a number is still a number."""
    return zlib.crc32(json.dumps(values).encode())
