"""YAML files of users, and YAML files that ship with the package."""

from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from moonshine_tune.core.errors import RequestError


def shipped_names(folder: str) -> tuple[str, ...]:
    """Names of the YAML files in a folder of the package, without their ending."""
    files = (resources.files("moonshine_tune") / folder).iterdir()
    return tuple(sorted(f.name.removesuffix(".yaml") for f in files if f.name.endswith(".yaml")))


def read_shipped(folder: str, name: str) -> Any:
    """Content of a YAML file that ships with the package."""
    file = resources.files("moonshine_tune") / folder / f"{name}.yaml"
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def read_yaml(path: Path) -> Any:
    """Content of an existing YAML file.

    Raises:
        RequestError: not UTF-8 text, or not YAML (with the line).
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise RequestError(f"not UTF-8 text (byte {error.start})", where=path) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise RequestError(
            f"not YAML: {getattr(error, 'problem', error)}",
            where=path,
            line=mark.line + 1 if mark else None,
        ) from error
