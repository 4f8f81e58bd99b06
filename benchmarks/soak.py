"""Hours in minutes: does memory creep over thousands of steps on clips of ever other lengths?

    python -m benchmarks.soak [--steps 2400]

A small random streaming model trains through the real job, with replay, scores, saved states and
adapters in the encoder, so that each step makes tensors of new sizes. Resident memory is read from
the run's own log. Bound: the highest mean of 100 steps after step 200 lies less than 2 % above the
mean of steps 101 to 200. Prints one line of JSON; exit code 1 where it does not hold.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.small_work import save_small_model, write_clips
from moonshine_tune.config.resolve import resolve_settings
from moonshine_tune.core.environment import apply_environment_defaults
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.training.run import train

_WINDOW, _BOUND = 100, 2.0


def settings(work: Path, steps: int) -> Any:
    """The run's settings."""
    clips = {
        name: str(write_clips(work / "clips", name, count, 6.0, with_text=name != "replay"))
        for name, count in (("train", 200), ("dev", 6), ("replay", 24))
    }
    content = {
        "model": str(save_small_model(work / "model")),
        "data": clips,
        "adapter": {"sites": "all", "dropout": 0.1},
        "train": {"steps": steps, "batch_size": 4, "accumulation": 1, "save_every_minutes": 0.2},
        "retain": {"clips_per_step": 2},
        "select": {"every_steps": 400, "patience": 99},
        "device": {"name": "cpu"},
    }
    return resolve_settings([("soak", content)])


def figures(run: Path) -> dict[str, Any]:
    """Resident memory by windows of steps, MB."""
    resident = [
        float(record["memory_resident_mb"])
        for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        if "memory_resident_mb" in (record := json.loads(line))
    ]
    windows = [
        sum(resident[start : start + _WINDOW]) / _WINDOW
        for start in range(0, len(resident) - _WINDOW + 1, _WINDOW)
    ]
    begin, rest = windows[1], windows[2:]
    growth = 100 * (max(rest) / begin - 1)
    return {
        "passed": growth < _BOUND,
        "steps": len(resident),
        "growth_percent": round(growth, 2),
        "bound_percent": _BOUND,
        "resident_mb": {"steps 101-200": round(begin), "highest later": round(max(rest)),
                        "last": round(windows[-1])},
        "windows_mb": [round(window, 1) for window in windows],
    }  # fmt: skip


def main() -> int:
    """Train and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2400)
    options = parser.parse_args()
    if options.steps < 3 * _WINDOW:
        parser.error(f"--steps: at least {3 * _WINDOW}")
    apply_environment_defaults()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        result = train(settings(work, options.steps), work / "run", SilentProgress())
        found = figures(result.run)
    found["seconds"] = round(time.monotonic() - begun)
    found["stopped"] = result.stopped
    print(json.dumps(found))
    return 0 if found["passed"] and result.stopped == "finished" else 1


if __name__ == "__main__":
    sys.exit(main())
