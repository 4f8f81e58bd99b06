"""`moonshine-tune report`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from moonshine_tune.cli.console import JsonFlag, TerminalProgress, show

if TYPE_CHECKING:
    from moonshine_tune.report.page import ReportResult


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("report", epilog="Example: moonshine-tune report runs/a --out a.html")(report)


def report(
    path: Annotated[
        Path, Argument(help="Folder of train, evaluate, demo, ablate, curve, benchmark or plan.")
    ],
    out: Annotated[
        Path | None, Option(help="File to write [default: report.html in the folder].")
    ] = None,
    manifest: Annotated[
        Path | None,
        Option(help="Manifest of the recordings, if they are not found without it; means --audio."),
    ] = None,
    audio: Annotated[
        bool, Option("--audio", help="Embed recordings: whoever has the page can play the voices.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Write one HTML page that shows a result: scores, curves, transcripts; sound with --audio."""
    from moonshine_tune.report.page import write_report

    result = write_report(path, out, TerminalProgress(), manifest=manifest, with_audio=audio)
    show(_summary(result), result, as_json=as_json)


def _summary(result: "ReportResult") -> str:
    lines = [
        f"{result.report}",
        f"{result.kind}, {result.num_bytes / 1e6:.1f} MB, {result.num_clips} "
        f"{'recording' if result.num_clips == 1 else 'recordings'} to play",
    ]
    if result.missing:
        lines.append("missing, and named in the report:")
        lines += [f"  - {line}" for line in result.missing[:20]]
        more = len(result.missing) - 20
        lines += [f"  … and {more} more"] if more > 0 else []
    return "\n".join(lines)
