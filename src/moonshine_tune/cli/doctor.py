"""`moonshine-tune doctor`: check whether this machine can train."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moonshine_tune.cli.console import JsonFlag, TerminalProgress, show

if TYPE_CHECKING:
    from moonshine_tune.doctor.run import DoctorReport

_CANNOT = 3
_MARKS = {"ok": "ok  ", "warning": "warn", "failure": "FAIL"}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor", epilog="Example: moonshine-tune doctor --fetch --json")(doctor)


def doctor(
    model: Annotated[
        str | None,
        typer.Option(help="Model of the gradient check: a name or a folder [default: tiny]."),
    ] = None,
    fetch: Annotated[
        bool, typer.Option("--fetch", help="Fetch tiny for the gradient check if it is missing.")
    ] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Do not use the network.")] = False,
    out: Annotated[Path, typer.Option(help="Folder of later runs: its disk is checked.")] = Path(),
    device: Annotated[
        str | None, typer.Option(help="Check this device: cpu, mps, cuda or cuda:N.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Check whether this machine can train: system, packages, device, gradients, disk, sources.

    Exit code 3 if it cannot. The output names neither you nor your machine, so you can paste it
    into a bug report.
    """
    from moonshine_tune.doctor.run import DoctorSettings, examine

    settings = DoctorSettings(model, fetch, offline, out, device)
    report = examine(settings, TerminalProgress())
    show(_text(report), report, as_json=as_json)
    if not report.can_train:
        raise typer.Exit(_CANNOT)


def _text(report: "DoctorReport") -> str:
    lines = [f"moonshine-tune {report.version}"]
    width = max(len(check.name) for check in report.checks)
    group = ""
    for check in report.checks:
        if check.group != group:
            group = check.group
            lines.append(f"\n{group}")
        lines.append(f"  {_MARKS[check.status]}  {check.name.ljust(width)}  {check.figure}")
        if check.advice:
            lines.append(f"        {' ' * width}hint: {check.advice}")
    verdict = "this machine can train" if report.can_train else "this machine cannot train"
    lines.append(f"\n{verdict}: {report.failures} failures, {report.warnings} warnings")
    return "\n".join(lines)
