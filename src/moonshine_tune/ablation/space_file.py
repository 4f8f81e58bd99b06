"""Reading search spaces: from a file or a shipped one, with everything wrong in it together."""

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from moonshine_tune.ablation.space import (
    Choice,
    Dimension,
    Range,
    Scalar,
    SearchSpace,
)
from moonshine_tune.config.resolve import read_preset, resolve_settings
from moonshine_tune.config.settings import RunSettings
from moonshine_tune.core.errors import ProblemsError, RequestError
from moonshine_tune.core.nested import flatten, unflatten
from moonshine_tune.core.yaml import read_shipped, read_yaml, shipped_names

_KEYS = ("preset", "settings", "space")
_RANGE_KEYS = ("low", "high", "step", "log")
# Trials are compared with each other: all must be scored on the same utterances, the same way.
_SCORING = ("data.dev", "data.dev_share", "data.canary", "data.normalizer",
            "select.max_dev_utterances", "select.canary_bound", "retain.watched_clips")  # fmt: skip
_PATHS = ("data.train", "data.replay", "augment.noise", "augment.rooms")


def space_names() -> tuple[str, ...]:
    """Names of the search spaces that ship with the package."""
    return shipped_names("ablation/spaces")


def read_space(name: str) -> SearchSpace:
    """A search space by the path of its YAML file, or by the name of a shipped one.

    Raises:
        RequestError: there is no such file or name, or it is not YAML.
        ProblemsError: everything that is wrong in it, together: unknown settings with the nearest
            name, values that the setting does not take, dimensions that overlap.
    """
    path = Path(name)
    if name in space_names() and not path.is_file():
        return _Reader(name, None).read(read_shipped("ablation/spaces", name))
    if not path.is_file():
        raise RequestError(
            "no such search space",
            where=path,
            hint=f"name a YAML file, or one that is shipped: {', '.join(space_names())}",
        )
    return _Reader(path.name, path.parent).read(read_yaml(path))


