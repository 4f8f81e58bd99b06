"""Chip, memory and cache folder of this machine, without torch.

Separate from `device`, so that `doctor` can report them when torch is broken.
"""

import atexit
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.names import home_expanded

_MB = 1_000_000
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def chip_name() -> str:
    """The processor's marketing name, or its architecture if the system has no name."""
    if sys.platform == "darwin":
        done = subprocess.run(
            ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"],
            capture_output=True, text=True, check=False, timeout=10,
        )  # fmt: skip
        if done.returncode == 0 and done.stdout.strip():
            return done.stdout.strip()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip().lower() in ("model name", "hardware") and value.strip():
                return value.strip()
    return platform.processor() or platform.machine()


def python_version() -> tuple[int, int]:
    """Major and minor version of the running Python."""
    return sys.version_info[0], sys.version_info[1]


def total_memory_mb() -> int:
    """Memory of the machine, or of its container if that is less, in MB of 10^6 bytes."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        limit = int(_CGROUP_LIMIT.read_text(encoding="ascii"))
    except (OSError, ValueError):
        # The file exists only in Linux containers, and holds "max" without a limit.
        limit = total
    return min(total, limit) // _MB


def available_memory_mb() -> int | None:
    """Memory that is available without swapping, in MB; None if psutil is missing."""
    try:
        import psutil
    except ImportError:
        return None
    return min(int(psutil.virtual_memory().available) // _MB, total_memory_mb())


def resident_mb() -> int:
    """Resident memory of this process, in MB."""
    import psutil

    return int(psutil.Process().memory_info().rss) // _MB


def peak_resident_mb() -> int:
    """Peak resident memory of this process so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Bytes on macOS, KiB elsewhere (getrusage(2) of each system).
    return peak // _MB if sys.platform == "darwin" else peak * 1024 // _MB


def make_cache_folder(folder: Path, say: Callable[[str], None] | None = None) -> Path:
    """A folder of the cache that can be written: created if it is missing.

    Where the cache may only be read, it is a folder of the same name in a temporary cache, which
    this process removes when it ends.

    Args:
        say: gets one message per process if the temporary cache is used.

    Raises:
        RequestError: there is no place for a temporary cache either.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Permissions do not tell: the file system may be read-only, or the user be root.
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        temporary = _temporary_cache(error)
        if say is not None and str(temporary) not in _reported:
            _reported.add(str(temporary))
            say(
                f"the cache cannot be written ({folder}: {error.strerror or error}): what is made "
                "now is kept until this command ends; set MOONSHINE_TUNE_CACHE to another folder"
            )
        target = temporary / folder.name
        target.mkdir(exist_ok=True)
        return target
    return folder


_reported: set[str] = set()


def _temporary_cache(reason: OSError) -> Path:
    try:
        return _make_temporary_cache()
    except OSError as error:
        raise RequestError(
            f"the cache cannot be written ({reason.strerror or reason}), and there is no place for "
            "temporary files",
            hint="set MOONSHINE_TUNE_CACHE and TMPDIR to other folders",
        ) from error


@cache
def _make_temporary_cache() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="moonshine-tune-cache-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def is_temporary(path: Path) -> bool:
    """Whether a file of the cache is removed when this process ends."""
    return bool(
        _make_temporary_cache.cache_info().currsize and path.is_relative_to(_make_temporary_cache())
    )


def cache_root() -> Path:
    """This program's cache folder: MOONSHINE_TUNE_CACHE, or inside the user's cache folder."""
    named = os.environ.get("MOONSHINE_TUNE_CACHE", "").strip()
    if named:
        return home_expanded(named).absolute()
    from platformdirs import user_cache_path

    return user_cache_path("moonshine-tune")
