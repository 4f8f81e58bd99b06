"""`moonshine-tune merge`."""

from enum import StrEnum
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


class _Dtype(StrEnum):
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


def merge(
    run: Annotated[Path, Option(help="Run folder or adapter folder.")],
    out: OutFolder,
    model: Annotated[
        str | None, Option(help="Base model [default: the one that the run or adapter names].")
    ] = None,
    dtype: Annotated[
        _Dtype, Option(help="Number format; 16 bits lose a part of what the adapter learned.")
    ] = _Dtype.float32,
    as_json: JsonFlag = False,
) -> None:
    """Merge an adapter into its base: a checkpoint that transformers loads without PEFT."""
    from moonshine_tune.export.merged_checkpoint import merge as run_merge

    result = run_merge(run, out, progress=TerminalProgress(), model=model, dtype=dtype.value)
    lines = [
        f"merged {result.changed} of {result.tensors} tensors of {result.base}, {result.dtype}",
        f"checkpoint  {result.checkpoint_dir}",
        f"train or evaluate it with: --model {quoted(result.checkpoint_dir)}",
    ]
    if result.relative_error:
        lines.insert(
            1,
            f"rounding to {result.dtype} is an error of {100 * result.relative_error:.1f} % of "
            "what the adapter changed; without --dtype there is none",
        )
    show("\n".join(lines), result, as_json=as_json)
