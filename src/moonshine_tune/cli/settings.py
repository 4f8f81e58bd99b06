"""`moonshine-tune settings`: what can be set, and when to change it."""

import shutil
import textwrap
from typing import Annotated, Any

import typer

from moonshine_tune.cli.console import JsonFlag, show
from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.text import did_you_mean


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("settings", epilog="Example: moonshine-tune settings retain")(settings)


def settings(
    name: Annotated[
        str, typer.Argument(help="A section or a setting: train, adapter.rank [default: all].")
    ] = "",
    as_json: JsonFlag = False,
) -> None:
    """List the settings of a training run: default, meaning, and when to change each."""
    from moonshine_tune.config.resume import at_resume
    from moonshine_tune.config.settings import setting_rows

    rows = list(setting_rows())
    shown = [row for row in rows if not name or row[0] == name or row[0].startswith(f"{name}.")]
    if not shown:
        known = {key for key, *_ in rows} | {key.partition(".")[0] for key, *_ in rows}
        raise RequestError(
            f"no setting is called {name!r}{did_you_mean(name, known)}",
            hint="list all settings: moonshine-tune settings",
        )
    lines = []
    width = min(98, shutil.get_terminal_size((98, 24)).columns)
    for key, default, description in shown:
        lines.append(f"{key}  [default: {as_text(default)}]")
        lines.append(
            textwrap.fill(description, width, initial_indent="    ", subsequent_indent="    ")
        )
        lines.append(f"    At a resume: {at_resume(key)}.")
    document = {
        key: {"default": default, "meaning": text, "resume": at_resume(key)}
        for key, default, text in shown
    }
    show("\n".join(lines), document, as_json=as_json)


def as_text(value: Any) -> str:
    """A default as people write it."""
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return "[" + ", ".join(as_text(item) for item in value) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)
