"""A command in a process of its own: how long it took, its peak memory, what it printed last."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Starts a command, waits for it, and prints what it took, as JSON.
_LAUNCHER = """
import json, os, subprocess, sys, time
begun = time.monotonic()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE)
lines = []
for line in process.stdout:
    lines.append((time.monotonic() - begun, line.decode("utf-8", "replace")))
_, status, usage = os.wait4(process.pid, 0)
seconds = time.monotonic() - begun
code = os.waitstatus_to_exitcode(status)
print(json.dumps({"seconds": seconds, "peak": usage.ru_maxrss, "code": code, "lines": lines}))
"""


@dataclass(frozen=True)
class Measured:
    """One run of a command.

    Attributes:
        seconds: wall time of the whole process, start-up and loading included.
        peak_mb: its peak resident memory, MB of 10^6 bytes.
        told: the JSON document that it printed last; empty where it printed none.
        lines: what it printed to its standard output, each line with the second it came in.
    """

    seconds: float
    peak_mb: float
    told: dict[str, Any]
    lines: tuple[tuple[float, str], ...] = ()


def run_fresh(command: list[str], log: Path, *, extra_path: Path | None = None) -> Measured:
    """Run a command to its end; all that it prints goes to `log`.

    Args:
        extra_path: a folder of packages for this command alone, after the installed ones.

    Raises:
        RuntimeError: it failed; names the log.
    """
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    if extra_path is not None:
        paths = [environment.get("PYTHONPATH", ""), str(extra_path)]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as file:
        # Linux counts the memory of whoever started a process as that process's own: a small
        # launcher in between keeps this program's libraries out of the figure.
        launcher = [sys.executable, "-S", "-c", _LAUNCHER, *command]
        answer = subprocess.run(
            launcher, env=environment, stdout=subprocess.PIPE, stderr=file, check=True
        )
    told = json.loads(answer.stdout)
    printed = "".join(line for _, line in told["lines"])
    log.write_text(printed + log.read_text("utf-8", "replace"), encoding="utf-8")
    if told["code"]:
        raise RuntimeError(f"exit code {told['code']}: {' '.join(command)}\nsee {log}")
    # Linux counts KiB, macOS bytes.
    scale = 1e6 if sys.platform == "darwin" else 1e6 / 1024
    lines = tuple((second, line) for second, line in told["lines"])
    return Measured(told["seconds"], told["peak"] / scale, _last_document(printed), lines)


def _last_document(printed: str) -> dict[str, Any]:
    for line in reversed(printed.splitlines()):
        if line.startswith("{"):
            document: dict[str, Any] = json.loads(line)
            return document
    return {}
