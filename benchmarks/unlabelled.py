"""Training on recordings without transcripts: AN4 with its texts hidden, clean and at 5 dB.

    python -m benchmarks.unlabelled an4 --out D [--seeds 0 1 2] [--arms base plain ours true]
        [--conditions clean noise] [--steps N] [--clips N] [--set k=v ...]

A tenth of the training speakers is dev, with its texts; the others are unlabelled. Arms: `base` is
not trained; `plain` learns all that the base writes, once; `ours` is `train --unlabelled`; `true`
learns the true texts. In noise, train, dev and test are mixed with the noises of `shared/data`.
Each arm scores the 130 test clips of its condition, and general speech. An arm that is done is read
and one that was stopped goes on. Prints a line of JSON for each arm, then one with the means over
the seeds; exit code 1 if `ours` has less than 20 % fewer errors than the base in noise.
"""

import argparse
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.acceptance import SHARED
from moonshine_tune.audio.effects import add_noise, loop_noise
from moonshine_tune.audio.io import load_utterance, write_audio
from moonshine_tune.audio.noise_bank import open_noise_bank
from moonshine_tune.cli.console import TerminalProgress
from moonshine_tune.config.resolve import (
    Layer,
    parse_assignments,
    read_preset,
    resolve_settings,
)
from moonshine_tune.core.environment import apply_environment_defaults
from moonshine_tune.core.errors import NegativeAnswerError
from moonshine_tune.core.files import complete_folder, write_json_atomic
from moonshine_tune.corpus.manifest import Utterance, read_manifest, write_manifest
from moonshine_tune.corpus.splits import evenly_chosen, split_utterances

ARMS = ("base", "plain", "ours", "true")
CONDITIONS = ("clean", "noise")
SNR_DB = 5.0
MIN_FEWER_ERRORS = 0.2
_CANARY = SHARED / "librispeech_other" / "manifest.jsonl"
_REPLAY = SHARED / "replay_audio" / "manifest.jsonl"


def make_data(out: Path, condition: str, clips: int | None) -> Path:
    """A folder with train, dev and test manifests, and `hidden.jsonl`: train without its texts."""
    folder = out / f"data-{condition}"
    if folder.is_dir():
        return folder
    parts = split_utterances(
        read_manifest(SHARED / "an4" / "train.jsonl").utterances, dev=0.1, test=0.0, seed=0
    )
    test = read_manifest(SHARED / "an4" / "test.jsonl").utterances
    sets = {"train": parts.train, "dev": parts.dev, "test": test}
    with complete_folder(folder) as scratch:
        for name, members in sets.items():
            chosen = members if clips is None else evenly_chosen(members, clips)
            kept = [replace(item, split=None) for item in chosen]
            if condition == "noise":
                kept = _mixed(kept, scratch / name, folder / name)
            write_manifest(scratch / f"{name}.jsonl", kept)
            if name == "train":
                hidden = [replace(item, text=None) for item in kept]
                write_manifest(scratch / "hidden.jsonl", hidden)
    return folder


def _mixed(clips: Sequence[Utterance], scratch: Path, final: Path) -> list[Utterance]:
    """Each clip in a noise of its own, drawn by its id."""
    noises = open_noise_bank(SHARED / "noise" / "manifest.jsonl", "noise").sounds
    scratch.mkdir()
    mixed = []
    for item in clips:
        rng = random.Random(item.id)
        noise = rng.choice(noises).load()
        samples = load_utterance(item)
        start = rng.randrange(len(noise))
        name = f"{item.id.replace('/', '_')}.flac"
        write_audio(
            scratch / name, add_noise(samples, loop_noise(noise, len(samples), start), SNR_DB)
        )
        mixed.append(replace(item, audio=final.absolute() / name, start=None, end=None))
    return mixed


def run_arm(arm: str, seed: int, folder: Path, out: Path, extra: Sequence[Layer]) -> dict[str, Any]:
    """Train and score one arm; what is done already is read."""
    record = out / "result.json"
    if record.is_file():
        return dict(json.loads(record.read_text(encoding="utf-8")))
    out.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Any] = {"arm": arm, "seed": seed, "condition": folder.name[len("data-") :]}
    is_trained = arm != "base"
    if is_trained:
        try:
            figures |= _trained(arm, seed, folder, out, extra)
        except NegativeAnswerError as error:
            figures["refused"], is_trained = error.message, False
    figures |= _scores(out, folder / "test.jsonl", out / "run" if is_trained else None)
    write_json_atomic(record, figures)
    return figures


