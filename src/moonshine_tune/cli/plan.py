"""`moonshine-tune plan run | status | init`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moonshine_tune.cli.console import JsonFlag, TerminalProgress, refuse, show, table

if TYPE_CHECKING:
    from moonshine_tune.plan.status import PlanResult

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Carry out a whole plan: phases with gates, stopped and continued at will.",
)

_PlanArgument = Annotated[str, typer.Argument(help="Plan file, or a shipped plan: demo.")]
_OutOption = Annotated[Path, typer.Option(help="Folder of the plan's results.")]
_OUT = Path("plan-out")


def register(root: typer.Typer) -> None:
    """Add the commands."""
    root.add_typer(app, name="plan")


@app.command(epilog="Example: moonshine-tune plan run plan.yaml --out plan-out")
def run(
    plan: _PlanArgument,
    out: _OutOption = _OUT,
    only: Annotated[
        list[str] | None, typer.Option(help="Only this phase; may come several times.")
    ] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Start phases although what they need has not passed; "
                     "it is written down."),
    ] = False,
    as_json: JsonFlag = False,
) -> None:  # fmt: skip
    """Do what is left of a plan. The same command goes on after an interruption of any kind.

    A phase that is done is not run again unless what it depends on has another content.
    """
    from moonshine_tune.plan.run import run_plan
    from moonshine_tune.plan.schema import read_plan

    result = run_plan(read_plan(plan), out, TerminalProgress(), only=only or (), force=force)
    show(_summary(result), result.to_record(), as_json=as_json)
    if result.exit_code:
        raise typer.Exit(result.exit_code)


@app.command(epilog="Example: moonshine-tune plan status plan.yaml --out plan-out")
def status(plan: _PlanArgument, out: _OutOption = _OUT, as_json: JsonFlag = False) -> None:
    """Show what is done, what failed and why, and what the next run would do."""
    from moonshine_tune.plan.run import plan_status
    from moonshine_tune.plan.schema import read_plan

    result = plan_status(read_plan(plan), out, TerminalProgress())
    show(_summary(result), result.to_record(), as_json=as_json)
    refuse(any(phase.state == "failed" for phase in result.phases))


@app.command(
    epilog="Example: moonshine-tune plan init plan.yaml --train data/train.jsonl "
    "--dev data/dev.jsonl --test data/test.jsonl --model medium"
)
def init(
    path: Annotated[Path, typer.Argument(help="File to write.")] = Path("plan.yaml"),
    model: Annotated[str | None, typer.Option(help="Model of the pilot.")] = None,
    train: Annotated[str | None, typer.Option(help="Training manifest.")] = None,
    dev: Annotated[str | None, typer.Option(help="Development manifest.")] = None,
    test: Annotated[str | None, typer.Option(help="Test manifest.")] = None,
    canary: Annotated[str | None, typer.Option(help="General speech, with texts.")] = None,
    replay: Annotated[str | None, typer.Option(help="General speech, no texts needed.")] = None,
    hours: Annotated[float | None, typer.Option(help="Hours that the pilot may take.")] = None,
    canary_points: Annotated[
        float | None, typer.Option(help="Points of WER that the canary may lose.")
    ] = None,
    p95_ms: Annotated[float | None, typer.Option(help="Bound on latency, 95 % of clips.")] = None,
    peak_memory_mb: Annotated[
        float | None, typer.Option(help="Bound on the runtime's memory.")
    ] = None,
    ask: Annotated[
        bool | None,
        typer.Option("--ask/--no-ask", help="Ask for what no flag says [default: on a terminal]."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Write a commented plan: from a few questions, or from flags."""
    from moonshine_tune.plan.init import PlanAnswers, default_answers, write_plan

    told: dict[str, Any] = {
        "model": model, "train": train, "dev": dev, "test": test, "canary": canary,
        "replay": replay, "hours": hours, "canary_points": canary_points, "p95_ms": p95_ms,
        "peak_memory_mb": peak_memory_mb,
    }  # fmt: skip
    if ask if ask is not None else sys.stdin.isatty() and sys.stderr.isatty():
        told = _ask(told, default_answers())
    given = {name: value for name, value in told.items() if value not in (None, "")}
    answers = PlanAnswers(**(default_answers() | given))
    write_plan(path, answers)
    show(
        f"wrote {path}\nlook through it, then: moonshine-tune plan run {path}",
        {"plan": path, "answers": answers},
        as_json=as_json,
    )


_QUESTIONS = {
    "model": "Model of the pilot",
    "train": "Training manifest",
    "dev": "Development manifest (empty: speakers are held out of train)",
    "test": "Test manifest, which judges",
    "canary": "General speech with texts, which must not get worse (empty: none)",
    "replay": "General speech, no texts needed, on which the base teaches (empty: none)",
    "hours": "Hours that the pilot may take",
    "canary_points": "Points of WER that the canary may lose",
    "p95_ms": "Milliseconds within which 95 % of clips are answered",
    "peak_memory_mb": "MB that the runtime may hold",
}


def _ask(told: dict[str, Any], usual: dict[str, Any]) -> dict[str, Any]:
    """Ask for what no flag told; the usual answer is taken with Enter."""
    answers = dict(told)
    for name, question in _QUESTIONS.items():
        if answers[name] is None:
            number = isinstance(usual.get(name), float)
            answers[name] = typer.prompt(
                question, default=usual.get(name) or "", type=float if number else str, err=True
            )
    return answers


def _summary(result: "PlanResult") -> str:
    rows = []
    for phase in result.phases:
        passed = sum(gate.holds for gate in phase.gates)
        gates = f"{passed}/{len(phase.gates)}" if phase.gates else "-"
        rows.append([phase.name, phase.state, gates, f"{phase.seconds:.0f} s"])
    lines = [table(["phase", "state", "gates", "time"], rows), ""]
    for phase in result.phases:
        for gate in phase.gates:
            note = f" [{gate.note}]" if gate.note else ""
            lines.append(
                f"{gate.verdict:<14}  {phase.name}: {gate.name}: {gate.figure} "
                f"(asked: {gate.bound}){note}"
            )
    told = [f"{p.name}: {p.state}: {p.why}" for p in result.phases if p.why and p.state != "done"]
    told += [f"{p.name}: started although {'; '.join(p.forced)} (--force)"
             for p in result.phases if p.forced]  # fmt: skip
    todo = [f"{phase.name}: {phase.next}" for phase in result.phases if phase.next]
    lines += ["", *told] if told else []
    lines += ["", "the next run would do:", *(f"  {line}" for line in todo)] if todo else []
    if result.holder:
        lines.append(f"at work: {result.holder}")
    if result.stopped:
        lines.append("stopped; the same command goes on")
    lines.append(f"look at it: moonshine-tune report {result.path}")
    return "\n".join(lines)
