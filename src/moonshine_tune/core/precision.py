"""Results of `doctor`'s gradient checks of 16-bit formats, kept in the cache folder.

A result holds for one chip, one version of torch and one device: each has had faults of its own.
"""

import platform
from typing import Any

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import read_json, write_json_atomic
from moonshine_tune.core.hardware import cache_root, chip_name, make_cache_folder

_FILE = "gradient-checks.json"


def record_gradient_check(device: str, dtype: str, torch_version: str, *, passed: bool) -> None:
    """Keep the result of a gradient check of `dtype` on `device`."""
    records = _read()
    records[_key(device, dtype, torch_version)] = passed
    write_json_atomic(make_cache_folder(cache_root()) / _FILE, records)


def passed_gradient_check(device: str, dtype: str, torch_version: str) -> bool:
    """Whether the check has passed on this machine with this version of torch."""
    return _read().get(_key(device, dtype, torch_version)) is True


def _key(device: str, dtype: str, torch_version: str) -> str:
    return f"{chip_name()}, {platform.machine()}, {device}, torch {torch_version}, {dtype}"


def _read() -> dict[str, Any]:
    try:
        return read_json(cache_root() / _FILE)
    except RequestError:
        return {}
