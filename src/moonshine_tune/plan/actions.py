"""What the larger steps of a plan do: jobs of other packages, with their figures as JSON data."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from moonshine_tune.ablation.request import AblateRequest
from moonshine_tune.ablation.results import Bounds, choose
from moonshine_tune.ablation.run import run_ablation
from moonshine_tune.audio.io import load_utterance, write_audio
from moonshine_tune.audio.samples import SAMPLE_RATE_HZ
from moonshine_tune.config.resolve import ResolvedSettings
from moonshine_tune.core.errors import NegativeAnswerError, RequestError
from moonshine_tune.core.files import complete_folder
from moonshine_tune.core.progress import Progress
from moonshine_tune.core.statistics import evenly_spaced
from moonshine_tune.corpus.manifest import read_manifest, write_manifest
from moonshine_tune.demo.scores import compare_scores, score_sets
from moonshine_tune.evaluation.noise_conditions import synthetic_change
from moonshine_tune.evaluation.reload_check import check_reload
from moonshine_tune.inference.transcribe import TorchTranscriber
from moonshine_tune.models.lora import adapter_disabled, find_adapter
from moonshine_tune.registry.open import open_model
from moonshine_tune.runs.folder import RunFolder
from moonshine_tune.runtime.transcriber import RuntimeTranscriber
from moonshine_tune.training.run import train

Figures = dict[str, Any]
Sets = Mapping[str, Path]


class StoppedError(Exception):
    """A step was interrupted and has saved its state."""


def write_subset(manifest: Path, count: int, out: Path) -> Figures:
    """Write a manifest of `count` utterances, evenly spaced over another one."""
    utterances = read_manifest(manifest).utterances
    chosen = [utterances[index] for index in evenly_spaced(len(utterances), count)]
    write_manifest(out, chosen)
    return {"utterances": len(chosen), "of": len(utterances)}


def train_adapter(
    resolved: ResolvedSettings, out: Path, progress: Progress, *, resume: bool
) -> Figures:
    """`train`, started or resumed.

    Raises:
        StoppedError: it was interrupted.
    """
    run = RunFolder(out)
    resume = resume and run.record_path.is_file()
    if not resume and out.exists():
        shutil.rmtree(out)
    result = train(resolved, out, progress, resume=resume)
    if result.stopped == "interrupted":
        raise StoppedError
    return {
        "stopped": result.stopped,
        "out_of_memory": sum(bool(line.get("out_of_memory")) for line in run.read_metrics()),
        **run.read_record().result.to_json(),
    }


def read_back(run: Path, model: str, manifest: Path, progress: Progress) -> Figures:
    """Whether the adapter on disk gives the transcripts that it gave in memory."""
    device = RunFolder.open(run).read_record().settings["device"]
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
    sets: Sets,
    normalizer: str | None,
    out: Path,
    progress: Progress,
) -> Figures:
    """Score base and adapted model through torch; writes `out/SET-MODEL-torch`."""
    opened = open_model(model, adapter=find_adapter(run), dtype="float32", progress=progress)
    transcriber, name = TorchTranscriber(opened.model, opened.limits), str(opened.base["name"])
    score = partial(score_sets, transcriber, sets, normalizer, progress, model=name, out=out)
    with adapter_disabled(opened.model):
        base = score(side="base")
    return compare_scores({"base": base, "adapted": score(side="adapted", adapter=run.name)})


def score_runtime(
    base: Path | None,
    adapted: Path,
    sets: Sets,
    normalizer: str | None,
    out: Path,
    progress: Progress,
) -> Figures:
    """Score base and adapted runtime folder; writes `out/SET-MODEL-runtime`."""
    scores = {}
    for side, folder in (("base", base), ("adapted", adapted)):
        if folder is not None:
            with RuntimeTranscriber(folder) as transcriber:
                scores[side] = score_sets(
                    transcriber, sets, normalizer, progress, model=folder.name, side=side, out=out
                )
    return compare_scores(scores)


def search(request: AblateRequest, progress: Progress) -> Figures:
    """`ablate run`, which resumes by itself.

    Raises:
        StoppedError: it was interrupted.
    """
    result = run_ablation(request, progress)
    if result.stopped == "interrupted":
        raise StoppedError
    return {
        "trials": [{"number": t.number, "params": dict(t.params)} for t in result.trials],
        "best": result.best,
        "finished": result.counts.get("finished", 0),
    }


def choose_trial(folder: Path, max_canary: float | None, trials: list[Figures]) -> Figures:
    """Choose a trial; that none is within the bounds is a figure, not an error."""
    try:
        chosen = choose(folder, Bounds(max_canary=max_canary))
    except NegativeAnswerError as error:
        return {"number": None, "reasons": [error.message]}
    except RequestError:
        # No canary was measured, so there is nothing to bound.
        chosen = choose(folder, Bounds())
    params = dict(chosen.params)
    # A trial with the settings of an earlier one has no folder of its own.
    alike = [trial["number"] for trial in trials if trial["params"] == params]
    runs = [folder / "trials" / f"{number:04d}" for number in (chosen.number, *alike)]
    run = next((path for path in runs if (path / "adapter").is_dir()), None)
    return {
        "number": chosen.number,
        "params": params,
        "figures": dict(chosen.figures),
        "reasons": list(chosen.reasons),
        "run": None if run is None else str(run.relative_to(folder)),
    }


def score_conditions(
    model: str,
    run: Path,
    test: Path,
    conditions: Sequence[str],
    normalizer: str | None,
    out: Path,
    progress: Progress,
) -> Figures:
    """Score base and adapted model on the test set as recorded and under each condition."""
    sets = {"as-recorded": test}
    for name in conditions:
        sets[name] = out / "audio" / name / "manifest.jsonl"
        if not sets[name].exists():
            _write_condition(test, name, sets[name].parent, progress)
    return score_torch(model, run, sets, normalizer, out / "eval", progress)


def _write_condition(manifest: Path, condition: str, out: Path, progress: Progress) -> None:
    """Write a test set under a condition, so that the report plays what was transcribed."""
    utterances, change = read_manifest(manifest).utterances, synthetic_change(condition)
    changed = []
    with (
        complete_folder(out) as scratch,
        progress.stage(f"{condition}: recordings", len(utterances)) as stage,
    ):
        for index, utterance in enumerate(utterances):
            samples = change(utterance, load_utterance(utterance))
            path, seconds = scratch / f"{index:05d}.wav", len(samples) / SAMPLE_RATE_HZ
            write_audio(path, samples)
            changed.append(replace(utterance, audio=path, start=None, end=None, duration=seconds))
            stage.advance()
        write_manifest(scratch / "manifest.jsonl", changed)
