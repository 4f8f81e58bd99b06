"""The phases of a plan, and the trials of a search."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from moonshine_tune.report.figures import Dot, clean, scatter
from moonshine_tune.report.reading import ReportInput
from moonshine_tune.report.tables import (
    Cell,
    Column,
    Table,
    change_cell,
    number_cell,
    short,
    text_cell,
    time_cell,
)
from moonshine_tune.runs.records import NOT_MEANINGFUL, PhaseSummary, TrialRecord, rank_trials

_MAX_TRIALS, _MAX_PARAMS, _MAX_REASONS = 200, 12, 12
_STATE_KINDS = {"done": "better", "failed": "worse"}


def phase_table(report_input: ReportInput) -> Table | None:
    """The phases of a plan: the state of each, its gates, its time."""
    phases = report_input.summary.phases
    if not phases:
        return None
    columns = (
        Column("Phase"), Column("State"), Column("Gates hold", "number"), Column("Time", "number"),
    )  # fmt: skip
    rows = tuple(_phase_row(index, phase) for index, phase in enumerate(phases))
    return Table("Phases", columns, rows, sortable=False)


def _phase_row(index: int, phase: PhaseSummary) -> tuple[Cell, ...]:
    holds = sum(gate.holds for gate in phase.gates)
    blind = sum(gate.verdict == NOT_MEANINGFUL for gate in phase.gates)
    steps = ", ".join(str(step.get("name")) for step in phase.steps)
    forced = f"started although {'; '.join(phase.forced)}" if phase.forced else ""
    return (
        Cell(short(phase.name, 80), sort=float(index), detail=short(steps)),
        Cell(
            short(phase.state),
            detail=short("; ".join(filter(None, (phase.why, forced)))),
            kind=_STATE_KINDS.get(phase.state, ""),
        ),
        Cell(
            f"{holds} of {len(phase.gates)}",
            sort=float(holds),
            detail=f"{blind} {NOT_MEANINGFUL}" if blind else "",
            kind="number",
        ),
        time_cell(phase.seconds),
    )


@dataclass(frozen=True)
class Trials:
    """A search: a table, a drawing of dev WER against the canary, and how it was chosen."""

    table: Table | None
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
    return Trials(_trial_table(trials, best), drawing, _reasons(report_input))


def _trial_table(trials: Sequence[TrialRecord], best: TrialRecord | None) -> Table | None:
    if not trials:
        return None
    names = list(dict.fromkeys(name for trial in trials for name in trial.params))[:_MAX_PARAMS]
    columns = [Column("Trial"), Column("Dev WER", "number"), Column("Canary", "number")]
    columns += [Column("Train time", "number"), *(Column(short(name, 40)) for name in names)]
    rows = []
    for trial in trials:
        detail = "" if trial.state == "finished" else trial.state or "–"
        number = "–" if trial.number is None else str(trial.number)
        rows.append(
            (
                Cell(
                    short(number),
                    sort=clean(trial.number),
                    detail="the best" if trial is best else short(detail, 60),
                ),
                number_cell(trial.figures.dev_wer),
                change_cell(trial.figures.canary_loss),
                time_cell(trial.figures.train_seconds),
                *(_param_cell(trial.params.get(name)) for name in names),
            )
        )
    note = "Canary: points of WER that general speech lost; below zero it gained."
    return Table("Trials", tuple(columns), tuple(rows), note)


def _param_cell(value: object) -> Cell:
    number = clean(value)
    if number is None:
        return text_cell("–" if value is None else value, "code")
    return Cell(f"{number:.4g}", sort=number, kind="code")


def _reasons(report_input: ReportInput) -> tuple[str, ...]:
    """Why a plan chose the trial that it chose."""
    for phase in report_input.summary.record.values():
        step = phase.steps.get("choose")
        reasons = step.result.get("reasons") if step else None
        if isinstance(reasons, list):
            return tuple(short(str(reason)) for reason in reasons[:_MAX_REASONS])
    return ()
