"""What the steps of a plan do: existing jobs with plain values in and figures as JSON data out."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from moonshine_tune.ablation.request import AblateRequest
from moonshine_tune.ablation.results import Bounds, choose
from moonshine_tune.ablation.run import run_ablation
from moonshine_tune.audio.io import change_tempo, load_utterance, write_audio
from moonshine_tune.audio.samples import SAMPLE_RATE_HZ, Samples
from moonshine_tune.config.resolve import ResolvedSettings
from moonshine_tune.core.errors import NegativeAnswerError, RequestError
from moonshine_tune.core.files import complete_folder
from moonshine_tune.core.progress import Progress
from moonshine_tune.corpus.manifest import Manifest, read_manifest, write_manifest
from moonshine_tune.corpus.normalizers import Normalizer, normalizer_for
from moonshine_tune.demo.data import make_demo_data
from moonshine_tune.doctor.run import FAILURE, WARNING, DoctorSettings, examine
from moonshine_tune.evaluation.evaluate import score_manifest
from moonshine_tune.evaluation.reload_check import check_reload
from moonshine_tune.evaluation.results import Evaluation, write_evaluation
from moonshine_tune.inference.transcribe import TorchTranscriber
from moonshine_tune.metrics.wer import compare_paired
from moonshine_tune.models.lora import adapter_disabled, find_adapter
from moonshine_tune.registry.open import OpenedModel, open_model
from moonshine_tune.runs.folder import RunFolder
from moonshine_tune.runtime.transcriber import RuntimeTranscriber
from moonshine_tune.training.run import train

Result = dict[str, Any]


class StoppedError(Exception):
    """A step was asked to stop and has saved where it is."""


def look_at_machine(model: str | None, out: Path, progress: Progress) -> Result:
    """`doctor`, without asking the network: a plan only needs what is here."""
    report = examine(DoctorSettings(model=model, offline=True, out=out), progress)
    told = [vars(check) for check in report.checks if check.status in (FAILURE, WARNING)]
    return {
        "can_train": report.can_train,
        "checks": len(report.checks),
        "failures": report.failures,
        "warnings": report.warnings,
        "told": told,
    }


def synthesize(counts: tuple[int, int, int], seed: int, out: Path, progress: Progress) -> Result:
    """Air-traffic speech and general speech, as the demonstration has it."""
    from moonshine_tune.core.hardware import cache_root
    from moonshine_tune.registry.wheel import fetch_wheel_assets

    data = make_demo_data(
        fetch_wheel_assets(cache_root(), progress), out, seed, progress, counts=counts
    )
    return {name: len(read_manifest(path, require_text=False)) for name, path in vars(data).items()}


def spread_subset(manifest: Path, count: int, out: Path) -> Result:
    """A manifest of `count` utterances, spread evenly over another one."""
    utterances = read_manifest(manifest).utterances
    if len(utterances) > count:
        last = len(utterances) - 1
        places = {round(k * last / max(count - 1, 1)) for k in range(count)}
        chosen = [utterances[place] for place in sorted(places)]
    else:
        chosen = list(utterances)
    write_manifest(out, chosen)
    return {"utterances": len(chosen), "of": len(utterances)}


def train_adapter(
    resolved: ResolvedSettings, out: Path, progress: Progress, *, resume: bool
) -> Result:
    """`train`, begun or gone on with.

    Raises:
        StoppedError: it was asked to stop.
    """
    resume = resume and RunFolder(out).record_path.is_file()
    if not resume and out.exists():
        shutil.rmtree(out)
    result = train(resolved, out, progress, resume=resume)
    if result.stopped == "interrupted":
        raise StoppedError
    lines = RunFolder(out).read_metrics()
    return {
        "stopped": result.stopped,
        "steps": result.steps,
        "skipped_steps": result.skipped_steps,
        "out_of_memory": sum(bool(line.get("out_of_memory")) for line in lines),
        "first_loss": round(result.first_loss, 4),
        "last_loss": round(result.last_loss, 4),
        "baseline": result.baseline.to_record(),
        "best": result.best.to_record(),
        "canary_held": result.canary_held,
        "train_seconds": round(result.train_seconds, 1),
        "peak_memory_mb": result.peak_memory_mb,
    }


def read_back(run: Path, model: str, manifest: Path, progress: Progress) -> Result:
    """Whether the adapter on disk says what the one in memory said, in the run's own numbers."""
    device = RunFolder.open(run).read_record()["settings"]["device"]
    opened = open_model(
        model,
        adapter=find_adapter(run),
        device=device["name"],
        dtype=device["dtype"],
        frozen_weights=device["frozen_weights"],
        progress=progress,
    )
    check = check_reload(run, opened, manifest, progress)
    return {"utterances": check.utterances, "same": check.same}


