"""Settings and their sources; the later one wins: default, preset, file, flag, `--set`."""

import json
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from moonshine_tune.config.implied import imply_settings
from moonshine_tune.config.settings import REPLAY_WORDS, RunSettings
from moonshine_tune.core.errors import ProblemsError, RequestError
from moonshine_tune.core.names import home_expanded
from moonshine_tune.core.nested import flatten, unflatten
from moonshine_tune.core.text import did_you_mean, first_line
from moonshine_tune.core.yaml import parse_yaml, read_shipped, read_yaml, shipped_names

# Files that a run reads. Like the parent, they are relative to the settings file that names them.
PATH_SETTINGS = ("data.train", "data.dev", "data.canary", "data.replay", "data.synthetic",
                 "data.unlabelled", "data.pseudo_labels", "data.terms",
                 "augment.noise", "augment.rooms")  # fmt: skip
PARENT_SETTING = "adapter.parent"
# The source of settings that the number of recordings decided.
FEW_RECORDINGS = "few recordings"

_WORDS = {"data.replay": REPLAY_WORDS}

Layer = tuple[str, Mapping[str, Any]]
"""A source of settings and its values."""


@dataclass(frozen=True)
class ResolvedSettings:
    """Settings, and the source of each value that is not the default, by dotted key."""

    settings: RunSettings
    sources: dict[str, str]


def preset_names() -> tuple[str, ...]:
    """Names of the presets that ship with the package."""
    return shipped_names("config/presets")


def read_preset(name: str) -> dict[str, Any]:
    """Content of a shipped preset.

    Raises:
        RequestError: no preset has that name.
    """
    if name not in preset_names():
        raise RequestError(
            f"no preset is called {name!r}{did_you_mean(name, preset_names())}",
            hint=f"one of: {', '.join(preset_names())}",
        )
    return dict(read_shipped("config/presets", name) or {})


def read_settings_file(path: Path) -> dict[str, Any]:
    """Content of a YAML settings file, with absolute paths.

    Raises:
        RequestError: the file is missing or not a YAML mapping.
    """
    if not path.is_file():
        raise RequestError("no such settings file", where=path)
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise RequestError("settings must be a YAML mapping", where=path)
    for name in (*PATH_SETTINGS, PARENT_SETTING):
        section, _, key = name.partition(".")
        values = content.get(section)
        if isinstance(values, dict) and isinstance(values.get(key), str):
            values[key] = absolute_path(name, values[key], path.parent)
    return content


def absolute_path(name: str, value: str | Path, folder: Path) -> str:
    """The value of a setting that is a path, relative to `folder`; its words stay, such as `auto`.

    Args:
        name: of the setting, such as `data.replay`.
    """
    if str(value) in _WORDS.get(name, ()):
        return str(value)
    return str((folder / home_expanded(value)).absolute())


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
            value = parse_yaml(text)
        except RequestError as error:
            quoted = f"{key.strip()}={json.dumps(first_line(text, 40), ensure_ascii=False)}"
            raise RequestError(
                f"--set {first_line(repr(assignment), 100)}: the value cannot be read "
                f"({error.message})",
                hint=f"put a text into quotes: --set {shlex.quote(quoted)}",
            ) from error
        if isinstance(value, str):
            # YAML 1.1 reads 3e-4 as text; people mean a number.
            with suppress(ValueError):
                value = float(value)
        branch = result
        *parents, last = key.strip().split(".")
        for parent in parents:
            section = branch.setdefault(parent, {})
            if not isinstance(section, dict):
                raise RequestError(f"--set {key}: {parent!r} is set to a value already")
            branch = section
        branch[last] = value
    return result


def settings_layers(
    preset: str | None,
    config: Path | None,
    assignments: Sequence[str] | None,
    *,
    flags: Mapping[str, str | None],
    manifests: Mapping[str, str | Path | None] | None = None,
    parent: Path | None = None,
) -> list[Layer]:
    """The layers of a command for `resolve_settings`; sources that are not given are left out.

    Args:
        flags: settings by their names, such as `model`; None if the flag is not given.
        manifests: paths by their setting in `data`, relative to the current folder, or a word that
            the setting knows (`--replay auto`); None likewise.
        parent: run or adapter folder to start at, relative to the current folder; None likewise.
    """
    layers: list[Layer] = []
    if preset:
        layers.append((f"preset {preset}", read_preset(preset)))
    if config:
        layers.append((f"file {config.name}", read_settings_file(config)))
    given: dict[str, Any] = {name: value for name, value in flags.items() if value}
    for name, path in (manifests or {}).items():
        if path:
            given[f"data.{name}"] = absolute_path(f"data.{name}", path, Path())
    if parent:
        given[PARENT_SETTING] = str(parent.absolute())
    layers += [("flag", unflatten(given)), ("--set", parse_assignments(assignments or ()))]
    return [layer for layer in layers if layer[1]]


def resolve_settings(layers: Sequence[Layer]) -> ResolvedSettings:
    """Merge layers of settings, later ones over earlier ones; all problems are reported at once.

    Args:
        layers: weakest first, such as ("preset tiny", {"train": {"steps": 100}}); keys may be
            nested or dotted.

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
            merged[key] = value
    problems += imply_settings(merged, sources, layers)
    try:
        settings = RunSettings.model_validate(unflatten(merged))
    except ValidationError as error:
        for item in error.errors():
            key = ".".join(str(part) for part in item["loc"])
            source = _source_of(key, sources)
            problems.append(f"{source}: {key} = {item['input']!r}: {item['msg']}")
        settings = RunSettings()
    if problems:
        raise ProblemsError(
            f"{len(problems)} settings are wrong" if problems[1:] else "1 setting is wrong",
            problems,
            hint="list all settings: moonshine-tune settings",
        )
    return ResolvedSettings(settings, sources)


def _source_of(key: str, sources: Mapping[str, str]) -> str:
    """Source of a value, also of one inside a list (`train.stages.0.steps`)."""
    while key:
        if key in sources:
            return sources[key]
        key = key.rpartition(".")[0]
    return "settings"
