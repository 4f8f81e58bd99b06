"""Real speech, end to end: does the shipped recipe reach what the documentation says?

    make acceptance            # or: python -m benchmarks.acceptance [--only an4] [--steps N]

Reads `../shared/data` beside the checkout (or MOONSHINE_TUNE_SHARED_DATA) and says so where it is
missing. Prints one line of JSON at the end; exit code 1 if a bound is missed.
"""

import argparse
import json
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from moonshine_tune.cli.console import TerminalProgress
from moonshine_tune.config.resolve import read_preset, resolve_settings
from moonshine_tune.core.environment import apply_environment_defaults
from moonshine_tune.corpus.manifest import read_manifest, write_manifest

SHARED = Path(
    os.environ.get(
        "MOONSHINE_TUNE_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"
    )
)


def an4(out: Path, steps: int | None) -> dict[str, Any]:
    """AN4: 948 training utterances of 74 speakers, 130 test utterances of 10 others."""
    data = SHARED / "an4"
    return _adapt_and_score(
        out,
        {"train": data / "train.jsonl", "canary": SHARED / "ljspeech" / "manifest.jsonl"},
        data / "test.jsonl",
        steps,
        {"wer": 2.0, "canary_points": 2.0, "train_seconds": 240.0},
    )


def alphanumeric(out: Path, steps: int | None) -> dict[str, Any]:
    """Spelled letters and digits: 148 clips of one speaker, 72 of another for the test."""
    parts = alphanumeric_parts(out)
    return _adapt_and_score(
        out / "an",
        {
            "train": parts["train"],
            "dev": parts["dev"],
            "canary": SHARED / "ljspeech" / "manifest.jsonl",
        },
        parts["test"],
        steps,
        {"wer": 12.0, "canary_points": 2.0},
    )


def alphanumeric_parts(out: Path) -> dict[str, Path]:
    """Write the manifests `train`, `dev` and `test` of the spelled alphabet."""
    manifest = read_manifest(SHARED / "alphanumeric" / "manifest.jsonl")
    train = [item for item in manifest.utterances if item.split == "train"]
    # One speaker only: every ninth clip chooses the adapter, the other speaker judges it.
    parts = {
        "dev": train[::9],
        "train": [item for place, item in enumerate(train) if place % 9],
        "test": [item for item in manifest.utterances if item.split == "test"],
    }
    for name, utterances in parts.items():
        write_manifest(out / f"{name}.jsonl", [replace(item, split=name) for item in utterances])
    return {name: out / f"{name}.jsonl" for name in parts}


def _adapt_and_score(
    out: Path,
    manifests: dict[str, Path],
    test: Path,
    steps: int | None,
    bounds: dict[str, float],
) -> dict[str, Any]:
    from moonshine_tune.evaluation.evaluate import EvaluateRequest, evaluate
    from moonshine_tune.training.run import train

    progress = TerminalProgress()
    data = {name: str(path) for name, path in manifests.items()}
    data["replay"] = str(SHARED / "replay_audio" / "manifest.jsonl")
    layers = [("preset tiny", read_preset("tiny")), ("acceptance", {"data": data})]
    if steps:
        layers.append(("--steps", {"train": {"steps": steps}}))
    trained = train(resolve_settings(layers), out / "run", progress)
    domain = evaluate(EvaluateRequest(test, adapter=trained.run), out / "eval-test", progress)
    canary_manifest = SHARED / "librispeech_other" / "manifest.jsonl"
    canary = evaluate(
        EvaluateRequest(canary_manifest, adapter=trained.run), out / "eval-canary", progress
    )
    assert domain.comparison and canary.comparison
    figures: dict[str, Any] = {
        "base_wer": domain.comparison.before,
        "wer": domain.score.wer,
        "ci95": domain.score.ci95,
        "canary_base": canary.comparison.before,
        "canary": canary.score.wer,
        "canary_points": canary.comparison.difference,
        "normalizer": domain.normalizer,
        "train_seconds": trained.train_seconds,
        "job_seconds": trained.seconds,
        "steps": trained.steps,
        "best": trained.best.to_json(),
        "peak_memory_mb": trained.peak_memory_mb,
    }
    passed = all(figures[name] <= bound for name, bound in bounds.items())
    return {"passed": passed, "bounds": bounds, **figures}


def main() -> int:
    """Run both corpora and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=["an4", "alphanumeric"])
    parser.add_argument("--steps", type=int)
    parser.add_argument("--out", type=Path, help="keep the run folders here")
    options = parser.parse_args()
    if not SHARED.is_dir():
        print(f"skipped: the recordings are not here: {SHARED}", file=sys.stderr)
        return 3
    apply_environment_defaults()
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        out = options.out or Path(scratch)
        for name, corpus in (("an4", an4), ("alphanumeric", alphanumeric)):
            if options.only in (None, name):
                figures[name] = corpus(out / name, options.steps)
    print(json.dumps(figures))
    return 0 if all(item["passed"] for item in figures.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
