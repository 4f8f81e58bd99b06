"""Robust in the domain, on real speech: forgetting, a second domain, noise that was never heard.

    python -m benchmarks.robustness recipe --out D [--corpus an4] [--seeds 0 1 2] [--set k=v ...]
    python -m benchmarks.robustness plain --out D [--corpus an4] [--seeds 0 1 2]
    python -m benchmarks.robustness noise --out D [--set k=v ...]
    python -m benchmarks.robustness arms --out D [--arms NAME ...]
    python -m benchmarks.robustness replay --out D [--corpus an4 accent] [--seeds 0 1 2]
    python -m benchmarks.robustness show --out D

`recipe` trains with the defaults and the untranscribed replay audio as the only general speech, and
scores the corpus's test and LibriSpeech test-other, in torch and as exported in the runtime: two
corpora whose words differ, two whose voices do. `--set adapter.kind=full` is full fine-tuning.
`plain` does the same with a plain loop of PEFT on all linear layers. `noise` trains AN4 once more
with augmentation, encoder included, and scores both adapters on the test in noises that neither has
heard. `arms`
trains AN4 with a hundred steps, one way of keeping general speech or of ordering the clips against
the other. `replay` trains with each source of general speech: nothing, `auto`, the recordings of
moonshine-voice alone, and the untranscribed replay audio. Each run is a folder of D and is not made
again when it is there; a killed one goes on.
Prints one line of JSON at the end; exit code 1 if a goal is missed.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.acceptance import SHARED, alphanumeric_parts
from moonshine_tune.cli.console import TerminalProgress
from moonshine_tune.config.resolve import parse_assignments, read_preset, resolve_settings
from moonshine_tune.core.environment import apply_environment_defaults
from moonshine_tune.core.files import write_json_atomic
from moonshine_tune.core.hardware import cache_root
from moonshine_tune.corpus.manifest import read_manifest, write_manifest
from moonshine_tune.registry.wheel import wheel_recordings

CORPORA = ("an4", "alphanumeric", "accent", "children")
# Highest test WER that is aimed at, of the mean over the seeds.
GOALS = {"an4": 1.0, "alphanumeric": 10.0, "accent": 16.5, "children": 26.5}
# Points of canary, and points of test WER between torch and the runtime.
MAX_CANARY_POINTS = 0.3
MAX_RUNTIME_POINTS = 0.5
MAX_TRAIN_SECONDS = 600.0
# Whole recordings: all pieces of the kitchen are one, so none of them is trained on.
HELD_OUT = ("boat", "coffee_shop", "rain", "train", "kitchen", "noise2", "noise4")
SNRS_DB = (20.0, 10.0, 5.0, 0.0)
_SPREAD = ("wer", "canary_points", "runtime_wer", "runtime_canary", "job_seconds")
_LJSPEECH = str(SHARED / "ljspeech" / "manifest.jsonl")
# What each arm changes of the preset; all with a hundred steps and no mean of adapters.
ARMS: dict[str, dict[str, Any]] = {
    "preset": {},
    "nothing": {"retain": {"weight": 0.0}},
    "weaker pull": {"retain": {"weight": 1.0, "clips_per_step": 4}},
    "domain pull": {"retain": {"weight": 0.0, "domain_weight": 1.0}},
    "both pulls": {"retain": {"domain_weight": 0.3}},
    "transcripts": {"data": {"replay": _LJSPEECH}, "retain": {"targets": "transcripts"}},
    "teacher on the same": {"data": {"replay": _LJSPEECH}},
    "mean of three": {"select": {"average_last": 3}},
    "rsLoRA": {"adapter": {"rslora": True}},
    "DoRA": {"adapter": {"dora": True}},
    "LoRA+": {"train": {"lora_plus_ratio": 8.0}},
    "easy first": {"train": {"easy_first": 0.5}},
    "short first": {"train": {"stages": [{"steps": 50, "max_clip_s": 3.0},
                                         {"steps": 50, "max_clip_s": 30.0}]}},
    "balanced speakers": {"train": {"speaker_balance": 1.0}},
}  # fmt: skip
_ARM = {"train": {"steps": 100}, "select": {"every_steps": 25, "average_last": 0},
        "retain": {"strengths": [1.0]}}  # fmt: skip
# What `data.replay` is: see `_replayed`.
REPLAY_ARMS = ("none", "auto", "wheel", "replay_audio")
# The encoder learns too: what noise does to its states a decoder alone cannot undo.
AUGMENTED: dict[str, dict[str, Any]] = {
    "adapter": {"sites": "all"},
    "augment": {"share": 0.5, "noise_chance": 1.0, "room_chance": 0.0},
}


def train_and_score(
    corpus: str, seed: int, out: Path, extra: Sequence[tuple[str, dict[str, Any]]]
) -> dict[str, Any]:
    """Train on a corpus and score its test and the canary; what was done before is read."""
    record = out / "result.json"
    if record.is_file():
        return dict(json.loads(record.read_text(encoding="utf-8")))
    from moonshine_tune.training.run import train

    out.mkdir(parents=True, exist_ok=True)
    data, test = _data(corpus, out)
    layers = [
        ("preset tiny", read_preset("tiny")),
        ("robustness", {"data": data, "train": {"seed": seed}}),
        *extra,
    ]
    run = out / "run"
    trained = train(resolve_settings(layers), run, TerminalProgress(), resume=run.exists())
    if trained.stopped == "interrupted":
        raise KeyboardInterrupt
    figures = {
        "corpus": corpus,
        "seed": seed,
        **_scores(run, test, out),
        "best": trained.best.to_json(),
        "baseline": trained.baseline.to_json(),
        "job_seconds": trained.seconds,
        "train_seconds": trained.train_seconds,
        "peak_memory_mb": trained.peak_memory_mb,
    }
    write_json_atomic(record, figures)
    return figures


def plain_and_score(corpus: str, seed: int, out: Path) -> dict[str, Any]:
    """The plain loop of PEFT on a corpus, in a process of its own, scored in the same way."""
    record = out / "result.json"
    if record.is_file():
        return dict(json.loads(record.read_text(encoding="utf-8")))
    from moonshine_tune.registry.resolve import resolve_model

    out.mkdir(parents=True, exist_ok=True)
    data, test = _data(corpus, out)
    tiny = resolve_model("tiny", cache=cache_root(), progress=TerminalProgress())
    adapter = out / "adapter"
    command = [sys.executable, "-m", "benchmarks.peers.plain_peft", str(tiny.checkpoint_dir),
               data["train"], "--steps", "200", "--sites", "all", "--seed", str(seed),
               "--out", str(adapter)]  # fmt: skip
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    peer = json.loads(done.stdout.splitlines()[-1])
    figures = {
        "corpus": corpus,
        "seed": seed,
        **_scores(adapter, test, out),
        "job_seconds": peer["loop_seconds"],
    }
    write_json_atomic(record, figures)
    return figures


def _scores(adapter: Path, test: Path, out: Path) -> dict[str, Any]:
    """Test and canary of an adapter against the base, in torch and in the runtime."""
    from moonshine_tune.evaluation.evaluate import EvaluateRequest, evaluate
    from moonshine_tune.export.run import ExportRequest, export

    progress = TerminalProgress()
    canary_manifest = SHARED / "librispeech_other" / "manifest.jsonl"
    domain = evaluate(EvaluateRequest(test, adapter=adapter), out / "test", progress)
    canary = evaluate(EvaluateRequest(canary_manifest, adapter=adapter), out / "canary", progress)
    runtime = out / "runtime"
    if not runtime.is_dir():
        export(ExportRequest(adapter, manifest=canary_manifest), runtime, progress)
    files: dict[str, Any] = {"backend": "runtime", "runtime_dir": runtime}
    shipped = evaluate(EvaluateRequest(test, **files), out / "test-runtime", progress)
    general = evaluate(EvaluateRequest(canary_manifest, **files), out / "canary-runtime", progress)
    assert domain.comparison and canary.comparison
    return {
        "base_wer": domain.comparison.before,
        "wer": domain.score.wer,
        "errors": domain.score.words.errors,
        "ci95": domain.score.ci95,
        "wrong_utterances": sum(item.words.errors > 0 for item in domain.scored),
        "utterances": domain.score.utterances,
        "canary_base": canary.comparison.before,
        "canary": canary.score.wer,
        "canary_points": canary.comparison.difference,
        "canary_ci95": canary.comparison.ci95,
        "runtime_wer": shipped.score.wer,
        "runtime_points": shipped.score.wer - domain.score.wer,
        "runtime_canary": general.score.wer,
        "normalizer": domain.normalizer,
    }


def _data(corpus: str, out: Path) -> tuple[dict[str, str], Path]:
    """Manifests to train on, and the test. No transcribed general speech among them."""
    replay = {"replay": str(SHARED / "replay_audio" / "manifest.jsonl")}
    folder = SHARED / corpus
    if corpus == "alphanumeric":
        parts = alphanumeric_parts(out)
        return {name: str(parts[name]) for name in ("train", "dev")} | replay, parts["test"]
    names = [name for name in ("train", "dev") if (folder / f"{name}.jsonl").is_file()]
    return {name: str(folder / f"{name}.jsonl") for name in names} | replay, folder / "test.jsonl"


def split_noises(out: Path) -> tuple[Path, Path]:
    """Manifests of the noises to train with and of those held out, by recording."""
    manifest = read_manifest(SHARED / "noise" / "manifest.jsonl", require_text=False)
    held = [item for item in manifest.utterances if _name(item.id).startswith(HELD_OUT)]
    heard = [item for item in manifest.utterances if item not in held]
    paths = (out / "noise-train.jsonl", out / "noise-held-out.jsonl")
    for path, items in zip(paths, (heard, held), strict=True):
        # One kind: one row of the grid, in which each utterance gets a noise of its own.
        kind = {"category": "held-out" if items is held else "heard"}
        write_manifest(path, [replace(item, extra={**item.extra, **kind}) for item in items])
    return paths


def _name(identity: str) -> str:
    return identity.rpartition("/")[2]


def noise(out: Path, extra: Sequence[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """The augmented adapter against the clean one of the same recipe and seed."""
    record = out / "noise.json"
    if record.is_file():
        return dict(json.loads(record.read_text(encoding="utf-8")))
    out.mkdir(parents=True, exist_ok=True)
    heard, held = split_noises(out)
    clean = train_and_score("an4", 0, out / "an4-0", ())
    augment = {**AUGMENTED["augment"], "noise": str(heard)}
    layers = [("noise", AUGMENTED | {"augment": augment}), *extra]
    augmented = train_and_score("an4", 0, out / "an4-augmented", layers)
    arms = {name: _in_noise(out / f"an4-{name}", held) for name in ("0", "augmented")}
    rows = [_row(*pair) for pair in zip(arms["0"], arms["augmented"], strict=True)]
    at_five = next(row for row in rows if row["snr_db"] == 5.0)
    figures = {
        "clean_adapter": clean,
        "augmented_adapter": augmented,
        "conditions": rows,
        "relative_gain_at_5_db": 1 - at_five["augmented"] / at_five["clean"],
        "lost_on_clean_points": rows[0]["augmented"] - rows[0]["clean"],
    }
    write_json_atomic(record, figures)
    return figures


def _in_noise(arm: Path, noises: Path) -> Sequence[Any]:
    from moonshine_tune.evaluation.evaluate import EvaluateRequest, evaluate
    from moonshine_tune.evaluation.noise_conditions import ConditionsRequest

    request = EvaluateRequest(
        SHARED / "an4" / "test.jsonl",
        adapter=arm / "run",
        score_base=False,
        conditions=ConditionsRequest(noises, snrs_db=SNRS_DB),
    )
    return evaluate(request, arm / "noise", TerminalProgress()).conditions


def _row(clean: Any, augmented: Any) -> dict[str, Any]:
    from moonshine_tune.metrics.wer import compare_paired

    pair = compare_paired(clean.scored, augmented.scored)
    return {
        **clean.condition.to_record(),
        "clean": clean.score.wer,
        "augmented": augmented.score.wer,
        "difference": pair.difference,
        "ci95": pair.ci95,
        "verdict": pair.verdict,
    }


def arms(out: Path, names: Sequence[str]) -> None:
    """One short run of each arm."""
    for name in names:
        layers = [("arms", _ARM), (f"arm {name}", ARMS[name])]
        train_and_score("an4", 0, out / "arms" / name.replace(" ", "-"), layers)


def replay(out: Path, corpora: Sequence[str], seeds: Sequence[int]) -> None:
    """A run of each corpus and seed with each source of general speech."""
    for corpus in corpora:
        for arm in REPLAY_ARMS:
            for seed in seeds:
                folder = out / "replay" / f"{corpus}-{arm}-{seed}"
                layers = [(f"replay {arm}", {"data": {"replay": _replayed(arm, out)}})]
                train_and_score(corpus, seed, folder, layers)


def _replayed(arm: str, out: Path) -> str:
    """The value of `data.replay`."""
    if arm == "replay_audio":
        return str(SHARED / "replay_audio" / "manifest.jsonl")
    if arm != "wheel":
        return arm
    folder = out / "replay" / "wheel"
    folder.mkdir(parents=True, exist_ok=True)
    for recording in wheel_recordings(cache_root()):
        link = folder / recording.name
        if not link.exists():
            link.symlink_to(recording)
    return str(folder)


def _replay_figures(out: Path) -> dict[str, Any]:
    """Test WER, points of canary, strength and drift by corpus and source, over the seeds."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(out.glob("replay/*-*-*/result.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        groups.setdefault(path.parent.name.rpartition("-")[0], []).append(run)
    figures: dict[str, Any] = {}
    for name, runs in groups.items():
        drifts = [run["best"].get("drift") for run in runs]
        figures[name] = {
            "seeds": [run["seed"] for run in runs],
            "base_wer": runs[0]["base_wer"],
            **{key: _spread(runs, key) for key in _SPREAD},
            "strengths": [run["best"]["strength"] for run in runs],
            "drifts": [None if drift is None else round(drift, 4) for drift in drifts],
        }
    return figures