def score_torch(
    model: str,
    run: Path,
    sets: Mapping[str, Path],
    normalizer: str | None,
    out: Path,
    progress: Progress,
) -> Result:
    """Base and adapted through torch on each set; writes `out/SET-MODEL-torch`."""
    opened = open_model(model, adapter=find_adapter(run), dtype="float32", progress=progress)
    transcriber = TorchTranscriber(opened.model, opened.limits)

    def base(manifest: Manifest, normal: Normalizer, what: str) -> Evaluation:
        with adapter_disabled(opened.model):
            return score_manifest(
                transcriber, manifest, normal, progress, model=_name(opened), what=f"base, {what}"
            )

    def adapted(manifest: Manifest, normal: Normalizer, what: str) -> Evaluation:
        found = score_manifest(
            transcriber, manifest, normal, progress, model=_name(opened), what=f"adapted, {what}"
        )
        return replace(found, adapter=run.name)

    return _score_sets(sets, normalizer or None, "torch", (base, adapted), out)


def score_runtime(
    base_dir: Path | None,
    adapted_dir: Path,
    sets: Mapping[str, Path],
    normalizer: str | None,
    out: Path,
    progress: Progress,
) -> Result:
    """Base and adapted runtime files on each set; writes `out/SET-MODEL-runtime`."""

    def through(folder: Path, which: str) -> Callable[[Manifest, Normalizer, str], Evaluation]:
        def score(manifest: Manifest, normal: Normalizer, what: str) -> Evaluation:
            with RuntimeTranscriber(folder) as transcriber:
                return score_manifest(
                    transcriber, manifest, normal, progress,
                    model=folder.name, what=f"{which}, {what}",
                )  # fmt: skip

        return score

    before = through(base_dir, "base") if base_dir else None
    ways = (before, through(adapted_dir, "adapted"))
    return _score_sets(sets, normalizer or None, "runtime", ways, out)


_Way = Callable[[Manifest, Normalizer, str], Evaluation]


def _score_sets(
    sets: Mapping[str, Path],
    normalizer: str | None,
    backend: str,
    ways: tuple[_Way | None, _Way],
    out: Path,
) -> Result:
    found: Result = {}
    for name, path in sets.items():
        manifest = read_manifest(path)
        normal = normalizer_for(normalizer, manifest.utterances[0].language or "en")
        sides: dict[str, Evaluation] = {}
        for model, way in zip(("base", "adapted"), ways, strict=True):
            if way is not None:
                sides[model] = way(manifest, normal, name)
                write_evaluation(out / f"{name}-{model}-{backend}", sides[model])
        found[name] = {model: _brief(item) for model, item in sides.items()}
        if "base" in sides:
            comparison = compare_paired(sides["base"].scored, sides["adapted"].scored)
            found[name]["comparison"] = comparison.to_record()
        found["normalizer"] = normal.name
    return found


def _brief(evaluation: Evaluation) -> Result:
    return {**evaluation.score.to_record(), "utterances": evaluation.score.utterances}


def _name(opened: OpenedModel) -> str:
    return str(opened.base["name"])


