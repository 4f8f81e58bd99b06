"""The trials of a search."""

from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from moonshine_tune.report.cells import clean, short
from moonshine_tune.report.figures import Dot, scatter
from moonshine_tune.report.reading import ReportInput
from moonshine_tune.runs.records import TrialRecord, rank_trials

_MAX_TRIALS, _MAX_PARAMS, _MAX_REASONS = 200, 12, 12


@dataclass(frozen=True)
class Trials:
    """A search: its trials, a drawing of dev WER against the canary, and how it was chosen.

    Attributes:
        params: names of the settings that were tried.
        rows: each trial with its values of these settings.
    """

    params: tuple[str, ...]
    rows: tuple[tuple[TrialRecord, list[Any]], ...]
    best: TrialRecord | None
    drawing: Markup
    reasons: tuple[str, ...]


def trials_of(report_input: ReportInput) -> Trials | None:
    """The search that the folder holds."""
    search = report_input.search
    if search is None or not (search.trials or not search.record.is_empty):
        return None
    trials, best = search.trials[:_MAX_TRIALS], next(iter(rank_trials(search.trials)), None)
    dots = []
    for trial in trials:
        wer, loss = clean(trial.figures.dev_wer), clean(trial.figures.canary_loss)
        if trial.state == "finished" and wer is not None and loss is not None:
            dots.append(Dot(str(trial.number), wer, loss, "best" if trial is best else "main"))
    drawing = scatter("Trials", "dev WER, %", "canary, points lost", dots)
    params = tuple(dict.fromkeys(name for trial in trials for name in trial.params))[:_MAX_PARAMS]
    rows = tuple((trial, [trial.params.get(name) for name in params]) for trial in trials)
    return Trials(params, rows, best, drawing, _reasons(report_input))


def _reasons(report_input: ReportInput) -> tuple[str, ...]:
    """Why a plan chose the trial that it chose."""
    for phase in report_input.summary.record.values():
        step = phase.steps.get("choose")
        reasons = step.result.get("reasons") if step else None
        if isinstance(reasons, list):
            return tuple(short(reason) for reason in reasons[:_MAX_REASONS])
    return ()
