"""`moonshine-tune merge`."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from moonshine_tune.cli.console import JsonFlag, TerminalProgress, show
from moonshine_tune.cli.options import OutFolder
from moonshine_tune.core.text import quoted


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("merge", epilog="Example: moonshine-tune merge --run runs/a --out merged")(merge)


def merge(
    run: Annotated[Path, Option(help="Run folder, or adapter folder with --model.")],
    out: OutFolder,
    model: Annotated[str | None, Option(help="Base model [default: the run's].")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Merge an adapter into its base: a checkpoint that transformers loads without PEFT."""
    from moonshine_tune.export.merged_checkpoint import merge as run_merge

    result = run_merge(run, out, progress=TerminalProgress(), model=model)
    text = (
        f"merged {result.changed} of {result.tensors} tensors of {result.base}\n"
        f"checkpoint  {result.checkpoint_dir}\n"
        f"train or evaluate it with: --model {quoted(result.checkpoint_dir)}"
    )
    show(text, result, as_json=as_json)
