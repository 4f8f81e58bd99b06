"""A command in a process of its own: how long it took, its peak memory, what it printed last."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Measured:
    """One run of a command.

    Attributes:
        seconds: wall time of the whole process, start-up and loading included.
        peak_mb: its peak resident memory, MB of 10^6 bytes.
        told: the JSON document that it printed last; empty where it printed none.
    """

    seconds: float
    peak_mb: float
    told: dict[str, Any]


def run_fresh(command: list[str], log: Path, *, extra_path: Path | None = None) -> Measured:
    """Run a command to its end; all that it prints goes to `log`.

    Args:
        extra_path: a folder of packages for this command alone, after the installed ones.

    Raises:
        RuntimeError: it failed; names the log.
    """
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    if extra_path is not None:
        paths = [environment.get("PYTHONPATH", ""), str(extra_path)]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as file:
        begun = time.monotonic()
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=file)
        _pid, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"exit code {process.returncode}: {' '.join(command)}\nsee {log}")
    # Linux counts KiB, macOS bytes.
    scale = 1e6 if sys.platform == "darwin" else 1e6 / 1024
    return Measured(seconds, usage.ru_maxrss / scale, _last_document(log))


def _last_document(log: Path) -> dict[str, Any]:
    for line in reversed(log.read_text(encoding="utf-8", errors="replace").splitlines()):
        if line.startswith("{"):
            document: dict[str, Any] = json.loads(line)
            return document
    return {}
