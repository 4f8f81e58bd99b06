"""Reference pages of the documentation, generated from the program itself.

`python -m moonshine_tune.cli.reference docs` writes them all; a test compares.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from moonshine_tune.cli.app import app
from moonshine_tune.cli.settings_reference import settings_reference
from moonshine_tune.core import errors
from moonshine_tune.core.files import write_text_atomic

_REMARK = "<!-- Generated: python -m moonshine_tune.cli.reference docs -->\n"
_COMMANDS_HEAD = """# Command line

Every command takes `--help`, and nearly all take `--json`: one JSON document as the last line of
stdout. Talk and progress go to stderr. `--debug` with any command shows the full stack trace of an
error. What the numbers of the exit mean: [exit codes](exit-codes.md).
"""
_CODES_HEAD = """# Exit codes

| code | meaning |
|---|---|
| 0 | done |
| 1 | it ran, and the answer is no: a gate, a check, parity |
| 2 | the request is wrong: input, settings, or their combination |
| 3 | this machine cannot: memory, disk, network, a missing library |
| 130 | interrupted with Ctrl-C |

With `--json` an error is a document too: under `error`, its `message`, `where`,
`hint` and `exit_code`.

## Kinds of errors

| kind | code | when |
|---|---|---|
"""


def reference_pages() -> dict[str, str]:
    """Content of each generated page by its path below docs/."""
    return {
        "settings.md": settings_reference(),
        "reference/command-line.md": command_line_page(),
        "reference/exit-codes.md": exit_codes_page(),
    }


def command_line_page() -> str:
    """Every command with its arguments, options, defaults and example."""
    parts = [_REMARK + _COMMANDS_HEAD]
    for name, command in walk_commands():
        lines = [f"## {name}", "", _paragraphs(command.help)]
        example = _paragraphs(command.epilog)
        if example:
            lines += ["", example]
        rows = [row for row in map(_row, command.params) if row is not None]
        if rows:
            lines += ["", "| argument or option | meaning | default |", "|---|---|---|", *rows]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def exit_codes_page() -> str:
    """The exit codes, and the errors that lead to them."""
    rows = []
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, errors.TuneError):
            first = (kind.__doc__ or "").strip().splitlines()[0]
            rows.append(f"| `{kind.__name__}` | {kind.exit_code} | {first} |")
    return _REMARK + _CODES_HEAD + "\n".join(rows) + "\n"


def walk_commands() -> Iterator[tuple[str, Any]]:
    """Name and parser of every command that does something, groups left out."""
    yield from _walk(typer.main.get_command(app), "")


def _walk(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _walk(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


def _paragraphs(text: str | None) -> str:
    joined = [" ".join(part.split()) for part in (text or "").split("\n\n")]
    return "\n\n".join(_plain(part) for part in joined if part)


def _row(parameter: Any) -> str | None:
    """A table row; None for the option that every command has."""
    if parameter.name == "help" or getattr(parameter, "hidden", False):
        return None
    is_option = parameter.param_type_name == "option"
    words = [*parameter.opts, *parameter.secondary_opts] if is_option else [parameter.name]
    meaning = _plain(getattr(parameter, "help", None) or "")
    default = parameter.default
    shown = "required" if parameter.required else "" if _is_empty(default) else f"`{default}`"
    return f"| {' '.join(f'`{word}`' for word in words)} | {meaning} | {shown} |"


def _is_empty(default: Any) -> bool:
    return default is None or default is False or default == [] or callable(default)


def _plain(text: str) -> str:
    """Text that Markdown leaves as it is, within a table too."""
    escaped = text.replace("|", "\\|").replace("<", "&lt;")
    return escaped.replace("*", "\\*").replace("_", "\\_")


def main() -> None:
    """Write all generated pages below the folder that is named."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "docs")
    for page, content in reference_pages().items():
        path = folder / page
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomic(path, content)


if __name__ == "__main__":
    main()
