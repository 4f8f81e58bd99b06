"""YAML files of users, read within limits, and YAML files that ship with the package.

What is read is what JSON has: texts, numbers, true, false, null, lists and mappings. A date stays a
text. PyYAML alone takes minutes for nine lines of aliases, and fails in its own code for values
that do not fit their tag.
"""

import math
from collections.abc import Hashable
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode

from moonshine_tune.core.bounded_files import read_bounded, utf8_text
from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.json_text import MAX_DIGITS
from moonshine_tune.core.text import first_line

# The longest file that ships has 60 lines. PyYAML reads about 10,000 values a second.
MAX_BYTES = 100_000
MAX_DEPTH = 32
MAX_ALIASES = 100
# Values, counted with those that aliases repeat.
MAX_VALUES = 5_000
_TAG = "tag:yaml.org,2002:"
_SHORT = 60


def shipped_names(folder: str) -> tuple[str, ...]:
    """Names of the YAML files in a folder of the package, without their ending."""
    files = (resources.files("moonshine_tune") / folder).iterdir()
    return tuple(sorted(f.name.removesuffix(".yaml") for f in files if f.name.endswith(".yaml")))


def read_shipped(folder: str, name: str) -> Any:
    """Content of a YAML file that ships with the package."""
    file = resources.files("moonshine_tune") / folder / f"{name}.yaml"
    return parse_yaml(file.read_text(encoding="utf-8"))


def read_yaml(path: Path) -> Any:
    """Content of an existing YAML file.

    Raises:
        RequestError: not UTF-8 text, not YAML (with the line), or beyond a limit.
    """
    return parse_yaml(utf8_text(read_bounded(path, MAX_BYTES), path), where=path)


def parse_yaml(text: str, *, where: str | Path | None = None) -> Any:
    """The value of a YAML text with one document.

    Args:
        where: the file, for the error.

    Raises:
        RequestError: not YAML (with the line), or beyond a limit.
    """
    if len(text) > MAX_BYTES:
        raise RequestError(f"longer than {MAX_BYTES:,} characters of YAML", where=where)
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or error
        raise RequestError(
            f"not YAML: {first_line(problem)}", where=where, line=mark.line + 1 if mark else None
        ) from error
    except (ValueError, OverflowError) as error:
        # An escape beyond the last character.
        raise RequestError(f"not YAML: {first_line(error)}", where=where) from error


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with limits, and with the types of JSON."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._aliases = self._values = 0
        # Values of each finished node, with what its aliases repeat.
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        """One node and all below it, counted."""
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        if self.check_event(yaml.AliasEvent):
            node = super().compose_node(parent, index)
            self._aliases += 1
            if id(node) not in self._sizes:
                raise _problem("an alias to what it is part of", mark)
            self._count(self._sizes[id(node)], mark)
            return node
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _problem(f"nested more than {MAX_DEPTH} levels deep", mark)
        before = self._values
        self._count(1, mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        self._sizes[id(node)] = self._values - before
        return node

    def _count(self, values: int, mark: yaml.Mark) -> None:
        self._values += values
        if self._values > MAX_VALUES or self._aliases > MAX_ALIASES:
            raise _problem(
                f"more than {MAX_VALUES:,} values (with those that aliases repeat) or "
                f"{MAX_ALIASES} aliases",
                mark,
            )

    def construct_object(self, node: Node, deep: bool = False) -> Any:
        """The value of a node."""
        kind = node.tag.removeprefix(_TAG)
        if node.tag not in self.yaml_constructors:
            raise _problem(f"the type {first_line(kind, _SHORT)} is not read", node.start_mark)
        try:
            value = super().construct_object(node, deep=deep)
            is_usable = not isinstance(value, int) or math.isfinite(value)
        except (ArithmeticError, ValueError, LookupError, AttributeError, TypeError) as error:
            raise _problem(f"{_shown(node)} is not of the type {kind}", node.start_mark) from error
        if not is_usable:
            raise _problem(f"{_shown(node)} is not a number that can be used", node.start_mark)
        if isinstance(value, str) and not value.isascii():
            try:
                value.encode("utf-8")
            except UnicodeEncodeError as error:
                raise _problem("half of a character in an escape", node.start_mark) from error
        return value

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """A mapping; a key that repeats is an error, because one of its values would be lost."""
        if isinstance(node, MappingNode):
            keys = [key.value for key, _ in node.value if isinstance(key, ScalarNode)]
            if len(set(keys)) < len(keys):
                repeated = next(key for key in keys if keys.count(key) > 1)
                raise _problem(f"the key {first_line(repr(repeated), _SHORT)} is there twice",
                               node.start_mark)  # fmt: skip
        return super().construct_mapping(node, deep=deep)

    def construct_yaml_int(self, node: ScalarNode) -> int:
        """An integer that a float can hold."""
        if len(node.value) > MAX_DIGITS:
            message = f"an integer of {len(node.value)} digits, the most is {MAX_DIGITS}"
            raise _problem(message, node.start_mark)
        return super().construct_yaml_int(node)


def _problem(message: str, mark: yaml.Mark) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=message, problem_mark=mark)


def _shown(node: Node) -> str:
    return first_line(repr(node.value), _SHORT) if isinstance(node, ScalarNode) else "this value"


_TYPES = ("null", "bool", "int", "float", "str", "seq", "map")
_Loader.yaml_constructors = {
    **{f"{_TAG}{name}": yaml.SafeLoader.yaml_constructors[f"{_TAG}{name}"] for name in _TYPES},
    f"{_TAG}int": _Loader.construct_yaml_int,
}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != f"{_TAG}timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
