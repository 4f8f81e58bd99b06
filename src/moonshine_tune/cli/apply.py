"""`moonshine-tune apply`."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from moonshine_tune.cli.console import JsonFlag, show
from moonshine_tune.cli.options import OutFolder
from moonshine_tune.core.text import quoted

_EXAMPLE = "Example: moonshine-tune apply anna.adapter --to tiny-en --out tiny-anna"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("apply", epilog=_EXAMPLE)(apply)


def apply(
    file: Annotated[Path, Argument(help="File of `export --adapter-only`.")],
    to: Annotated[
        Path,
        Option(
            "--to",
            help="Runtime folder of its base (`models fetch` prints its path); it stays as it is.",
        ),
    ],
    out: OutFolder,
    as_json: JsonFlag = False,
) -> None:
    """Make an exported folder from an adapter file and its base, as the full export wrote it."""
    from moonshine_tune.export.apply import apply as run_apply

    result = run_apply(file, to, out)
    lines = [
        f"wrote {out}: {len(result.sha256)} graph files, as exported ({result.seconds} s)",
        f"next: moonshine-tune evaluate --runtime-dir {quoted(out)} --manifest test.jsonl",
    ]
    show("\n".join(lines), result, as_json=as_json)
