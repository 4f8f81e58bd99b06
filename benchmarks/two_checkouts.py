"""This checkout against another one: the same commands, alternating, each in a fresh process.

    git worktree add ../before COMMIT
    python -m benchmarks.two_checkouts --other ../before --pairs 10

Shows whether a change of the code made training, transcription, export, or the import and check of
data slower. Needs the recordings of `make acceptance`. Both sides use this environment's packages.
Prints for each job the median and the range of the ratios, this checkout's time ÷ the other's:
below 1 is faster.
"""

import argparse
import random
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from benchmarks.acceptance import SHARED
from benchmarks.fresh import run_fresh
from moonshine_tune.corpus.manifest import Utterance, read_manifest, write_manifest

_HERE = Path(__file__).resolve().parents[1]
# Enough for a step's time to show beside the start of the process.
_TRAIN_CLIPS, _DEV_CLIPS, _REPLAY_CLIPS, _STEPS = 160, 20, 24, 40
_ROWS, _FILES, _SPAN_S = 100_000, 50, 0.5
_WORDS = ("turn", "left", "heading", "three", "one", "zero", "descend", "to", "level")
_JOBS = ("train", "transcribe", "export", "import-an4", "check-an4", "import-rows", "check-rows")
# `data check` answers no where it has found something.
_ANSWERED = ("sh", "-c", '"$@"; test $? -le 1', "sh")


def first_lines(manifest: Path, count: int, out: Path) -> Path:
    """A manifest of the first utterances of another."""
    write_manifest(out, read_manifest(manifest, require_text=False).utterances[:count])
    return out


def write_rows(folder: Path) -> Path:
    """A table of many rows: spans of a few recordings of noise; and the manifest that it makes."""
    rng = random.Random(0)
    noise = 0.05 * np.random.default_rng(0).standard_normal(round(16_000 * _SPAN_S))
    spans = _ROWS // _FILES
    samples = np.tile(noise, spans)
    rows = ["id,file,start,end,text,speaker"]
    utterances = []
    folder.mkdir()
    for number in range(_FILES):
        soundfile.write(folder / f"{number}.wav", samples, 16_000)
        for span in range(spans):
            start, end = span * _SPAN_S, (span + 1) * _SPAN_S
            text = " ".join(rng.choices(_WORDS, k=2)) + f" {number} {span}"
            rows.append(f"u{len(rows)},{number}.wav,{start},{end},{text},s{number}")
            utterances.append(
                Utterance(f"u{len(rows)}", folder / f"{number}.wav", text, f"s{number}",
                          start=start, end=end)
            )  # fmt: skip
    (folder / "rows.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    write_manifest(folder / "rows.jsonl", utterances)
    return folder


def jobs_of(work: Path, only: Sequence[str]) -> dict[str, list[str]]:
    """The commands by name; `{out}` is a new folder for each run."""
    train = first_lines(SHARED / "an4" / "train.jsonl", _TRAIN_CLIPS, work / "train.jsonl")
    dev = first_lines(SHARED / "an4" / "test.jsonl", _DEV_CLIPS, work / "dev.jsonl")
    replay = first_lines(
        SHARED / "replay_audio" / "manifest.jsonl", _REPLAY_CLIPS, work / "replay.jsonl"
    )
    general = SHARED / "librispeech_other" / "manifest.jsonl"
    an4, rows = SHARED / "an4", work / "rows"
    if {"import-rows", "check-rows"} & set(only):
        write_rows(rows)
    return {
        "train": [
            "train", "--preset", "tiny", "--train", str(train), "--dev", str(dev),
            "--replay", str(replay), "--out", "{out}", "--set", f"train.steps={_STEPS}",
            "--set", f"select.every_steps={_STEPS}",
        ],
        "transcribe": ["evaluate", "--model", "tiny", "--manifest", str(general), "--json"],
        "export": ["export", "--run", str(work / "run"), "--out", "{out}"],
        "import-an4": ["data", "import", str(an4), "--table", str(an4 / "train.jsonl"), "--out",
                       "{out}.jsonl"],
        "check-an4": ["data", "check", str(an4 / "train.jsonl"), "--json"],
        "import-rows": ["data", "import", str(rows), "--table", str(rows / "rows.csv"), "--out",
                        "{out}.jsonl"],
        "check-rows": ["data", "check", str(rows / "rows.jsonl"), "--json"],
    }  # fmt: skip


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--other", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--only", nargs="+", default=list(_JOBS), choices=_JOBS)
    options = parser.parse_args()
    sides = {"this": _HERE, "other": options.other.resolve()}
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        jobs = jobs_of(work, options.only)

        def seconds(job: str, side: str, label: str) -> float:
            words = [word.replace("{out}", str(work / label)) for word in jobs[job]]
            answered = _ANSWERED if job.startswith("check") else ()
            command = ["env", f"PYTHONPATH={sides[side] / 'src'}", *answered, sys.executable, "-m"]
            return run_fresh([*command, "moonshine_tune", *words], work / f"{label}.log").seconds

        # The run that both export, and everything that is fetched or made once.
        if "export" in options.only:
            jobs["run"] = [word.replace("{out}", str(work / "run")) for word in jobs["train"]]
            seconds("run", "other", "run")
        print("| job | this, s | other, s | this ÷ other, median (range) |\n|---|---|---|---|")
        for job in options.only:
            taken: dict[str, list[float]] = {side: [] for side in sides}
            for number in range(options.pairs):
                for side in sides:
                    taken[side].append(seconds(job, side, f"{job}-{side}-{number}"))
            ratios = [a / b for a, b in zip(taken["this"], taken["other"], strict=True)]
            medians = [f"{statistics.median(taken[side]):.2f}" for side in sides]
            print(
                f"| {job} | {medians[0]} | {medians[1]} | {statistics.median(ratios):.3f} "
                f"({min(ratios):.3f}–{max(ratios):.3f}, {len(ratios)} pairs) |",
                flush=True,
            )


if __name__ == "__main__":
    main()
