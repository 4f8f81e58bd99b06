"""One voice with nine sentences: from the base, and from an adapter for the accent.

    python -m benchmarks.own_voice --out D [--accent RUN] [--speakers 12] [--set k=v ...]

Each of the twelve test speakers of `accent` alone learns nine sentences with the settings of a bare
`train`, and is scored on the five others: after training from the base (`alone`), and after going
on from an adapter for the accent (`from accent`, with `--from`). That adapter is trained first on
the twenty training speakers, as `benchmarks.robustness recipe --corpus accent` does it, or named.
Errors are counted over all sixty sentences. A run that
is there is not made again. Prints one line of JSON at the end; exit code 1 if a goal is missed:
fewer errors than the system before, and not one voice that `train` calls better and is worse.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.acceptance import SHARED
from benchmarks.robustness import train_and_score
from moonshine_tune.cli.console import TerminalProgress
from moonshine_tune.config.resolve import Layer, parse_assignments, resolve_settings
from moonshine_tune.core.environment import apply_environment_defaults
from moonshine_tune.core.files import write_json_atomic
from moonshine_tune.corpus.manifest import Utterance, read_manifest, write_manifest
from moonshine_tune.registry.model_preset import with_model_preset
from moonshine_tune.runs.parent import with_parent

LEARNED = 9
ARMS = ("alone", "from accent")


def voices(limit: int) -> dict[str, list[Utterance]]:
    """The sentences of each test speaker, in the order of the manifest."""
    by_speaker: dict[str, list[Utterance]] = {}
    for item in read_manifest(SHARED / "accent" / "test.jsonl").utterances:
        by_speaker.setdefault(item.speaker or "", []).append(item)
    return dict(list(by_speaker.items())[:limit])


def learn(
    arm: str, own: Sequence[Utterance], accent: Path, out: Path, extra: Sequence[Layer]
) -> dict[str, Any]:
    """Train one voice and score what it has not learned; what was done before is read."""
    record = out / "result.json"
    if record.is_file():
        return dict(json.loads(record.read_text(encoding="utf-8")))
    from moonshine_tune.evaluation.evaluate import EvaluateRequest, evaluate
    from moonshine_tune.training.run import train

    out.mkdir(parents=True, exist_ok=True)
    train_path, test = out / "train.jsonl", out / "test.jsonl"
    write_manifest(train_path, own[:LEARNED])
    write_manifest(test, own[LEARNED:])
    content: dict[str, Any] = {"data": {"train": str(train_path)}}
    if arm != ARMS[0]:
        content["adapter"] = {"parent": str(accent)}
    layers = with_model_preset(with_parent([("own voice", content), *extra]))
    run, progress = out / "run", TerminalProgress()
    trained = train(resolve_settings(layers), run, progress, resume=run.exists())
    if trained.stopped == "interrupted":
        raise KeyboardInterrupt
    scored = evaluate(EvaluateRequest(test, adapter=run), out / "test", progress)
    errors = {item.side: item.evaluation.score.words.errors for item in scored.systems}
    figures = {
        "errors": errors,
        "words": scored.score.words.reference,
        "verdict": trained.verdict,
        "steps": trained.steps,
        "best": trained.best.to_json(),
        "baseline": trained.baseline.to_json(),
        "seconds": trained.seconds,
    }
    write_json_atomic(record, figures)
    return figures


def totals(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The errors of all voices together, and the voices that got worse."""
    before = "parent" if any("parent" in item["errors"] for item in results.values()) else "base"
    words = sum(item["words"] for item in results.values())
    sums = {
        side: sum(item["errors"][side] for item in results.values())
        for side in dict.fromkeys(side for item in results.values() for side in item["errors"])
    }
    worse = {
        name: item["verdict"]
        for name, item in results.items()
        if item["errors"]["adapted"] > item["errors"][before]
    }
    return {
        "words": words,
        "errors": sums,
        "wer": {side: 100 * errors / words for side, errors in sums.items()},
        "worse": worse,
        "verdicts": {name: item["verdict"] for name, item in results.items()},
        "is_met": sums["adapted"] < sums[before] and "better" not in worse.values(),
    }


def main() -> int:
    """Run both arms for each voice, and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--accent", type=Path, help="run of an accent adapter; trained if left out")
    parser.add_argument("--speakers", type=int, default=12)
    parser.add_argument("--set", action="append", default=[], dest="assignments")
    arguments = parser.parse_args()
    extra = [("--set", parse_assignments(arguments.assignments))]
    accent = arguments.accent
    if accent is None:
        train_and_score("accent", 0, arguments.out / "accent", extra)
        accent = arguments.out / "accent" / "run"
    results: dict[str, dict[str, Any]] = {arm: {} for arm in ARMS}
    for name, own in voices(arguments.speakers).items():
        for arm in ARMS:
            folder = arguments.out / arm.replace(" ", "-") / name
            results[arm][name] = learn(arm, own, accent, folder, extra)
    figures = {arm: totals(by_speaker) for arm, by_speaker in results.items()}
    write_json_atomic(arguments.out / "own_voice.json", figures)
    print(json.dumps(figures))
    return 0 if all(item["is_met"] for item in figures.values()) else 1


if __name__ == "__main__":
    apply_environment_defaults()
    sys.exit(main())
