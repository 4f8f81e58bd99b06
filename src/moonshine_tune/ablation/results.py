"""What a search found: its table, the Pareto front, what mattered, and a choice with a reason."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from moonshine_tune.ablation.folder import Ablation, open_ablation, storage_url
from moonshine_tune.ablation.latency import measure_latency
from moonshine_tune.ablation.run import best_trial, shown_figures
from moonshine_tune.ablation.sampling import OBJECTIVES
from moonshine_tune.ablation.storage import storage_errors
from moonshine_tune.ablation.study import TrialBook, TrialRecord
from moonshine_tune.config.resolve import PATH_SETTINGS
from moonshine_tune.core.errors import NegativeAnswerError, RequestError
from moonshine_tune.core.files import write_text_atomic
from moonshine_tune.core.progress import Progress, SilentProgress
from moonshine_tune.metrics.wer import PairedComparison, ScoredUtterance, compare_paired
from moonshine_tune.runs.folder import RunFolder
from moonshine_tune.runs.summary import read_scored
from moonshine_tune.training.selection import SelectionRule

SETTINGS_FILE = "chosen.yaml"
_UNITS = {"dev_wer": "points of dev WER", "canary_loss": "points of canary WER",
          "latency": "times the base's latency", "adapter_mb": "MB of adapter",
          "train_seconds": "s of training"}  # fmt: skip


@dataclass(frozen=True)
class AblationView:
    """A search as it stands.

    Attributes:
        dimensions: names of what varies, in the order of the space.
        objectives: what the front is drawn over.
        front: numbers of the finished trials that no other beats in everything.
        best: number of the trial with the lowest dev WER that holds the canary.
        start: number of the trial that ran with the starting settings, where there is one.
        importances: for each objective, how much of its spread each dimension explains.
    """

    path: Path
    dimensions: tuple[str, ...]
    trials: tuple[TrialRecord, ...]
    objectives: tuple[str, ...]
    front: tuple[int, ...]
    best: int | None
    start: int | None
    importances: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Bounds:
    """What the choice must keep.

    Attributes:
        max_canary: points of WER that the canary may lose; None: the bound of the settings.
        max_seconds: seconds of training.
        max_adapter_mb: size of the adapter.
        max_latency: latency of the exported files over the base's; what a trial has not measured
            is measured for the choice.
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
    """Read a search, under way or ended.

    Args:
        storage: database URL, where the one that was written down is not enough.
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
    url = storage_url(ablation, storage)
    with storage_errors(url):
        book = TrialBook(url, ablation.plan(), ablation.locks, shared=ablation.storage is not None)
        try:
            trials = book.records()
            over = tuple(objectives) or _usual_front(ablation, trials)
            importances = {name: book.importances(name) for name in over}
        finally:
            book.close()
    best = best_trial(trials)
    return AblationView(
        path=path,
        dimensions=tuple(item.name for item in ablation.space.dimensions),
        trials=trials,
        objectives=over,
        front=pareto_front(trials, over),
        best=best.number if best else None,
        start=_start(ablation, trials),
        importances={name: found for name, found in importances.items() if found},
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
            hint=f"go on with: moonshine-tune ablate run --out {path}",
        )
    # Latency last: what is out for another reason need not be measured.
    allowed, reasons = _within(done, replace(bounds, max_latency=None))
    if bounds.max_latency is not None:
        allowed = [_timed(ablation, item, progress or SilentProgress()) for item in allowed]
        allowed, more = _within(allowed, Bounds(max_latency=bounds.max_latency))
        reasons += more
    found, why = _preferred(allowed)
    reasons += why
    reasons += _remarks_on_pairs(ablation, found, allowed)
    start = next((trial for trial in done if trial.number == view.start), None)
    against: PairedComparison | None = None
    if start is not None and start.number != found.number:
        against = _compare(ablation, start, found)
        text = f"the starting settings are trial {start.number}: {shown_figures(start.figures)}"
        if against is not None:
            text += (
                f"; the difference of {against.difference:+.2f} points "
                f"[{against.ci95[0]:+.2f}, {against.ci95[1]:+.2f}] says: {against.verdict}"
            )
        reasons.append(text)
    elif start is not None:
        reasons.append("these are the starting settings: nothing that was tried is better")
    file = out or path / SETTINGS_FILE
    write_text_atomic(file, _settings_text(ablation, found, len(done), file))
    return Chosen(found.number, found.params, found.figures, tuple(reasons), against, file)


def pareto_front(trials: Sequence[TrialRecord], objectives: Sequence[str]) -> tuple[int, ...]:
    """Numbers of the finished trials that none other equals or beats in every objective."""
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
            other != point and all(a <= b for a, b in zip(other, point, strict=True))
            for _, other in points
        )
    )


def _usual_front(ablation: Ablation, trials: Sequence[TrialRecord]) -> tuple[str, ...]:
    has_canary = any(trial.figures.get("canary_loss") is not None for trial in trials)
    second = "canary_loss" if has_canary else "train_seconds"
    return tuple(dict.fromkeys((*ablation.objectives, second)))


def _start(ablation: Ablation, trials: Sequence[TrialRecord]) -> int | None:
    point = ablation.space.point_of(ablation.settings)
    if point is None:
        return None
    for trial in trials:
        if trial.state == "finished" and dict(trial.params) == point:
            return trial.number
    return None


def _within(done: Sequence[TrialRecord], bounds: Bounds) -> tuple[list[TrialRecord], list[str]]:
    """The trials within all bounds, and sentences on what each bound left out."""
    allowed, reasons = list(done), []
    limits = {
        "canary_loss": bounds.max_canary,
        "train_seconds": bounds.max_seconds,
        "adapter_mb": bounds.max_adapter_mb,
        "latency": bounds.max_latency,
    }
    for name, limit in limits.items():
        if limit is None:
            continue
        if any(trial.figures.get(name) is None for trial in done):
            raise RequestError(
                "not every trial has a canary, so that no bound on it can be kept",
                hint="search again with: --canary general.jsonl",
            )
        kept = [trial for trial in allowed if trial.figures[name] <= limit]
        if not kept:
            nearest = min(allowed, key=lambda trial: trial.figures[name])
            raise NegativeAnswerError(
                f"none of {len(allowed)} finished trials keeps to {limit:g} {_UNITS[name]}; trial "
                f"{nearest.number} comes nearest with {nearest.figures[name]:.2f}",
                hint="loosen the bound, or search on with more --trials",
            )
        reasons.append(
            f"{len(kept)} of {len(allowed)} finished trials keep to {limit:g} {_UNITS[name]}"
        )
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


def _timed(ablation: Ablation, trial: TrialRecord, progress: Progress) -> TrialRecord:
    """The trial with the latency of its exported files."""
    if trial.figures.get("latency") is not None:
        return trial
    settings = ablation.trial_settings(trial.number, trial.params).settings
    run = RunFolder(ablation.trial_folder(trial.number))
    if not run.adapter_dir.is_dir():
        raise RequestError(
            f"the adapter of trial {trial.number} is not here, so that it cannot be timed",
            where=run.path,
            hint="search with --objective latency, which measures it where it was trained",
        )
    progress.say(f"trial {trial.number}: timing its exported files")
    latency = measure_latency(run, settings, progress)
    return replace(trial, figures={**trial.figures, "latency": latency})


def _preferred(allowed: Sequence[TrialRecord]) -> tuple[TrialRecord, list[str]]:
    lowest = min(allowed, key=lambda trial: (trial.figures["dev_wer"], trial.number))
    low = lowest.figures["dev_wer"]
    if any(trial.figures.get("canary_loss") is None for trial in allowed):
        return lowest, [f"the lowest dev WER of {len(allowed)} trials: {low:.2f}"]
    near = [t for t in allowed if t.figures["dev_wer"] <= low + SelectionRule.dev_tolerance]
    found = min(
        near,
        key=lambda t: (
            t.figures["canary_loss"], t.figures["dev_wer"], t.figures["adapter_mb"], t.number,
        ),
    )  # fmt: skip
    wer = found.figures["dev_wer"]
    if len(near) == 1:
        return found, [f"the lowest dev WER of {len(allowed)} trials, by more than "
                       f"{SelectionRule.dev_tolerance:g} points: {wer:.2f}"]  # fmt: skip
    return found, [
        f"{len(near)} of {len(allowed)} trials lie within {SelectionRule.dev_tolerance:g} points "
        f"of the lowest dev WER, {low:.2f}; of them this one ({wer:.2f}) keeps the canary best: "
        f"{found.figures['canary_loss']:+.2f}"
    ]


def _remarks_on_pairs(
    ablation: Ablation, found: TrialRecord, allowed: Sequence[TrialRecord]
) -> list[str]:
    """How many others the dev set cannot tell from the choice."""
    pairs = [_compare(ablation, found, other) for other in allowed if other.number != found.number]
    known = [pair for pair in pairs if pair is not None]
    same = sum(pair.verdict == "no difference shown" for pair in known)
    if not same:
        return []
    return [f"on the dev set {same} of {len(known)} others are not shown to differ from it"]


def _compare(ablation: Ablation, one: TrialRecord, other: TrialRecord) -> PairedComparison | None:
    """The paired comparison of two trials, where both run folders are here."""
    before, after = _heard(ablation, one), _heard(ablation, other)
    if not before or {item.id for item in before} != {item.id for item in after}:
        return None
    return compare_paired(before, after)


def _heard(ablation: Ablation, trial: TrialRecord) -> tuple[ScoredUtterance, ...]:
    path = RunFolder(ablation.trial_folder(trial.number)).dev_hypotheses_path
    try:
        return read_scored(path)
    except RequestError:
        # A trial of another machine, or one that took its result from another trial.
        return ()


def _settings_text(ablation: Ablation, trial: TrialRecord, num_done: int, file: Path) -> str:
    record = ablation.trial_settings(trial.number, trial.params).settings.model_dump(mode="json")
    folder = file.absolute().parent
    for name in PATH_SETTINGS:
        section, _, key = name.partition(".")
        if record[section][key] is not None:
            # Relative, as the file is read: the whole tree can be moved.
            record[section][key] = os.path.relpath(record[section][key], folder)
    content = {
        key: {name: item for name, item in value.items() if item is not None}
        if isinstance(value, dict)
        else value
        for key, value in record.items()
    }
    head = (
        f"# Trial {trial.number} of an ablation, chosen among {num_done}: "
        f"{shown_figures(trial.figures)} points.\n"
        f"#   moonshine-tune train --config {file.name} --out runs/chosen\n"
    )
    return head + yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
