"""Reference pages of the documentation, generated from the program.

`python -m moonshine_tune.cli.reference docs` writes them all; a test compares them.
"""

import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import typer

from moonshine_tune.cli.app import app
from moonshine_tune.cli.settings import as_text
from moonshine_tune.config.resolve import preset_names, read_preset
from moonshine_tune.config.settings import RunSettings, setting_rows
from moonshine_tune.core import errors
from moonshine_tune.core.files import write_text_atomic
from moonshine_tune.core.nested import flatten

_GENERATED = "<!-- Generated: python -m moonshine_tune.cli.reference docs -->\n"
_COMMANDS_HEAD = """# Command line

Every command takes `--help`, and nearly all take `--json`: one JSON document as the last line of
stdout. Results go to stdout; progress and messages go to stderr. `--debug` with any command shows
the full stack trace of an error. The exit code tells the outcome: [exit codes](exit-codes.md).
"""
_CODES_HEAD = """# Exit codes

| code | meaning |
|---|---|
| 0 | done |
| 1 | the command ran, and the answer is no: a gate, a check or parity failed |
| 2 | the request is wrong: its input, its settings, or their combination |
| 3 | this machine cannot do it: memory, disk, network or a library is missing |
| 130 | interrupted by Ctrl-C, SIGTERM or the end of the connection (SIGHUP) |

With `--json` an error is a document too: under `error`, its `message`, `where`,
`hint` and `exit_code`.

## Errors

| class | code | meaning |
|---|---|---|
"""
_SETTINGS_HEAD = """# Settings

Set them in a YAML file (`--config FILE`), by a preset (`--preset NAME`) or one at a time
(`--set train.learning_rate=3e-4`). Later sources win: default, preset, file, flag, `--set`.
`run.json` records every value, and the source of each that is not the default.
`moonshine-tune settings` prints this list.
"""


def reference_pages() -> dict[str, str]:
    """Content of each generated page, by its path in the documentation's folder."""
    return {
        "settings.md": settings_page(),
        "reference/command-line.md": command_line_page(),
        "reference/exit-codes.md": exit_codes_page(),
    }


def settings_page() -> str:
    """Tables of every setting with its default and meaning, and of the presets' values."""
    parts = [_GENERATED + _SETTINGS_HEAD]
    for section, rows in groupby(setting_rows(), lambda row: row[0].rpartition(".")[0]):
        title = "Model"
        if section:
            described = RunSettings.model_fields[section].annotation
            title = f"`{section}`: {(getattr(described, '__doc__', '') or '').strip()}"
        lines = [f"## {title}", "", "| setting | default | meaning |", "|---|---|---|"]
        for name, default, meaning in rows:
            shown = "–" if default is None else f"`{as_text(default)}`"
            lines.append(f"| `{name}` | {shown} | {meaning} |")
        parts.append("\n".join(lines) + "\n")
    lines = ["## Presets", "", "| preset | sets |", "|---|---|"]
    for name in preset_names():
        content = ", ".join(f"`{key}={value}`" for key, value in flatten(read_preset(name)))
        lines.append(f"| `{name}` | {content} |")
    return "\n".join([*parts, *lines]) + "\n"


def command_line_page() -> str:
    """Every command with its arguments, options, defaults and example."""
    parts = [_GENERATED + _COMMANDS_HEAD]
    for name, command in walk_commands():
        lines = [f"## {name}", "", _paragraphs(command.help)]
        example = _paragraphs(command.epilog)
        if example:
            lines += ["", example]
        rows = [row for row in map(_option_row, command.params) if row is not None]
        if rows:
            lines += ["", "| argument or option | meaning | default |", "|---|---|---|", *rows]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def exit_codes_page() -> str:
    """The exit codes, and the errors that lead to them."""
    rows = []
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, errors.TuneError):
            summary = (kind.__doc__ or "").strip().splitlines()[0]
            rows.append(f"| `{kind.__name__}` | {kind.exit_code} | {summary} |")
    return _GENERATED + _CODES_HEAD + "\n".join(rows) + "\n"


def walk_commands() -> Iterator[tuple[str, Any]]:
    """Name and parser of every command, without the groups."""
    yield from _walk(typer.main.get_command(app), "")


def _walk(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _walk(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


def _paragraphs(text: str | None) -> str:
    joined = [" ".join(part.split()) for part in (text or "").split("\n\n")]
    return "\n\n".join(_escaped(part) for part in joined if part)


def _option_row(parameter: Any) -> str | None:
    """A table row; None for --help, which every command has."""
    if parameter.name == "help" or getattr(parameter, "hidden", False):
        return None
    is_option = parameter.param_type_name == "option"
    names = [*parameter.opts, *parameter.secondary_opts] if is_option else [parameter.name]
    meaning = _escaped(getattr(parameter, "help", None) or "")
    default = parameter.default
    shown = "required" if parameter.required else "" if _is_empty(default) else f"`{default}`"
    return f"| {' '.join(f'`{name}`' for name in names)} | {meaning} | {shown} |"


def _is_empty(default: Any) -> bool:
    return default is None or default is False or default in ("", []) or callable(default)


def _escaped(text: str) -> str:
    """Text without characters that Markdown would interpret, in a table cell too."""
    escaped = text.replace("|", "\\|").replace("<", "&lt;")
    return escaped.replace("*", "\\*").replace("_", "\\_")


def main() -> None:
    """Write all generated pages below the folder in the first argument."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "docs")
    for page, content in reference_pages().items():
        path = folder / page
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomic(path, content)


if __name__ == "__main__":
    main()
