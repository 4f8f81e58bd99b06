"""Where the time goes from the command to the chosen adapter, and against another checkout.

    python -m benchmarks.wait [--only an4 accent] [--runs 3] [--steps N]
    git worktree add ../before COMMIT
    python -m benchmarks.wait --other ../before

Trains with the defaults of `moonshine-tune train`, each run in a fresh process; with `--other` both
checkouts alternate, with this environment's packages. Prints for each set the median seconds of the
process, of its start (Python and imports), and of each activity as in run.json; a checkout that
records no activities has its totals only. Beside them is what `estimate` expects, and at the end
the WER of dev and canary. Needs the recordings of `make acceptance` and a quiet machine.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.acceptance import SHARED, alphanumeric_parts
from benchmarks.fresh import run_fresh
from benchmarks.random_model import save_random_model
from benchmarks.two_checkouts import first_lines

_HERE = Path(__file__).resolve().parents[1]
_SETS = ("an4", "accent", "alphanumeric", "medium")
# Enough of medium to see every part; its weights are random, so its WER says nothing.
_MEDIUM_STEPS, _MEDIUM_CLIPS, _MEDIUM_DEV = 20, 64, 20
_ACTIVITIES = ("starting", "reading", "encoding", "teacher", "baseline", "steps", "replay",
               "scoring", "filter", "choice", "writing")  # fmt: skip


def flags_of(name: str, work: Path, steps: int | None) -> list[str]:
    """What `train` gets for a set, without `--out`."""
    flags = ["--replay", str(SHARED / "replay_audio" / "manifest.jsonl")]
    if name == "alphanumeric":
        parts = alphanumeric_parts(work)
        flags += ["--train", str(parts["train"]), "--dev", str(parts["dev"])]
    elif name == "medium":
        save_random_model("medium", work / "medium")
        an4 = SHARED / "an4"
        train = first_lines(an4 / "train.jsonl", _MEDIUM_CLIPS, work / "train.jsonl")
        dev = first_lines(an4 / "test.jsonl", _MEDIUM_DEV, work / "dev.jsonl")
        flags += ["--model", str(work / "medium"), "--train", str(train), "--dev", str(dev)]
        steps = _MEDIUM_STEPS if steps is None else steps
    else:
        flags += ["--train", str(SHARED / name / "train.jsonl")]
        if (SHARED / name / "dev.jsonl").is_file():
            flags += ["--dev", str(SHARED / name / "dev.jsonl")]
    flags += ["--canary", str(SHARED / "librispeech_other" / "manifest.jsonl")]
    return flags if steps is None else [*flags, "--set", f"train.steps={steps}"]


def median_of(documents: Sequence[dict[str, Any]], *keys: str) -> float | None:
    """Median of a number of the documents; None where one does not have it."""
    values = []
    for document in documents:
        value: Any = document
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        values.append(value)
    known = [float(value) for value in values if value is not None]
    return statistics.median(known) if len(known) == len(values) else None


def estimated(flags: Sequence[str], work: Path) -> dict[str, Any]:
    """What `estimate` expects of the same run."""
    settings = []
    for flag, value in zip(flags[::2], flags[1::2], strict=True):
        is_manifest = flag in ("--train", "--dev", "--replay", "--canary")
        settings += ["--set", f"data.{flag[2:]}={value}"] if is_manifest else [flag, value]
    command = [sys.executable, "-m", "moonshine_tune", "estimate", "--device", "cpu", *settings,
               "--json"]  # fmt: skip
    answered = ["env", f"PYTHONPATH={_HERE / 'src'}", "sh", "-c", '"$@"; test $? -le 1', "sh"]
    document = run_fresh([*answered, *command], work / "estimate.log").told
    seconds: dict[str, float] = document["seconds"]
    return {"time": seconds, "process": sum(seconds.values())}


def print_set(name: str, results: dict[str, list[dict[str, Any]]]) -> None:
    """The rows of a set: one activity per line, one checkout per column."""
    sides = list(results)
    print(f"\n| {name}, s | " + " | ".join(sides) + " |\n|" + "---|" * (len(sides) + 1))
    rows: list[tuple[str, tuple[str, ...]]] = [("process", ("process",)), ("start", ("start",))]
    rows += [(activity, ("time", activity)) for activity in _ACTIVITIES]
    rows += [("dev WER", ("best", "dev_wer")), ("canary WER", ("best", "canary_wer"))]
    for title, keys in rows:
        values = [median_of(results[side], *keys) for side in sides]
        if any(value is not None for value in values):
            cells = ("" if value is None else f"{value:.2f}" for value in values)
            print(f"| {title} | " + " | ".join(cells) + " |", flush=True)
    if "other" in results:
        pairs = zip(results["this"], results["other"], strict=True)
        ratios = [first["process"] / second["process"] for first, second in pairs]
        print(f"\nthis ÷ other: {statistics.median(ratios):.2f} "
              f"({min(ratios):.2f} to {max(ratios):.2f})", flush=True)  # fmt: skip


def main() -> None:
    """Print a table per set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--other", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--steps", type=int, help="of each run [default: that of the settings]")
    parser.add_argument("--only", nargs="+", default=list(_SETS), choices=_SETS)
    options = parser.parse_args()
    checkouts = {"this": _HERE}
    if options.other is not None:
        checkouts["other"] = options.other.resolve()
    for name in options.only:
        with tempfile.TemporaryDirectory() as scratch:
            work = Path(scratch)
            flags = flags_of(name, work, options.steps)
            results: dict[str, list[dict[str, Any]]] = {side: [] for side in checkouts}
            for number in range(options.runs):
                for side, checkout in checkouts.items():
                    out = work / f"{side}-{number}"
                    command = [
                        "env",
                        f"PYTHONPATH={checkout / 'src'}",
                        sys.executable,
                        "-m",
                        "moonshine_tune",
                        "train",
                        *flags,
                        "--out",
                        str(out),
                        "--json",
                    ]
                    # An adapter that is no better is an answer too: random weights learn nothing.
                    answered = ["sh", "-c", '"$@"; test $? -le 1', "sh", *command]
                    measured = run_fresh(answered, work / f"{out.name}.log")
                    start = measured.seconds - measured.told["seconds"]
                    figures = {"process": measured.seconds, "start": start}
                    results[side].append(measured.told | figures)
            print_set(name, results | {"estimated": [estimated(flags, work)]})


if __name__ == "__main__":
    main()