def summary(out: Path) -> dict[str, Any]:
    """All that is in the folder, with the goals that are met and missed."""
    figures: dict[str, Any] = {}
    goals: list[dict[str, Any]] = []
    for corpus in CORPORA:
        runs, plain = _results(out, corpus), _results(out, f"plain-{corpus}")
        for name, results in ((corpus, runs), (f"plain-{corpus}", plain)):
            if results:
                figures[name] = {
                    "seeds": [run["seed"] for run in results],
                    "base_wer": results[0]["base_wer"],
                    "canary_base": results[0]["canary_base"],
                    **{key: _spread(results, key) for key in _SPREAD},
                    "canary_ci95": [run["canary_ci95"] for run in results],
                    "wrong_utterances": [run["wrong_utterances"] for run in results],
                }
        if runs:
            goals += _goals(corpus, figures[corpus], figures.get(f"plain-{corpus}"))
            slowest = max(run["job_seconds"] for run in runs)
            goals.append(_goal(f"{corpus}: seconds of the job", slowest, MAX_TRAIN_SECONDS))
    if (out / "noise.json").is_file():
        found = json.loads((out / "noise.json").read_text(encoding="utf-8"))
        figures["noise"] = {
            name: found[name]
            for name in ("conditions", "relative_gain_at_5_db", "lost_on_clean_points")
        }
        gain = -found["relative_gain_at_5_db"]
        goals.append(_goal("noise: relative change at 5 dB", gain, -0.2))
        lost = found["lost_on_clean_points"]
        goals.append(_goal("noise: points lost on clean speech", lost, 0.3))
    if sources := _replay_figures(out):
        figures["replay"] = sources
    compared = sorted(out.glob("arms/*/result.json"))
    if compared:
        read = {path.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in compared}
        figures["arms"] = {
            name: {key: round(run[key], 2) for key in ("wer", "canary_points", "train_seconds")}
            for name, run in read.items()
        }
    return {**figures, "goals": goals, "passed": all(goal["passed"] for goal in goals)}


