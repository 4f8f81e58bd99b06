"""Kill -9 at random moments, resume each time: is the run what it would have been?

    python -m benchmarks.kill_resume [--kills 10] [--steps 240] [--seed 0]

A small random streaming model trains through the command line, in processes of its own. One run is
left alone. The other is killed at random steps and moments, saving its state almost all the time so
that kills hit the writing too, and goes on with `--resume`. Compared bit by bit: the loss, gradient
norm and rate of every step, every score, and the best adapter's file. Prints one line of JSON; exit
code 1 where anything differs.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.small_work import save_small_model, write_clips

_NAMES = ("step", "loss", "replay_kl", "gradient_norm", "learning_rate")
_PATIENCE_S = 300.0


def start(work: Path, out: Path, steps: int, *, resume: bool) -> subprocess.Popen[bytes]:
    """The run as a process; what it says goes to a file beside the run."""
    settings = {
        "train.steps": steps, "train.batch_size": 4, "train.save_every_minutes": 1e-6,
        "select.every_steps": max(steps // 8, 1), "select.patience": 99, "adapter.dropout": 0.1,
        "adapter.sites": "all", "device.name": "cpu",
    }  # fmt: skip
    chosen = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    named = [
        word for name in ("train", "dev", "replay")
        for word in (f"--{name}", str(work / "clips" / f"{name}.jsonl"))
    ]  # fmt: skip
    command = [
        sys.executable, "-m", "moonshine_tune", "train", "--model", str(work / "model"),
        *named, *chosen, "--out", str(out),
    ]  # fmt: skip
    if resume:
        command = [sys.executable, "-m", "moonshine_tune", "train", "--resume", "--out", str(out)]
    environment = os.environ | {
        "MOONSHINE_TUNE_CACHE": str(work / "cache"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    with (work / f"{out.name}.log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment)


def steps_done(out: Path) -> int:
    """Steps in the log so far."""
    records = _records(out)
    return max((record["step"] for record in records), default=0)


def _records(out: Path) -> list[dict[str, Any]]:
    path = out / "metrics.jsonl"
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            # The line that the run is writing at this moment.
            break
    return found


def kill_at(process: subprocess.Popen[bytes], out: Path, step: int, delay_s: float) -> bool:
    """Wait for a step and a moment more, then kill -9; false where the run ended before."""
    begun = time.monotonic()
    while steps_done(out) < step and process.poll() is None:
        if time.monotonic() - begun > _PATIENCE_S:
            process.kill()
            raise TimeoutError(f"step {step} did not come in {_PATIENCE_S:.0f} s")
        time.sleep(0.005)
    time.sleep(delay_s)
    was_running = process.poll() is None
    process.kill()
    process.wait()
    return was_running


def compare(one: Path, other: Path) -> dict[str, bool]:
    """What is bit by bit the same in two runs."""

    def steps(out: Path) -> list[tuple[Any, ...]]:
        return [tuple(r.get(n) for n in _NAMES) for r in _records(out) if "loss" in r]

    def scores(out: Path) -> list[tuple[Any, ...]]:
        return [(r["step"], r["dev_wer"], r["canary_wer"]) for r in _records(out)
                if "dev_wer" in r]  # fmt: skip

    def adapter(out: Path) -> bytes:
        return (out / "adapter" / "adapter_model.safetensors").read_bytes()

    return {
        "losses": steps(one) == steps(other),
        "scores": scores(one) == scores(other),
        "adapter": adapter(one) == adapter(other),
        "files": {p.name for p in one.iterdir()} == {p.name for p in other.iterdir()},
    }


def main() -> int:
    """Run both and print the verdict."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        save_small_model(work / "model")
        for name, count, has_text in (("train", 24, True), ("dev", 4, True), ("replay", 8, False)):
            write_clips(work / "clips", name, count, 2.5, with_text=has_text)
        if start(work, work / "unbroken", options.steps, resume=False).wait():
            print((work / "unbroken.log").read_text(encoding="utf-8"), file=sys.stderr)
            return 3
        moments = sorted(chance.randrange(1, options.steps) for _ in range(options.kills))
        hits: list[int] = []
        for moment in moments:
            resume = (work / "killed" / "run.json").is_file()
            process = start(work, work / "killed", options.steps, resume=resume)
            if kill_at(process, work / "killed", moment, chance.uniform(0, 0.05)):
                hits.append(steps_done(work / "killed"))
                print(f"killed after step {hits[-1]}", file=sys.stderr, flush=True)
        code = start(work, work / "killed", options.steps, resume=True).wait()
        if code:
            print((work / "killed.log").read_text(encoding="utf-8"), file=sys.stderr)
            return 3
        same = compare(work / "unbroken", work / "killed")
        compared = sum("loss" in record for record in _records(work / "killed"))
    passed = all(same.values()) and len(hits) == options.kills and compared == options.steps
    print(json.dumps({"passed": passed, "kills": len(hits), "after_steps": hits,
                      "steps_compared": compared, "bitwise_equal": same}))  # fmt: skip
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
