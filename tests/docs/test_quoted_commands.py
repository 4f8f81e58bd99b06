"""Commands in messages are made to be pasted: every value in them is quoted for a shell."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

import moonshine_tune
from moonshine_tune.core.text import quoted

_SRC = Path(moonshine_tune.__file__).parent
# A value is part of a command if the words before it are one; in a hint also after an option.
_COMMAND = re.compile(r"moonshine-tune [a-z][^;`()\n]*$")
_OPTION = re.compile(r"--[a-z][a-z-]+[ =]$")


def _is_quoted(node: ast.AST) -> bool:
    calls = (ast.unparse(item.func) for item in ast.walk(node) if isinstance(item, ast.Call))
    return any(name in ("quoted", "shlex.quote", "shlex.join") for name in calls)


def _is_constant(node: ast.AST) -> bool:
    """Whether a value consists of the program's own constants, which need no quotes."""
    names = {item.id for item in ast.walk(node) if isinstance(item, ast.Name)}
    return bool(names) and all(name.isupper() for name in names)


def _unquoted(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of each value in a command of a module that is not quoted."""
    tree = ast.parse(source)
    names = {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and _is_quoted(node.value)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    hints = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword) and node.arg == "hint"
        for part in ast.walk(node.value)
    }
    for node in ast.walk(tree):
        before = ""
        for part in node.values if isinstance(node, ast.JoinedStr) else []:
            if isinstance(part, ast.Constant):
                before += str(part.value)
                continue
            assert isinstance(part, ast.FormattedValue)
            text = ast.unparse(part.value)
            is_safe = _is_quoted(part.value) or text in names or _is_constant(part.value)
            # Numbers have a format.
            is_word = _COMMAND.search(before) or (id(node) in hints and _OPTION.search(before))
            if is_word and not is_safe and part.format_spec is None:
                yield node.lineno, text
            before += "X"


def test_values_in_commands_are_quoted() -> None:
    paths = sorted(_SRC.rglob("*.py"))
    faults = {
        str(path.relative_to(_SRC)): list(_unquoted(path.read_text(encoding="utf-8")))
        for path in paths
    }
    assert len(paths) > 100
    assert {name: values for name, values in faults.items() if values} == {}


def test_the_check_sees_an_unquoted_path() -> None:
    assert list(_unquoted('x = f"next: moonshine-tune report {out}"')) == [(1, "out")]
    assert list(_unquoted('E("no", hint=f"name it: --train {path}")')) == [(1, "path")]
    assert list(_unquoted('y = quoted(out)\nx = f"next: moonshine-tune report {y}"')) == []


@pytest.mark.parametrize("name", ["my runs; $(x)", "it's", "a`b", "*", "-x y", "ü\n"])
def test_a_shell_reads_back_what_was_quoted(name: str) -> None:
    assert shlex.split(f"moonshine-tune report {quoted(Path(name))}")[-1] == name