def search(request: AblateRequest, progress: Progress) -> Result:
    """`ablate run`; goes on by itself where it was stopped.

    Raises:
        StoppedError: it was asked to stop.
    """
    result = run_ablation(request, progress)
    if result.stopped == "interrupted":
        raise StoppedError
    return {
        "trials": [
            {"number": t.number, "state": t.state, "params": dict(t.params),
             "figures": dict(t.figures)}
            for t in result.trials
        ],
        "best": result.best,
        "finished": result.counts.get("finished", 0),
    }  # fmt: skip


def choose_trial(folder: Path, max_canary: float | None, trials: list[Result]) -> Result:
    """`ablate choose`; a search without a choice within the bounds is a figure, not an error."""
    try:
        chosen = choose(folder, Bounds(max_canary=max_canary))
    except NegativeAnswerError as error:
        return {"number": None, "reasons": [error.message]}
    except RequestError:
        # No canary was measured: the bound cannot be asked of anything.
        chosen = choose(folder, Bounds())
    # A trial with the settings of an earlier one has no folder of its own.
    alike = [trial["number"] for trial in trials if trial["params"] == dict(chosen.params)]
    runs = [folder / "trials" / f"{number:04d}" for number in (chosen.number, *alike)]
    run = next((path for path in runs if (path / "adapter").is_dir()), None)
    return {
        "number": chosen.number,
        "params": dict(chosen.params),
        "figures": dict(chosen.figures),
        "reasons": list(chosen.reasons),
        "run": None if run is None else str(run.relative_to(folder)),
    }


def hear_conditions(
    model: str,
    run: Path,
    test: Path,
    conditions: tuple[str, ...],
    normalizer: str | None,
    out: Path,
    progress: Progress,
) -> Result:
    """Base and adapted on the test set as it is and as each condition changes it."""
    sets = {"as recorded": test}
    for name in conditions:
        folder = out / "audio" / name
        if not folder.exists():
            _change_set(test, name, folder, progress)
        sets[name] = folder / "manifest.jsonl"
    named = {name.replace(" ", "-"): path for name, path in sets.items()}
    return score_torch(model, run, named, normalizer, out / "eval", progress)


def _change_set(manifest: Path, condition: str, out: Path, progress: Progress) -> None:
    utterances = read_manifest(manifest).utterances
    changed = []
    with (
        complete_folder(out) as scratch,
        progress.stage(f"{condition}: recordings", len(utterances)) as stage,
    ):
        for place, utterance in enumerate(utterances):
            samples = change(load_utterance(utterance), condition, seed=place)
            path = scratch / f"{place:05d}.wav"
            write_audio(path, samples)
            changed.append(
                replace(
                    utterance, audio=path, start=None, end=None,
                    duration=len(samples) / SAMPLE_RATE_HZ,
                )
            )  # fmt: skip
            stage.advance()
        write_manifest(scratch / "manifest.jsonl", changed)


def change(samples: Samples, condition: str, *, seed: int) -> Samples:
    """A clip as it would sound under a condition of a plan; mono 16 kHz.

    Raises:
        RequestError: no condition is called so.
    """
    if condition in ("fast", "slow"):
        return change_tempo(samples, 1.15 if condition == "fast" else 0.87)
    if condition == "quiet":
        return np.asarray(samples * np.float32(0.1), dtype=np.float32)
    if condition.startswith("noise-"):
        decibels = float(condition.removeprefix("noise-").removesuffix("dB"))
        noise = np.random.default_rng(seed).standard_normal(len(samples)).astype(np.float32)
        level = float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))) or 1e-4)
        noisy = samples + noise * np.float32(level * 10 ** (-decibels / 20))
        return np.asarray(noisy / max(1.0, float(np.abs(noisy).max())), dtype=np.float32)
    if condition == "telephone":
        # 300 to 3400 Hz, as a line lets through.
        spectrum = np.fft.rfft(samples)
        hertz = np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE_HZ)
        spectrum[(hertz < 300) | (hertz > 3400)] = 0
        return np.asarray(np.fft.irfft(spectrum, len(samples)), dtype=np.float32)
    raise RequestError(f"no condition is called {condition!r}")
