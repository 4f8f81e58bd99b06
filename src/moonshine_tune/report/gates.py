"""The gates of a report."""

from dataclasses import dataclass

from moonshine_tune.report.contrasts import contrasts_of_run
from moonshine_tune.report.figures import clean
from moonshine_tune.report.reading import (
    ReportInput,
    RunPart,
    mapping,
    number,
    sequence,
)
from moonshine_tune.report.tables import short


@dataclass(frozen=True)
class Gate:
    """A promise: `passed` is None where it was not measured or says nothing.

    `group` is the phase of a plan, `note` why it says nothing.
    """

    name: str
    passed: bool | None
    figure: str
    bound: str
    group: str = ""
    verdict: str = ""
    note: str = ""

    @property
    def word(self) -> str:
        """The verdict in a word."""
        return self.verdict or {True: "passed", False: "FAILED", None: "open"}[self.passed]

    @property
    def kind(self) -> str:
        """Passed, failed or open, for the style sheet."""
        return {True: "passed", False: "failed", None: "open"}[self.passed]


def gates_of(report_input: ReportInput) -> tuple[Gate, ...]:
    """The gates of a demonstration, or what a run by itself can be held to."""
    found = []
    for record in map(mapping, sequence(report_input.demo.get("gates"))):
        passed = record.get("passed")
        name, figure, bound = (
            short(str(record.get(key, "–"))) for key in ("name", "figure", "bound")
        )
        group, verdict, note = (
            short(str(record.get(key) or ""), 120) for key in ("phase", "verdict", "note")
        )
        holds = passed if isinstance(passed, bool) else None
        found.append(Gate(name, holds, figure, bound, group, verdict, note))
    return tuple(found) or (_gates_of_run(report_input.run) if report_input.run else ())


def _gates_of_run(run: RunPart) -> tuple[Gate, ...]:
    result, status = mapping(run.record.get("result")), run.record.get("status")
    if not run.record:
        return ()
    steps = number(result.get("steps"))
    done = None if status in (None, "running") else status in ("finished", "early stop")
    figure = "running, or killed" if done is None else short(str(status))
    found = [
        Gate(
            "training completes",
            done,
            figure if steps is None else f"{figure}, {steps:g} steps",
            "finished or early stop",
        )
    ]
    first, last = (clean(number(result.get(key))) for key in ("first_loss", "last_loss"))
    if first is not None and last is not None:
        falls = f"{first:.3f} → {last:.3f}"
        found.append(
            Gate("training loss falls", last < first, falls, "last tenth below first tenth")
        )
    bound = number(mapping(mapping(run.record.get("settings")).get("select")).get("canary_bound"))
    for row in contrasts_of_run(run):
        if row.before is None or row.after is None or row.difference is None:
            continue
        figure = f"{row.before.wer:.2f} → {row.after.wer:.2f}"
        if row.set_name == "dev":
            found.append(Gate("dev WER improves", row.difference < 0, figure, "below the base"))
        elif bound is not None:
            kept = row.difference <= bound + 1e-9
            found.append(Gate("canary is kept", kept, figure, f"+{bound:g} points at most"))
    return tuple(found)
