"""`moonshine-tune models`: list, fetch and rebuild."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from moonshine_tune.cli.console import JsonFlag, TerminalProgress, show, table
from moonshine_tune.cli.help import CommandGroup

app = typer.Typer(
    cls=CommandGroup,
    no_args_is_help=True,
    help="List, fetch and rebuild Moonshine models.",
)


# Models of one license that are counted instead of named.
_MANY = 10


class _SourceName(StrEnum):
    wheel = "wheel"
    hub = "hub"
    store = "store"


@app.command("list", epilog="Example: moonshine-tune models list --json")
def list_command(as_json: JsonFlag = False) -> None:
    """List every Moonshine model: family, language, size, sources, and what is on this disk."""
    from moonshine_tune.registry.catalog import CATALOG
    from moonshine_tune.registry.manage import list_models

    entries = list_models()
    rows = [
        [entry.name, entry.family, entry.language, f"{entry.parameters / 1e6:.1f} M",
         entry.cached or "-", ", ".join(entry.sources) or "-"]
        for entry in entries
    ]  # fmt: skip
    headers = ["name", "family", "language", "parameters", "on disk", "sources"]
    by_license: dict[str, list[str]] = {}
    for entry in entries:
        by_license.setdefault(entry.licence, []).append(entry.name)  # codespell:ignore
    licenses = []
    for license_text, members in by_license.items():
        which = ", ".join(members) if len(members) < _MANY else f"the other {len(members)}"
        licenses.append(f"license of {which}: {license_text}")
    names = ", ".join(f"{short} = {name}" for short, name in CATALOG["aliases"].items())
    text = "\n".join([table(headers, rows), *licenses, f"other names: {names}"])
    show(text, {"models": entries}, as_json=as_json)


@app.command("fetch", epilog="Example: moonshine-tune models fetch tiny --source wheel")
def fetch_command(
    name: Annotated[str, typer.Argument(help="Catalog name or hub id.")],
    out: Annotated[
        Path | None, typer.Option(file_okay=False, help="Copy the checkpoint to this new folder.")
    ] = None,
    source: Annotated[
        _SourceName | None, typer.Option(help="Try only this source, not the cache.")
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Do not use the network.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Download a model from the first source that has it."""
    from moonshine_tune.registry.manage import fetch_model

    report = fetch_model(
        name,
        out=out,
        source=source.value if source else None,
        offline=offline,
        progress=TerminalProgress(),
    )
    lines = [
        f"{report.name} ({report.family}): {report.reason}",
        *(f"  not from the {a.source}: {a.reason}" for a in report.attempts if not a.served),
        f"checkpoint  {report.checkpoint_dir}",
        f"runtime     {report.runtime_dir or 'none'}",
        f"revision    {report.revision}",
        *([f"license     {report.licence}"] if report.licence else []),  # codespell:ignore
    ]
    show("\n".join(lines), report, as_json=as_json)


@app.command("rebuild", epilog="Example: moonshine-tune models rebuild tiny-en --out tiny")
def rebuild_command(
    runtime_dir: Annotated[Path, typer.Argument(help="A runtime folder of either family.")],
    out: Annotated[Path, typer.Option(file_okay=False, help="The new checkpoint folder.")],
    as_json: JsonFlag = False,
) -> None:
    """Rebuild a trainable checkpoint from the Moonshine runtime's 8-bit files."""
    from moonshine_tune.runtime.rebuild import rebuild_checkpoint

    result = rebuild_checkpoint(runtime_dir, out)
    text = (
        f"rebuilt {result.tensors} tensors, {result.parameters / 1e6:.1f} M parameters\n"
        f"checkpoint  {result.checkpoint_dir}"
    )
    show(text, result, as_json=as_json)
