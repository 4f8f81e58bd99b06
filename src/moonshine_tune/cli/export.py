"""`moonshine-tune export`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moonshine_tune.cli.console import JsonFlag, TerminalProgress, refuse, show
from moonshine_tune.cli.options import DeviceOption, OutFolder

if TYPE_CHECKING:
    from moonshine_tune.jobs.export import ExportResult

_EXAMPLE = "Example: moonshine-tune export --run runs/a --out exported --manifest test.jsonl"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("export", epilog=_EXAMPLE)(export)


def export(
    run: Annotated[Path, typer.Option(help="Run folder, or adapter folder with --model.")],
    out: OutFolder,
    model: Annotated[str | None, typer.Option(help="Base model [default: the run's].")] = None,
    base_runtime: Annotated[
        Path | None, typer.Option(help="Runtime folder of the base [default: the model's].")
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option(help="Clips of the parity gate [default: the run's dev set].")
    ] = None,
    parity_bound: Annotated[
        float, typer.Option(help="Percent of words that may differ between torch and runtime.")
    ] = 5.0,
    device: DeviceOption = "auto",
    as_json: JsonFlag = False,
) -> None:
    """Write files that the Moonshine runtime loads, and prove them equal to the trained model."""
    from moonshine_tune.jobs.export import ExportRequest
    from moonshine_tune.jobs.export import export as run_export

    request = ExportRequest(run, model, base_runtime, manifest, parity_bound, device)
    result = run_export(request, out, TerminalProgress())
    show(_summary(result), result.to_record(), as_json=as_json)
    refuse(not result.parity.passed)


def _summary(result: "ExportResult") -> str:
    parity, report = result.parity, result.graft
    lines = [
        f"wrote {result.runtime_dir}: {report.changed} of {report.matrices} matrices adapted in "
        f"{', '.join(report.changed_files) or 'no file'}, {result.seconds:.1f} s",
        f"parity {'passed' if parity.passed else 'FAILED'}: {parity.word_difference:.2f} % of "
        f"{parity.words} words differ (bound {parity.bound:g} %), {parity.identical} of "
        f"{parity.clips} clips identical",
    ]
    for said, heard in parity.examples[:3] if not parity.passed else ():
        lines.append(f"  torch:   {said}\n  runtime: {heard}")
    if not parity.passed:
        lines.append("do not ship these files")
    return "\n".join(lines)
