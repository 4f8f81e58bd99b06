"""A search on a small budget, killed halfway and continued: is its choice better than the preset?

    python -m benchmarks.ablation --out D [--trials 12] [--steps 40]

A sixth of the utterances of AN4's training speakers, dev speakers of its own, the space below. The
search is killed (SIGKILL) after half of its trials, and the same command continues it. Then the
chosen trial and the one with the preset's settings, equally long, are scored on the AN4 test, which
the search never opens. Prints one line of JSON; exit code 1 where a trial is lost or the choice is
worse than the preset.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.acceptance import SHARED
from moonshine_tune.cli.console import TerminalProgress
from moonshine_tune.core.environment import apply_environment_defaults
from moonshine_tune.corpus.manifest import read_manifest, write_manifest
from moonshine_tune.corpus.splits import split_by_speaker

_SPACE = """\
preset: tiny
settings:
  select: {every_steps: 20, max_dev_utterances: 48, average_last: 2}
  retain: {max_clips: 40, watched_clips: 10, strengths: [1.0]}
  device: {state_storage: disk}
space:
  size:
    - {adapter.rank: 4, adapter.alpha: 8}
    - {adapter.rank: 8, adapter.alpha: 16}
    - {adapter.rank: 16, adapter.alpha: 32}
  train.learning_rate: {low: 1.0e-4, high: 3.0e-3, log: true}
  retain.weight: [1.0, 4.0]
  retain.clips_per_step: [2, 8]
  train.lora_plus_ratio: [1, 8]
"""


def prepare(out: Path) -> list[str]:
    """Manifests and space of the search; returns the arguments that name them."""
    out.mkdir(parents=True, exist_ok=True)
    everything = read_manifest(SHARED / "an4" / "train.jsonl").utterances
    parts = split_by_speaker(everything, dev=0.1, test=0.0, seed=0)
    small = {"train": parts.train[::6], "dev": parts.dev}
    for name, utterances in small.items():
        write_manifest(out / f"{name}.jsonl", [replace(item, split=name) for item in utterances])
    (out / "space.yaml").write_text(_SPACE, encoding="utf-8")
    replay = SHARED / "replay_audio" / "manifest.jsonl"
    return ["--space", str(out / "space.yaml"), "--train", str(out / "train.jsonl"), "--dev",
            str(out / "dev.jsonl"), "--replay", str(replay)]  # fmt: skip


def search(out: Path, arguments: list[str], trials: int, *, kill_after: int | None) -> float:
    """Run the search, or kill it once so many trials have ended; seconds that it took."""
    start_time = time.monotonic()
    command = [sys.executable, "-m", "moonshine_tune", "ablate", "run", *arguments, "--out",
               str(out / "ablation"), "--trials", str(trials), "--json"]  # fmt: skip
    with (out / "search.log").open("a") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        while process.poll() is None:
            if kill_after is not None and _ended(out) >= kill_after:
                time.sleep(3)  # into the next trial
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
            time.sleep(0.5)
    if kill_after is None and process.returncode != 0:
        raise RuntimeError(f"the search failed: {out / 'search.log'}")
    return time.monotonic() - start_time


def _ended(out: Path) -> int:
    """Trials whose run folder holds a result."""
    records = (out / "ablation" / "trials").glob("*/run.json")
    return sum("result" in json.loads(path.read_text(encoding="utf-8")) for path in records)


def score(out: Path, number: int) -> Any:
    """The AN4 test through the adapter of a trial."""
    from moonshine_tune.evaluation.evaluate import EvaluateRequest, evaluate

    run = out / "ablation" / "trials" / f"{number:04d}"
    request = EvaluateRequest(SHARED / "an4" / "test.jsonl", adapter=run, score_base=False)
    return evaluate(request, out / f"test-{number}", TerminalProgress())


def main() -> int:
    """Search, kill, continue, choose, compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args()
    if not SHARED.is_dir():
        print(f"skipped: the recordings are not here: {SHARED}", file=sys.stderr)
        return 3
    apply_environment_defaults()
    from moonshine_tune.ablation.results import Bounds, choose, show_ablation
    from moonshine_tune.metrics.wer import compare_paired

    out = options.out
    arguments = [*prepare(out), "--steps", str(options.steps)]
    killed = search(out, arguments, options.trials, kill_after=options.trials // 2)
    states_after_kill = [trial.state for trial in show_ablation(out / "ablation").trials]
    finished = search(out, arguments, options.trials, kill_after=None)
    view = show_ablation(out / "ablation")
    chosen = choose(out / "ablation", Bounds())
    assert view.start is not None, "the first trial has the preset's settings"
    preset, choice = score(out, view.start), score(out, chosen.number)
    pair = compare_paired(preset.scored, choice.scored)
    states = [trial.state for trial in view.trials]
    passed = states.count("finished") == options.trials and pair.verdict != "worse"
    print(
        json.dumps(
            {
                "passed": passed,
                "trials": {name: states.count(name) for name in sorted(set(states))},
                "after_kill": {
                    name: states_after_kill.count(name) for name in sorted(set(states_after_kill))
                },
                "seconds": [round(killed, 1), round(finished, 1)],
                "chosen": {"trial": chosen.number, **chosen.params},
                "reasons": chosen.reasons,
                "dev_wer": {
                    str(trial.number): trial.figures.get("dev_wer") for trial in view.trials
                },
                "test_wer": {"preset": preset.score.wer, "chosen": choice.score.wer},
                "difference": pair.difference,
                "ci95": pair.ci95,
                "verdict": pair.verdict,
                "importances": {name: dict(shares) for name, shares in view.importances.items()},
            }
        )
    )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
