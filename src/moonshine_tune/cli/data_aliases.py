"""`moonshine-tune data aliases`: what a model writes in place of listed terms."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from moonshine_tune.cli.console import JsonFlag, TerminalProgress, show, table
from moonshine_tune.cli.options import DeviceOption, ModelOption
from moonshine_tune.core.text import quoted

if TYPE_CHECKING:
    from moonshine_tune.data.aliases.run import AliasesResult

_EPILOG = (
    "Example: moonshine-tune data aliases terms.txt --model tiny --texts train.jsonl "
    "--out aliases.json"
)
_SHOWN, _SHOWN_ALIASES = 40, 4


def register(app: typer.Typer) -> None:
    """Add the command `aliases` to the `data` commands."""
    app.command("aliases", epilog=_EPILOG)(aliases)


def aliases(
    terms: Annotated[Path, Argument(help="Terms, one per line, as transcripts should have them.")],
    out: Annotated[Path, Option(dir_okay=False, help="File to write: aliases.json.")],
    model: ModelOption = None,
    adapter: Annotated[
        Path | None, Option(help="Run or adapter folder; its base is asked too.")
    ] = None,
    takes: Annotated[
        Path | None, Option(help="Manifest of recordings in which terms are spoken.")
    ] = None,
    texts: Annotated[
        list[Path] | None,
        Option(
            help="Your own manifests or texts, repeatable: no alias is in them, and their "
            "sentences with a term are spoken."
        ),
    ] = None,
    voices: Annotated[
        int, Option(help="Number of synthetic voices, 0 to 10; 0 for recordings alone.")
    ] = 6,
    device: DeviceOption = "auto",
    force: Annotated[bool, Option("--force", help="Replace an existing file.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Find what a model writes in place of listed terms, to map it back without training.

    Each term is spoken by synthetic voices in short sentences. What stands in its place becomes an
    alias, unless people say it: words of a dictionary, of your texts and of other terms are not.
    """
    from moonshine_tune.data.aliases.run import AliasesRequest, find_aliases

    request = AliasesRequest(
        terms, out, model, adapter, takes, tuple(texts or ()), voices, device, force
    )
    result = find_aliases(request, TerminalProgress())
    show(_summary(result), result.to_record(), as_json=as_json)


def _summary(result: "AliasesResult") -> str:
    rows = []
    for item in result.terms[:_SHOWN]:
        clear = item.takes - item.unclear
        shown = ", ".join(alias.text for alias in item.aliases[:_SHOWN_ALIASES])
        more = len(item.aliases) - _SHOWN_ALIASES
        rows.append(
            [item.term, f"{item.right} of {clear}", shown + (f", +{more}" if more > 0 else "")]
        )
    lines = [table(["term", "written right", "aliases"], rows)]
    if len(result.terms) > _SHOWN:
        lines.append(f"… and {len(result.terms) - _SHOWN:,} more terms; the file has all")
    left_out = sum(len(item.left_out) for item in result.terms)
    lines.append(
        f"{len(result.record.aliases):,} aliases of {len(result.terms):,} terms, "
        f"{left_out:,} texts left out with their reasons: {result.out}"
    )
    lines.append(
        "measure them: moonshine-tune evaluate --manifest test.jsonl --aliases "
        f"{quoted(result.out)}"
    )
    return "\n".join(lines)