def _trained(
    arm: str, seed: int, folder: Path, out: Path, extra: Sequence[Layer]
) -> dict[str, Any]:
    from moonshine_tune.config.resume import settings_as_run
    from moonshine_tune.runs.folder import RunFolder
    from moonshine_tune.training.run import train

    data = {"dev": str(folder / "dev.jsonl"), "replay": str(_REPLAY)}
    if arm == "true":
        data["train"] = str(folder / "train.jsonl")
    elif arm == "ours":
        data["unlabelled"] = str(folder / "hidden.jsonl")
    else:
        data["pseudo_labels"] = str(_plain_labels(folder))
    layers: list[Layer] = [
        ("preset tiny", read_preset("tiny")),
        ("arm", {"data": data, "train": {"seed": seed}}),
        *extra,
    ]
    run = out / "run"
    resume = (run / "run.json").is_file()
    if resume:
        layers.insert(0, ("run.json", settings_as_run(RunFolder(run).read_record().settings)))
        layers = [layer for layer in layers if layer[0] != "arm"]
    result = train(resolve_settings(layers), run, TerminalProgress(), resume=resume)
    if result.stopped == "interrupted":
        raise KeyboardInterrupt
    return {
        "dev_wer": [result.baseline.dev_wer, result.best.dev_wer],
        "verdict": result.verdict,
        "gain": result.gain.to_json() if result.gain else None,
        "labels": result.pseudo_labels.to_json() if result.pseudo_labels else None,
        "rounds": [item.to_json() for item in result.rounds],
        "job_seconds": result.seconds,
    }


def _plain_labels(folder: Path) -> Path:
    """A manifest with all that the base writes, without a filter."""
    path = folder / "plain.jsonl"
    if path.is_file():
        return path
    from moonshine_tune.inference.base_transcripts import base_transcripts
    from moonshine_tune.inference.dataset import build_dataset
    from moonshine_tune.registry.open import open_model

    progress = TerminalProgress()
    opened = open_model("tiny", progress=progress)
    clips = read_manifest(folder / "hidden.jsonl", require_text=False).utterances
    dataset = build_dataset(clips, opened.model, name="train", max_clip_s=30.0, needs_text=False)
    texts = base_transcripts(dataset, opened, progress, "labeling")
    pairs = zip(dataset.utterances, texts, strict=True)
    write_manifest(path, [item.with_text(text) for item, text in pairs if text])
    return path


def _scores(out: Path, test: Path, adapter: Path | None) -> dict[str, Any]:
    from moonshine_tune.evaluation.evaluate import EvaluateRequest, evaluate

    figures: dict[str, Any] = {}
    for name, manifest in (("test", test), ("canary", _CANARY)):
        model = "tiny" if adapter is None else None
        request = EvaluateRequest(manifest, model=model, adapter=adapter)
        result = evaluate(request, out / name, TerminalProgress())
        change = result.comparison
        figures[name] = {
            "wer": result.score.wer,
            "ci95": result.score.ci95,
            "base_wer": change.before if change else result.score.wer,
            "points": change.difference if change else 0.0,
            "points_ci95": change.ci95 if change else None,
            "normalizer": result.normalizer,
        }
    return figures


def summary(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means and values of the seeds, by condition and arm; `passed` where noise was scored."""
    figures: dict[str, Any] = {}
    for condition in CONDITIONS:
        for arm in ARMS:
            own = [r for r in results if (r["condition"], r["arm"]) == (condition, arm)]
            if own:
                wers = [round(r["test"]["wer"], 2) for r in own]
                base = mean(r["test"]["base_wer"] for r in own)
                figures[f"{condition}/{arm}"] = {
                    "wer": round(mean(wers), 2),
                    "of_seeds": wers,
                    "fewer_errors": round(1 - mean(wers) / base, 3) if base else None,
                    "canary_points": round(mean(r["canary"]["points"] for r in own), 2),
                    "kept": [r["labels"]["kept"] for r in own if r.get("labels")],
                    "verdicts": [r.get("refused") or r.get("verdict", "") for r in own],
                }
    ours = figures.get("noise/ours")
    passed = ours is None or (ours["fewer_errors"] or 0.0) >= MIN_FEWER_ERRORS
    return {"arms": figures, "passed": passed}


def main() -> int:
    """Run what is asked for and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["an4"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--conditions", nargs="+", choices=CONDITIONS, default=list(CONDITIONS))
    parser.add_argument("--steps", type=int, help="training steps [default: of the preset]")
    parser.add_argument("--clips", type=int, help="clips of each set [default: all]")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    if not SHARED.is_dir():
        print(f"skipped: the recordings are not here: {SHARED}", file=sys.stderr)
        return 3
    apply_environment_defaults()
    extra: list[Layer] = [("--set", parse_assignments(options.set))] if options.set else []
    if options.steps is not None:
        short = {"train": {"steps": options.steps}, "select": {"every_steps": options.steps}}
        extra.append(("--steps", short))
    results = []
    for condition in options.conditions:
        folder = make_data(options.out, condition, options.clips)
        for arm in options.arms:
            # The base has no seed.
            for seed in options.seeds[:1] if arm == "base" else options.seeds:
                name = f"{condition}-{arm}-{seed}"
                results.append(run_arm(arm, seed, folder, options.out / name, extra))
                print(json.dumps(results[-1]), flush=True)
    figures = summary(results)
    print(json.dumps(figures))
    return 0 if figures["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