def setting_types(section: type[BaseModel] = RunSettings, prefix: str = "") -> dict[str, Any]:
    """The type of every setting by its full key."""
    found: dict[str, Any] = {}
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found |= setting_types(kind, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = kind
    return found


class _Reader:
    """Reads one space and collects what is wrong with it."""

    def __init__(self, name: str, folder: Path | None) -> None:
        self._name, self._folder = name, folder
        self._types = setting_types()
        self._problems: list[str] = []
        self._layers: list[tuple[str, Mapping[str, Any]]] = []

    def read(self, content: object) -> SearchSpace:
        if not isinstance(content, Mapping):
            raise RequestError("a search space must be a YAML mapping", where=self._name)
        for key in content:
            if key not in _KEYS:
                self._problem(f"no entry is called {key!r}; one of: {', '.join(_KEYS)}")
        self._read_fixed(content)
        space = content.get("space")
        dimensions: list[Dimension] = []
        if isinstance(space, Mapping) and space:
            for key, value in space.items():
                dimension = self._dimension(str(key), value)
                if dimension is not None:
                    dimensions.append(dimension)
            self._check_overlap(dimensions)
        else:
            self._problem("nothing varies: `space:` must list settings with their values")
        if self._problems:
            raise ProblemsError(
                f"the search space {self._name} is wrong in {len(self._problems)} places",
                self._problems,
                hint="list all settings: moonshine-tune settings",
            )
        return SearchSpace(self._name, tuple(dimensions), tuple(self._layers))

    def _problem(self, text: str) -> None:
        if text not in self._problems:
            self._problems.append(text)

    def _read_fixed(self, content: Mapping[str, Any]) -> None:
        layers: list[tuple[str, Mapping[str, Any]]] = []
        preset, settings = content.get("preset"), content.get("settings")
        if preset is not None:
            try:
                layers.append((f"preset {preset}", read_preset(str(preset))))
            except RequestError as error:
                self._problem(f"preset: {error.message}")
        if isinstance(settings, Mapping):
            fixed = {key: self._value(key, value) for key, value in flatten(settings)}
            layers.append((f"space {self._name}", unflatten(fixed)))
        elif settings is not None:
            self._problem("`settings:` must be a mapping, as in a settings file")
        try:
            resolve_settings(layers)
        except ProblemsError as error:
            for problem in error.problems:
                self._problem(problem)
        else:
            self._layers = layers

    def _dimension(self, key: str, value: object) -> Dimension | None:
        bundle = (
            key not in self._types
            and isinstance(value, Sequence)
            and not isinstance(value, str)
            and bool(value)
            and all(isinstance(item, Mapping) for item in value)
        )
        if not bundle and not self._check_key(key):
            return None
        if isinstance(value, Mapping):
            numbers = self._range(key, value)
            return None if numbers is None else Dimension(key, numbers=numbers)
        if not isinstance(value, list) or not value:
            self._problem(
                f"{key}: give a list of values, or a range {{low: …, high: …}}, not {value!r}"
            )
            return None
        choices = [
            Choice(_bundle_label(settings), settings) if bundle else Choice(label, settings)
            for label, settings in (self._choice(key, item, bundle) for item in value)
        ]
        labels = [json.dumps(choice.label) for choice in choices]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            self._problem(f"{key}: listed twice: {', '.join(twice)}")
        for choice in choices:
            self._check_values(key, choice.settings)
        return Dimension(key, tuple(choices))

    def _choice(self, key: str, value: Any, bundle: bool) -> tuple[Scalar, dict[str, Any]]:
        if bundle:
            flat = dict(flatten(value))
            for inner in flat:
                self._check_key(inner)
            return "", {inner: self._value(inner, item) for inner, item in flat.items()}
        found = self._value(key, value)
        label = found if isinstance(found, Scalar) else json.dumps(found, ensure_ascii=False)
        return label, {key: found}

    def _check_key(self, key: str) -> bool:
        """Whether there is such a setting and it may vary."""
        if key in _SCORING:
            self._problem(f"{key} may not vary: trials must be scored alike to be compared")
            return False
        if key in self._types:
            return True
        try:
            resolve_settings([("space", unflatten({key: None}))])
        except ProblemsError as error:
            for problem in error.problems:
                self._problem(problem.removeprefix("space: "))
        return False

    def _check_values(self, key: str, settings: Mapping[str, Any]) -> None:
        known = {name: value for name, value in settings.items() if name in self._types}
        try:
            resolve_settings([*self._layers, (f"space, {key}", unflatten(known))])
        except ProblemsError as error:
            for problem in error.problems:
                self._problem(problem)

    def _value(self, key: str, value: Any) -> Any:
        if isinstance(value, str) and key in _PATHS and self._folder is not None:
            return str((self._folder / value).absolute())
        if isinstance(value, str):
            # YAML 1.1 reads 3e-4 as text; people mean a number.
            with suppress(ValueError):
                return float(value)
        return value

    def _range(self, key: str, value: Mapping[str, Any]) -> Range | None:
        before = len(self._problems)
        for name in value:
            if name not in _RANGE_KEYS:
                self._problem(f"{key}: a range has {', '.join(_RANGE_KEYS)}, not {name!r}")
        low, high = self._value("", value.get("low")), self._value("", value.get("high"))
        step, log = self._value("", value.get("step")), value.get("log", False)
        numbers = [low, high, *([] if step is None else [step])]
        if any(isinstance(n, bool) or not isinstance(n, int | float) for n in numbers):
            self._problem(f"{key}: low, high and step must be numbers")
        elif not all(math.isfinite(number) for number in numbers):
            self._problem(f"{key}: low, high and step must be finite")
        elif low >= high:
            self._problem(f"{key}: low ({low:g}) must lie below high ({high:g})")
        elif step is not None and (step <= 0 or step > high - low):
            self._problem(f"{key}: step ({step:g}) does not fit between low and high")
        elif log and (low <= 0 or step is not None):
            self._problem(f"{key}: a log range starts above 0 and has no step")
        if not isinstance(log, bool):
            self._problem(f"{key}: log is true or false")
        whole = self._types.get(key) is int
        if before == len(self._problems) and whole and any(n != int(n) for n in numbers):
            self._problem(f"{key} takes whole numbers")
        if before != len(self._problems):
            return None
        for end in (low, high):
            self._check_values(key, {key: int(end) if whole else end})
        return Range(low, high, step, log, whole)

    def _check_overlap(self, dimensions: Sequence[Dimension]) -> None:
        owner: dict[str, str] = {}
        for dimension in dimensions:
            for key in sorted(dimension.keys):
                if key in owner:
                    self._problem(f"{key} is varied by {owner[key]!r} and by {dimension.name!r}")
                owner[key] = dimension.name


def _bundle_label(settings: Mapping[str, Any]) -> str:
    return " ".join(
        f"{key.rpartition('.')[2]}={value:g}" if isinstance(value, float) else
        f"{key.rpartition('.')[2]}={value}"
        for key, value in settings.items()
    )  # fmt: skip
