"""Results of a search: its table, the Pareto front, what mattered, and a choice with a reason."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from moonshine_tune.ablation.folder import OBJECTIVES, Ablation, open_ablation
from moonshine_tune.ablation.latency import measure_latency
from moonshine_tune.ablation.run import shown_figures
from moonshine_tune.ablation.study import AblationStudy, TrialSummary, storage_errors
from moonshine_tune.config.resolve import PATH_SETTINGS
from moonshine_tune.config.settings import REPLAY_WORDS
from moonshine_tune.core.errors import NegativeAnswerError, RequestError
from moonshine_tune.core.files import write_text_atomic
from moonshine_tune.core.locks import is_anyone_working
from moonshine_tune.core.nested import flatten, unflatten
from moonshine_tune.core.progress import Progress, SilentProgress
from moonshine_tune.core.text import quoted
from moonshine_tune.metrics.wer import PairedComparison, compare_paired
from moonshine_tune.runs.folder import RunFolder
from moonshine_tune.runs.records import rank_trials
from moonshine_tune.runs.summary import SEARCH_LOCK, read_scored
from moonshine_tune.training.selection import SelectionRule

SETTINGS_FILE = "chosen.yaml"
_UNITS = {"canary_loss": "points of canary WER", "train_seconds": "s of training",
          "adapter_mb": "MB of adapter", "latency": "times the base's latency"}  # fmt: skip
_TOLERANCE = SelectionRule.dev_tolerance


@dataclass(frozen=True)
class AblationView:
    """A search as it is now.

    Attributes:
        dimensions: names of what varies, in the order of the space.
        objectives: what the front is drawn over.
        front: numbers of the finished trials that no other trial beats in everything.
        best: number of the trial with the lowest dev WER that holds the canary.
        start: number of the trial with the starting settings, where there is one.
        importances: for each objective, how much of its spread each dimension explains.
    """

    path: Path
    dimensions: tuple[str, ...]
    trials: tuple[TrialSummary, ...]
    objectives: tuple[str, ...]
    front: tuple[int, ...]
    best: int | None
    start: int | None
    importances: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Bounds:
    """Limits of the choice; None for no limit.

    Attributes:
        max_canary: points of WER that the canary may lose; None: the bound of the settings.
        max_seconds: seconds of training.
        max_adapter_mb: size of the adapter.
        max_latency: latency of the exported files over the base's; where a trial has not measured
            it, it is measured for the choice.
    """

    max_canary: float | None = None
    max_seconds: float | None = None
    max_adapter_mb: float | None = None
    max_latency: float | None = None


@dataclass(frozen=True)
class Chosen:
    """The choice, why, and the settings file that trains it again."""

    number: int
    params: Mapping[str, Any]
    figures: Mapping[str, Any]
    reasons: tuple[str, ...]
    against_start: PairedComparison | None
    settings_file: Path


def show_ablation(
    path: Path, *, storage: str | None = None, objectives: Sequence[str] = ()
) -> AblationView:
    """Read a search, running or ended.

    Args:
        storage: database URL, where the recorded one is not enough.
        objectives: what the front is drawn over; none: what the search minimized, and the canary.

    Raises:
        RequestError: not an ablation, or an objective that is not known.
        MachineError: the database cannot be used.
    """
    ablation = open_ablation(path)
    for name in objectives:
        if name not in OBJECTIVES:
            raise RequestError(
                f"no objective is called {name!r}", hint=f"one of: {', '.join(OBJECTIVES)}"
            )
    url = ablation.database_url(storage)
    with storage_errors(url):
        study = AblationStudy(ablation, url)
        try:
            trials = study.records()
            if not ablation.is_shared and not is_anyone_working(path / SEARCH_LOCK):
                trials = tuple(
                    replace(trial, state="stopped") if trial.state == "running" else trial
                    for trial in trials
                )
            if not objectives:
                has_canary = any(t.figures.get("canary_loss") is not None for t in trials)
                second = "canary_loss" if has_canary else "train_seconds"
                objectives = tuple(dict.fromkeys((*ablation.record.objectives, second)))
            importances = {name: study.importances(name) for name in objectives}
        finally:
            study.close()
    done = [trial for trial in trials if trial.state == "finished"]
    start = [trial for trial in done if trial.params == ablation.starting_point]
    return AblationView(
        path=path,
        dimensions=tuple(item.name for item in ablation.space.dimensions),
        trials=trials,
        objectives=tuple(objectives),
        front=pareto_front(trials, objectives),
        best=next((t.number for t in rank_trials(trial.to_record() for trial in trials)), None),
        start=start[0].number if start else None,
        importances={name: shares for name, shares in importances.items() if shares},
    )


def choose(
    path: Path,
    bounds: Bounds,
    *,
    out: Path | None = None,
    storage: str | None = None,
    progress: Progress | None = None,
) -> Chosen:
    """Choose a trial and write its settings, ready for `train --config`.

    Lowest dev WER among the trials within the bounds; of those nearly as low, the one whose canary
    loses least: within a quarter of a point a difference is a word or two.

    Raises:
        NegativeAnswerError: nothing is finished, or nothing lies within the bounds.
        RequestError: not an ablation, or a bound on something that was not measured.
    """
    ablation = open_ablation(path)
    view = show_ablation(path, storage=storage)
    done = [trial for trial in view.trials if trial.state == "finished"]
    if not done:
        raise NegativeAnswerError(
            "no trial is finished yet",
            where=path,
            hint=f"continue with: moonshine-tune ablate run --out {quoted(path)}",
        )
    # Latency last: what is out for another reason need not be measured.
    allowed, reasons = _within(done, replace(bounds, max_latency=None))
    if bounds.max_latency is not None:
        progress = progress or SilentProgress()
        allowed = [_with_latency(ablation, trial, progress) for trial in allowed]
        allowed, more = _within(allowed, Bounds(max_latency=bounds.max_latency))
        reasons += more
    chosen, reason = _preferred(allowed)
    reasons.append(reason)
    pairs = [_compare(ablation, chosen, t) for t in allowed if t.number != chosen.number]
    verdicts = [pair.verdict for pair in pairs if pair is not None]
    if same := verdicts.count("no difference shown"):
        reasons.append(f"on the dev set, {same} of {len(verdicts)} others show no difference to it")
    start = next((trial for trial in done if trial.number == view.start), None)
    against: PairedComparison | None = None
    if start is not None and start.number == chosen.number:
        reasons.append("these are the starting settings: no trial is better")
    elif start is not None:
        against = _compare(ablation, start, chosen)
        text = f"the starting settings are trial {start.number}: {shown_figures(start.figures)}"
        if against is not None:
            low, high = against.ci95
            text += (
                f"; difference {against.difference:+.2f} points [{low:+.2f}, {high:+.2f}]: "
                f"{against.verdict}"
            )
        reasons.append(text)
    file = out or path / SETTINGS_FILE
    write_text_atomic(file, _settings_text(ablation, chosen, len(done), file))
    return Chosen(chosen.number, chosen.params, chosen.figures, tuple(reasons), against, file)


def pareto_front(trials: Sequence[TrialSummary], objectives: Sequence[str]) -> tuple[int, ...]:
    """Numbers of the finished trials that no other equals or beats in every objective."""
    points = [
        (trial.number, tuple(float(trial.figures[name]) for name in objectives))
        for trial in trials
        if trial.state == "finished"
        and all(trial.figures.get(name) is not None for name in objectives)
    ]
    return tuple(
        number
        for number, point in points
        if not any(
            rival != point and all(a <= b for a, b in zip(rival, point, strict=True))
            for _, rival in points
        )
    )


def _within(done: Sequence[TrialSummary], bounds: Bounds) -> tuple[list[TrialSummary], list[str]]:
    """The trials within all bounds, and sentences on what each bound leaves out."""
    allowed, reasons = list(done), []
    limits = (bounds.max_canary, bounds.max_seconds, bounds.max_adapter_mb, bounds.max_latency)
    for (name, unit), limit in zip(_UNITS.items(), limits, strict=True):
        if limit is None:
            continue
        if any(trial.figures.get(name) is None for trial in done):
            raise RequestError(
                "not every trial has a canary, so no bound on it can be kept",
                hint="search again with: --canary general.jsonl",
            )
        kept = [trial for trial in allowed if trial.figures[name] <= limit]
        if not kept:
            nearest = min(allowed, key=lambda trial: trial.figures[name])
            raise NegativeAnswerError(
                f"none of {len(allowed)} finished trials keeps to {limit:g} {unit}; the nearest is "
                f"trial {nearest.number} with {nearest.figures[name]:.2f}",
                hint="loosen the bound, or search on with more --trials",
            )
        reasons.append(f"{len(kept)} of {len(allowed)} finished trials keep to {limit:g} {unit}")
        allowed = kept
    if bounds.max_canary is None and bounds.max_latency is None:
        held = [trial for trial in allowed if trial.figures.get("canary_held", True)]
        if len(held) < len(allowed):
            reasons.append(
                f"{len(held)} of {len(allowed)} finished trials hold the canary"
                + ("" if held else ": the choice is among the others")
            )
        allowed = held or allowed
    return allowed, reasons


def _with_latency(ablation: Ablation, trial: TrialSummary, progress: Progress) -> TrialSummary:
    """The trial with the latency of its exported files."""
    if trial.figures.get("latency") is not None:
        return trial
    settings = ablation.trial_settings(trial.number, trial.params).settings
    run = RunFolder(ablation.trial_folder(trial.number))
    if not run.adapter_dir.is_dir():
        raise RequestError(
            f"the adapter of trial {trial.number} is not here, so its latency cannot be measured",
            where=run.path,
            hint="search with --objective latency, which measures it where it is trained",
        )
    progress.say(f"trial {trial.number}: measuring the latency of its exported files")
    latency = measure_latency(run, settings, progress)
    return replace(trial, figures={**trial.figures, "latency": latency})


def _preferred(allowed: Sequence[TrialSummary]) -> tuple[TrialSummary, str]:
    lowest = min(allowed, key=lambda trial: (trial.figures["dev_wer"], trial.number))
    low, count = lowest.figures["dev_wer"], len(allowed)
    if any(trial.figures.get("canary_loss") is None for trial in allowed):
        return lowest, f"the lowest dev WER of {count} trials: {low:.2f}"
    near = [trial for trial in allowed if trial.figures["dev_wer"] <= low + _TOLERANCE]
    order = ("canary_loss", "dev_wer", "adapter_mb")
    chosen = min(near, key=lambda trial: (*(trial.figures[name] for name in order), trial.number))
    if len(near) == 1:
        reason = f"the lowest dev WER of {count} trials, by more than {_TOLERANCE:g} points"
        return chosen, f"{reason}: {low:.2f}"
    return chosen, (
        f"{len(near)} of {count} trials lie within {_TOLERANCE:g} points of the lowest dev WER, "
        f"{low:.2f}; of them this one ({chosen.figures['dev_wer']:.2f}) keeps the canary best: "
        f"{chosen.figures['canary_loss']:+.2f}"
    )


def _compare(
    ablation: Ablation, before: TrialSummary, after: TrialSummary
) -> PairedComparison | None:
    """The paired comparison of two trials on dev, where the hypotheses of both are here.

    A trial of another machine, or with the result of an earlier trial, has none.
    """
    files = [
        RunFolder(ablation.trial_folder(t.number)).dev_hypotheses_path for t in (before, after)
    ]
    try:
        first, second = (read_scored(file) for file in files)
    except RequestError:
        return None
    try:
        return compare_paired(first, second) if first else None
    except ValueError:
        # Dev was changed between the trials: other utterances, or other references.
        return None


def _settings_text(ablation: Ablation, trial: TrialSummary, num_done: int, file: Path) -> str:
    settings = ablation.trial_settings(trial.number, trial.params).settings
    record = dict(flatten(settings.model_dump(mode="json", exclude_none=True)))
    # Otherwise the replay audio of the preset would be taken.
    record.setdefault("data.replay", "none")
    for name in PATH_SETTINGS:
        if name in record and record[name] not in REPLAY_WORDS:
            # Relative, as the file is read: the folder with all its data can be moved.
            record[name] = os.path.relpath(record[name], file.absolute().parent)
    head = (
        f"# Trial {trial.number} of an ablation, chosen among {num_done}: "
        f"{shown_figures(trial.figures)}.\n"
        f"#   moonshine-tune train --config {quoted(file.name)} --out runs/chosen\n"
    )
    return head + yaml.safe_dump(unflatten(record), sort_keys=False, allow_unicode=True)
