"""How help texts and errors of the command line read, for every command."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, get_args

from typer.core import TyperGroup

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.text import first_line

# The commands in the order of the work, which is not the order of their names.
_SECTIONS: Mapping[str, tuple[str, ...]] = {
    "Start": ("doctor", "demo", "studio", "models"),
    "Data": ("data",),
    "Train": ("train", "combine", "estimate", "settings", "runs", "curve", "ablate", "plan"),
    "Evaluate": ("evaluate", "compare", "report", "try", "transcribe"),
    "Ship": ("export", "apply", "merge", "benchmark", "package", "verify", "push"),
}
_TYPES = {str: "<text>", Path: "<path>", int: "<number>", float: "<number>"}
# The parser leaves a paragraph as it is that begins with this character.
_UNWRAPPED = "\b"
# More than any summary has: a summary goes on in the next line instead of ending in "...".
_LONGEST_SUMMARY = 400


class CommandGroup(TyperGroup):
    """A group that lists each command with its complete summary."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands under one heading."""
        self._write_section("Commands", self.list_commands(ctx), ctx, formatter)

    def _write_section(self, title: str, names: list[str], ctx: Any, formatter: Any) -> None:
        commands = {name: self.get_command(ctx, name) for name in names}
        rows = [
            # All sections have the width of the longest name.
            (name.ljust(max(map(len, self.commands))), command.get_short_help_str(_LONGEST_SUMMARY))
            for name, command in commands.items()
            if command is not None and not command.hidden
        ]
        if rows:
            with formatter.section(title):
                formatter.write_dl(rows)


class SectionedCommandGroup(CommandGroup):
    """The commands of the program, in the sections of the work. The last one has the rest."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write a list of commands for each section."""
        names = self.list_commands(ctx)
        for title, members in _SECTIONS.items():
            self._write_section(title, [n for n in members if n in names], ctx, formatter)
        listed = {name for members in _SECTIONS.values() for name in members}
        self._write_section("More", [n for n in names if n not in listed], ctx, formatter)


def improve_help(command: Any) -> None:
    """Let the help of a command, or of all in a group, show plain types and whole examples."""
    for child in getattr(command, "commands", {}).values():
        improve_help(child)
    _name_plain_types(command)
    _show_examples_whole(command)


def _name_plain_types(command: Any) -> None:
    """Let the help of a command show `<text>` and `<path>`, not the types of Python."""
    for parameter in command.params:
        descriptor = getattr(parameter, "type_descriptor", None)
        annotation = getattr(descriptor, "annotation", None)
        element = (get_args(annotation) or (annotation,))[0]
        if element in _TYPES:
            parameter.display_type = partial(_always, _TYPES[element])


def _always(name: str, _context: Any) -> str:
    return name


def _show_examples_whole(command: Any) -> None:
    """Let the help show each example on a line of its own, which can be copied as it is.

    Wrapped text breaks after hyphens, also inside of `--out`.
    """
    kind, colon, text = (command.epilog or "").partition(": ")
    if not colon or kind not in ("Example", "Examples"):
        return
    lines = [_UNWRAPPED, f"{kind}:"]
    for example in text.split(" ; "):
        purpose, _, line = example.rpartition(": ")
        lines.append(f"  {line}  # {purpose}" if purpose else f"  {example}")
    command.epilog = "\n".join(lines)


def examples_at(error: Any) -> str:
    """The examples of the command that an error of the parser is about; empty where it has none."""
    command = getattr(getattr(error, "ctx", None), "command", None)
    first, _, examples = str(getattr(command, "epilog", "")).partition("\n")
    return examples if first == _UNWRAPPED else ""


def usage_error(error: Any) -> RequestError:
    """An error of the command-line parser as one of this program, for `--json`."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "moonshine-tune"
    return RequestError(first_line(error.format_message()), hint=f"{path} --help")
