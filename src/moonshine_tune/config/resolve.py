"""Settings: small, strict data. Default < preset < file < flag, each value with its source."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from moonshine_tune.config.settings import RunSettings
from moonshine_tune.core.errors import ProblemsError, RequestError
from moonshine_tune.core.nested import flatten
from moonshine_tune.core.text import did_you_mean
from moonshine_tune.core.yaml import read_shipped, read_yaml, shipped_names

# Settings that name files; in a settings file they are relative to it.
PATH_SETTINGS = ("data.train", "data.dev", "data.canary", "data.replay", "augment.noise",
                 "augment.rooms")  # fmt: skip


@dataclass(frozen=True)
class ResolvedSettings:
    """Settings with, for each key that is not at its default, where its value came from."""

    settings: RunSettings
    sources: dict[str, str]


def preset_names() -> tuple[str, ...]:
    """Names of the presets that ship with the package."""
    return shipped_names("config/presets")


def read_preset(name: str) -> dict[str, Any]:
    """The content of a shipped preset.

    Raises:
        RequestError: there is none of that name.
    """
    if name not in preset_names():
        raise RequestError(
            f"no preset is called {name!r}{did_you_mean(name, preset_names())}",
            hint=f"one of: {', '.join(preset_names())}",
        )
    return dict(read_shipped("config/presets", name) or {})


def read_settings_file(path: Path) -> dict[str, Any]:
    """A YAML settings file; manifest paths in it are made absolute.

    Raises:
        RequestError: it is missing or not a YAML mapping.
    """
    if not path.is_file():
        raise RequestError("no such settings file", where=path)
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise RequestError("settings must be a YAML mapping", where=path)
    for name in PATH_SETTINGS:
        section, _, key = name.partition(".")
        values = content.get(section)
        if isinstance(values, dict) and isinstance(values.get(key), str):
            values[key] = str((path.parent / Path(values[key]).expanduser()).absolute())
    return content


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """`--set train.learning_rate=3e-4` as a nested mapping; values are YAML.

    Raises:
        RequestError: an assignment without `=`.
    """
    result: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise RequestError(
                f"--set {assignment!r} has no '='", hint="write: --set train.learning_rate=3e-4"
            )
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise RequestError(
                f"--set {assignment!r}: the value cannot be read as YAML",
                hint=f"put it into quotes: --set {key.strip()}='\"{text}\"'",
            ) from error
        if isinstance(value, str):
            # YAML 1.1 reads 3e-4 as text; people mean a number.
            with suppress(ValueError):
                value = float(value)
        place = result
        *parents, last = key.strip().split(".")
        for parent in parents:
            inner = place.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise RequestError(f"--set {key}: {parent!r} is set to a value already")
            place = inner
        place[last] = value
    return result


def resolve_settings(layers: Sequence[tuple[str, Mapping[str, Any]]]) -> ResolvedSettings:
    """Lay settings over each other, later ones win; all problems are reported at once.

    Args:
        layers: (source, nested mapping), weakest first, such as ("preset tiny", {...}).

    Raises:
        ProblemsError: unknown keys (with the nearest name) or values out of range.
    """
    merged: dict[str, Any] = {}
    sources: dict[str, str] = {}
    problems: list[str] = []
    known = {key for key, _ in flatten(RunSettings().model_dump())}
    for source, content in layers:
        for key, value in flatten(content):
            if key not in known:
                problems.append(f"{source}: no setting is called {key!r}{did_you_mean(key, known)}")
                continue
            sources[key] = source
            place = merged
            *parents, last = key.split(".")
            for parent in parents:
                place = place.setdefault(parent, {})
            place[last] = value
    try:
        settings = RunSettings.model_validate(merged)
    except ValidationError as error:
        for item in error.errors():
            key = ".".join(str(part) for part in item["loc"])
            where = _source_of(key, sources)
            problems.append(f"{where}: {key} = {item['input']!r}: {item['msg']}")
        settings = RunSettings()
    if problems:
        raise ProblemsError(
            f"{len(problems)} settings are wrong",
            problems,
            hint="all settings and their meaning: docs/settings.md",
        )
    return ResolvedSettings(settings, sources)


def _source_of(key: str, sources: Mapping[str, str]) -> str:
    """Where a value came from, also one that lies inside of a list (`train.stages.0.steps`)."""
    while key:
        if key in sources:
            return sources[key]
        key = key.rpartition(".")[0]
    return "settings"
