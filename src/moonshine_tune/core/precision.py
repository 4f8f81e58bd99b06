"""Which 16-bit formats have computed right gradients here: what `doctor` found, kept in the cache.

A record counts for one chip, one version of torch and one device only: each of them has had faults
of its own.
"""

import json
import platform
from typing import Any

from moonshine_tune.core.files import write_json_atomic
from moonshine_tune.core.hardware import cache_root, chip_name, make_cache_folder

_FILE = "gradient-checks.json"


def remember_format(device: str, dtype: str, torch_version: str, *, passed: bool) -> None:
    """Keep the outcome of a gradient check of `dtype` on `device`."""
    records = _read()
    records[_key(device, dtype, torch_version)] = passed
    write_json_atomic(make_cache_folder(cache_root()) / _FILE, records)


def is_proved_format(device: str, dtype: str, torch_version: str) -> bool:
    """Whether that check has passed on this machine with this torch."""
    return _read().get(_key(device, dtype, torch_version)) is True


def _key(device: str, dtype: str, torch_version: str) -> str:
    return f"{chip_name()}, {platform.machine()}, {device}, torch {torch_version}, {dtype}"


def _read() -> dict[str, Any]:
    try:
        found = json.loads((cache_root() / _FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
