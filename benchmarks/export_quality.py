"""What exporting costs in WER: torch, grafted files and traced files of one run, on one test set.

    python -m benchmarks.export_quality                 # trains on AN4 with the tiny preset first
    python -m benchmarks.export_quality --run runs/an4  # a run that is there already

Goals: the grafted files' WER in the runtime is within 0.5 points of torch's; the traced ones' (one
scale an output channel) is not worse than the grafted ones', by a paired 95 % interval. Both
exports pass the parity gate. Prints a table and one line of JSON; exit code 1 where a goal is
missed. Needs the recordings of `make acceptance`; says so without them.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.acceptance import SHARED
from moonshine_tune.cli.console import TerminalProgress
from moonshine_tune.config.resolve import read_preset, resolve_settings
from moonshine_tune.core.environment import apply_environment_defaults
from moonshine_tune.evaluation.evaluate import EvaluateRequest, evaluate
from moonshine_tune.evaluation.results import Evaluation
from moonshine_tune.export.run import ExportRequest, export
from moonshine_tune.metrics.wer import compare_paired
from moonshine_tune.training.run import train

_POINTS = 0.5


def trained_on_an4(out: Path) -> Path:
    """A run of the tiny preset on AN4's training set."""
    data = {"train": SHARED / "an4" / "train.jsonl",
            "canary": SHARED / "ljspeech" / "manifest.jsonl",
            "replay": SHARED / "replay_audio" / "manifest.jsonl"}  # fmt: skip
    named = {name: str(path) for name, path in data.items()}
    layers = [("preset tiny", read_preset("tiny")), ("benchmark", {"data": named})]
    return train(resolve_settings(layers), out, TerminalProgress()).run


def measure(run: Path, test: Path, base_runtime: Path | None, out: Path) -> dict[str, Any]:
    """Export both ways, score all three."""
    progress = TerminalProgress()
    # The base is scored elsewhere (`benchmarks.acceptance`).
    scores = {"torch": evaluate(EvaluateRequest(test, adapter=run, score_base=False),
                                out / "eval-torch", progress)}  # fmt: skip
    exports = {}
    for method in ("graft", "trace"):
        request = ExportRequest(run, method=method, base_runtime=base_runtime, manifest=test)
        folder = out / method
        exports[method] = export(request, folder, progress)
        scores[method] = evaluate(
            EvaluateRequest(test, backend="runtime", runtime_dir=folder), out / f"eval-{method}",
            progress,
        )  # fmt: skip
    return _figures(scores, {name: item.to_json() for name, item in exports.items()})


def _figures(scores: dict[str, Evaluation], exports: dict[str, Any]) -> dict[str, Any]:
    def points(before: str, after: str) -> dict[str, Any]:
        found = compare_paired(scores[before].scored, scores[after].scored)
        return {"points": round(found.difference, 3), "ci95": [round(x, 3) for x in found.ci95]}

    changes = {"graft - torch": points("torch", "graft"), "trace - torch": points("torch", "trace"),
               "trace - graft": points("graft", "trace")}  # fmt: skip
    goals = {
        f"grafted within {_POINTS:g} points of torch":
            abs(changes["graft - torch"]["points"]) <= _POINTS,
        "traced not worse than grafted": changes["trace - graft"]["points"] <= 0
            or changes["trace - graft"]["ci95"][0] <= 0,
        "both pass the parity gate": all(item["parity"]["passed"] for item in exports.values()),
    }  # fmt: skip
    return {
        "passed": all(goals.values()),
        "goals": goals,
        "wer": {name: {"wer": round(item.score.wer, 3), "ci95": item.score.ci95}
                for name, item in scores.items()},
        "changes": changes,
        "normalizer": scores["torch"].normalizer,
        "exports": {
            name: {"seconds": item["seconds"],
                   "word_difference": item["parity"]["word_difference"],
                   "identical": item["parity"]["identical"], "clips": item["parity"]["clips"],
                   "token_agreement": item["parity"]["tokens"]["agreement"],
                   "relative": {f"{g['graph']} {g['output']}": g["relative"]
                                for g in item["parity"]["graphs"]}}
            for name, item in exports.items()
        },
    }  # fmt: skip


def _table(figures: dict[str, Any]) -> str:
    lines = [f"{'model':8}{'WER %':>8}{'95 % interval':>18}"]
    for name, item in figures["wer"].items():
        low, high = item["ci95"]
        lines.append(f"{name:8}{item['wer']:8.2f}{f'{low:.2f}–{high:.2f}':>18}")
    for name, item in figures["changes"].items():
        low, high = item["ci95"]
        lines.append(f"{name}: {item['points']:+.2f} points [{low:+.2f}, {high:+.2f}]")
    lines += [f"{'met   ' if met else 'MISSED'}  {name}" for name, met in figures["goals"].items()]
    return "\n".join(lines)


def main() -> int:
    """Measure, print, answer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, help="run folder [default: train one on AN4]")
    parser.add_argument("--test", type=Path, help="manifest with texts [default: AN4's test set]")
    parser.add_argument("--base-runtime", type=Path, help="the base's runtime folder")
    parser.add_argument("--out", type=Path, help="keep run, exports and evaluations here")
    given = parser.parse_args()
    if not SHARED.is_dir() and not (given.run and given.test):
        print(f"skipped: the recordings are not here: {SHARED}", file=sys.stderr)
        return 3
    apply_environment_defaults()
    with tempfile.TemporaryDirectory() as scratch:
        out = given.out or Path(scratch)
        run = given.run or trained_on_an4(out / "run")
        test = given.test or SHARED / "an4" / "test.jsonl"
        figures = measure(run, test, given.base_runtime, out)
    print(_table(figures))
    print(json.dumps(figures))
    return 0 if figures["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
