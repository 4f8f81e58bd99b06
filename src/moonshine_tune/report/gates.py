"""The gates of a plan or demonstration, and those that a run can be held to by itself."""

from moonshine_tune.report.cells import clean
from moonshine_tune.report.contrasts import contrasts_of_run
from moonshine_tune.report.reading import ReportInput, RunPart
from moonshine_tune.runs.records import NOT_BETTER_THAN_PART, GateResult, RunResultRecord
from moonshine_tune.runs.summary import ENDED


def gates_of(report_input: ReportInput) -> tuple[GateResult, ...]:
    """The gates of a plan or demonstration, or those that a run can be held to by itself."""
    run = report_input.run
    gates = report_input.summary.gates or (_gates_of_run(run) if run else [])
    return tuple(gates)


def _gates_of_run(run: RunPart) -> list[GateResult]:
    if run.record.is_empty:
        return []
    result, status = run.record.result, run.record.status
    done = None if status in (None, "running") else status in ENDED
    figure = "running" if done is None else str(status)
    if result.steps is not None:
        figure += f", {result.steps} steps"
    gates = [_gate("training completes", done, figure, "finished or early stop")]
    if result.combined:
        gates = _sum_gates(result)
    first, last = clean(result.first_loss), clean(result.last_loss)
    if first is not None and last is not None:
        falls = f"{first:.3f} → {last:.3f}"
        gates.append(
            _gate("training loss falls", last < first, falls, "last tenth below first tenth")
        )
    bound = clean(run.setting("select.canary_bound"))
    for row in contrasts_of_run(run):
        if row.before is None or row.after is None or row.difference is None:
            continue
        figure = f"{row.before.value:.2f} → {row.after.value:.2f}"
        if row.set_name == "dev":
            gates.append(_gate("dev WER improves", row.difference < 0, figure, "below the base"))
        elif bound is not None:
            kept = row.difference <= bound + 1e-9
            figure += f" ({row.canary})" if row.canary else ""
            gates.append(_gate("canary is kept", kept, figure, f"+{bound:g} points at most"))
    gates += _drift_gate(run)
    return gates


def _sum_gates(result: RunResultRecord) -> list[GateResult]:
    """Whether a sum of adapters is better than each of them alone."""
    alone = [wer for item in result.combined if (wer := clean(item.alone.dev_wer)) is not None]
    best = clean(result.best.dev_wer)
    if not alone or best is None:
        return []
    figure = f"{min(alone):.2f} → {best:.2f}"
    passed = result.judged != NOT_BETTER_THAN_PART
    return [_gate("better than each adapter alone", passed, figure, "by dev WER and the canary")]


def _drift_gate(run: RunPart) -> list[GateResult]:
    """What was replayed, and how far the adapter drifts from the base on what was held out."""
    replay, bound = run.record.replay, clean(run.setting("select.max_drift"))
    drift = clean(run.record.result.best.drift)
    if replay is None or bound is None:
        return []
    figure = f"replayed: {replay.sentence}"
    if drift is not None:
        figure = f"{drift:.4f} nats per token; {figure}"
    small = None if drift is None else drift <= bound + 1e-9
    return [_gate("drift on general speech", small, figure, f"{bound:g} nats per token at most")]


def _gate(name: str, passed: bool | None, figure: str, bound: str) -> GateResult:
    return GateResult(name=name, passed=passed, figure=figure, bound=bound)
