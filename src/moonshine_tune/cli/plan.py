"""`moonshine-tune plan run | status | init`."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from moonshine_tune.cli.console import JsonFlag, TerminalProgress, refuse, show, table
from moonshine_tune.cli.help import CommandGroup
from moonshine_tune.core.text import quoted

if TYPE_CHECKING:
    from moonshine_tune.plan.status import PlanResult

app = typer.Typer(
    cls=CommandGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Run a whole plan: phases with gates, which you can stop and resume at any time.",
)

_PlanArgument = Annotated[str, Argument(help="Plan file, or a shipped plan: demo.")]
_OutOption = Annotated[Path, Option(file_okay=False, help="Folder of the plan's results.")]
_OUT = Path("plan-out")


def register(root: typer.Typer) -> None:
    """Add the commands."""
    root.add_typer(app, name="plan")


@app.command(epilog="Example: moonshine-tune plan run plan.yaml --out plan-out")
def run(
    plan: _PlanArgument,
    out: _OutOption = _OUT,
    only: Annotated[list[str] | None, Option(help="Run only this phase; can be repeated.")] = None,
    force: Annotated[
        bool,
        Option("--force", help="Start phases although those they need have not passed; recorded."),
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Do what is left of a plan. The same command resumes after any interruption.

    A phase that is done runs again only when the content of its inputs has changed.
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
    context: typer.Context,
    path: Annotated[Path, Argument(help="File to write.")] = Path("plan.yaml"),
    model: Annotated[str | None, Option(help="Model of the pilot.")] = None,
    train: Annotated[str | None, Option(help="Training manifest.")] = None,
    dev: Annotated[
        str | None, Option(help="Dev manifest; without it, speakers are held out of train.")
    ] = None,
    test: Annotated[str | None, Option(help="Test manifest, which judges.")] = None,
    canary: Annotated[str | None, Option(help="General speech with transcripts.")] = None,
    replay: Annotated[
        str | None, Option(help="General speech: a manifest, a folder, auto or none.")
    ] = None,
    hours: Annotated[float | None, Option(help="Hours that the pilot may take.")] = None,
    canary_points: Annotated[
        float | None, Option(help="Points of WER that the canary may lose.")
    ] = None,
    p95_ms: Annotated[float | None, Option(help="Latency of 95 % of clips, in ms.")] = None,
    peak_memory_mb: Annotated[float | None, Option(help="Memory of the runtime, in MB.")] = None,
    ask: Annotated[
        bool | None,
        Option("--ask/--no-ask", help="Ask for what no flag gives [default: on a terminal]."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Write a commented plan file: from a few questions, or from flags."""
    from moonshine_tune.plan.init import PlanAnswers, write_plan

    answers = asdict(PlanAnswers())
    asks = ask if ask is not None else sys.stdin.isatty() and sys.stderr.isatty()
    for option in context.command.params:
        if option.name in answers:
            given, default = context.params[option.name], answers[option.name]
            if given is None and asks:
                question = str(getattr(option, "help", "")).rstrip(".")
                kind = float if isinstance(default, float) else str
                given = typer.prompt(question, default=default or "", type=kind, err=True)
            answers[option.name] = default if given in (None, "") else given
    write_plan(path, PlanAnswers(**answers))
    show(
        f"wrote {path}\nread it, then: moonshine-tune plan run {quoted(path)}",
        {"plan": path, "answers": answers},
        as_json=as_json,
    )


def _summary(result: "PlanResult") -> str:
    rows, lines, remarks = [], [""], []
    for phase in result.phases:
        passed = sum(gate.holds for gate in phase.gates)
        gates = f"{passed}/{len(phase.gates)}" if phase.gates else "-"
        rows.append([phase.name, phase.state, gates, f"{phase.seconds:.0f} s"])
        for gate in phase.gates:
            note = f" [{gate.note}]" if gate.note else ""
            lines.append(
                f"{gate.verdict:<14}  {phase.name}: {gate.name}: {gate.figure} "
                f"(required: {gate.bound}){note}"
            )
        if phase.why:
            remarks.append(f"{phase.name}: {phase.state}: {phase.why}")
        if phase.forced:
            remarks.append(f"{phase.name}: started although {'; '.join(phase.forced)} (--force)")
    todo = [f"  {phase.name}: {phase.next}" for phase in result.phases if phase.next]
    lines += ["", *remarks] if remarks else []
    lines += ["", "the next run would do:", *todo] if todo else []
    if result.holder:
        lines.append(f"at work: {result.holder}")
    if result.stopped:
        lines.append("stopped; the same command resumes")
    lines.append(f"look at it: moonshine-tune report {quoted(result.path)}")
    return "\n".join([table(["phase", "state", "gates", "time"], rows), *lines])