def _results(out: Path, name: str) -> list[dict[str, Any]]:
    paths = sorted(out.glob(f"{name}-[0-9]*/result.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def _goals(
    corpus: str, found: dict[str, Any], plain: dict[str, Any] | None
) -> list[dict[str, Any]]:
    wer, runtime = found["wer"]["mean"], found["runtime_wer"]["mean"]
    goals = [
        _goal(f"{corpus}: WER", wer, GOALS[corpus]),
        _goal(f"{corpus}: WER in the runtime", runtime, wer + MAX_RUNTIME_POINTS),
        _goal(f"{corpus}: canary points", found["canary_points"]["mean"], MAX_CANARY_POINTS),
    ]
    if plain is not None:
        goals.append(_goal(f"{corpus}: WER, plain PEFT's", wer, plain["wer"]["mean"]))
        theirs = plain["runtime_wer"]["mean"]
        goals.append(_goal(f"{corpus}: WER in the runtime, plain PEFT's", runtime, theirs))
    return goals


def _spread(runs: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    values = [round(run[name], 3) for run in runs]
    return {"mean": round(mean(values), 3), "of_seeds": values}


def _goal(name: str, figure: float, bound: float) -> dict[str, Any]:
    return {"name": name, "figure": round(figure, 3), "bound": bound, "passed": figure <= bound}


def main() -> int:
    """Run what is asked for and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["recipe", "plain", "noise", "arms", "replay", "show"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--corpus", nargs="+", choices=CORPORA, default=list(CORPORA))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    if not SHARED.is_dir():
        print(f"skipped: the recordings are not here: {SHARED}", file=sys.stderr)
        return 3
    apply_environment_defaults()
    extra = [("--set", parse_assignments(options.set))] if options.set else []
    if options.what == "recipe":
        for corpus in options.corpus:
            for seed in options.seeds:
                train_and_score(corpus, seed, options.out / f"{corpus}-{seed}", extra)
    elif options.what == "plain":
        for corpus in options.corpus:
            for seed in options.seeds:
                plain_and_score(corpus, seed, options.out / f"plain-{corpus}-{seed}")
    elif options.what == "noise":
        noise(options.out, extra)
    elif options.what == "arms":
        arms(options.out, options.arms)
    elif options.what == "replay":
        replay(options.out, options.corpus, options.seeds)
    figures = summary(options.out)
    for goal in figures["goals"]:
        print(f"{goal['name']}: {goal['figure']:g} of at most {goal['bound']:g}: "
              f"{'met' if goal['passed'] else 'MISSED'}", file=sys.stderr)  # fmt: skip
    print(json.dumps(figures))
    return 0 if figures["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
