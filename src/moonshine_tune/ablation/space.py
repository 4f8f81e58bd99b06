"""The search space of an ablation: which settings vary, over what, on top of which settings.

A YAML file:

    preset: tiny                      # optional: where the search starts
    settings: {train: {steps: 100}}   # optional: fixed for all trials
    space:
      adapter.sites: [decoder, decoder-attention]
      train.learning_rate: {low: 1e-4, high: 2e-3, log: true}
      size:                           # settings that change together, under a name of their own
        - {adapter.rank: 4, adapter.alpha: 8}
        - {adapter.rank: 16, adapter.alpha: 32}
"""

import json
import math
import warnings
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from moonshine_tune.config.resolve import absolute_path, read_preset, resolve_settings
from moonshine_tune.config.settings import RunSettings
from moonshine_tune.core.errors import ProblemsError, RequestError
from moonshine_tune.core.nested import flatten, unflatten
from moonshine_tune.core.yaml import read_shipped, read_yaml, shipped_names

Scalar = str | int | float | bool | None
Layers = tuple[tuple[str, Mapping[str, Any]], ...]

_MAX_GRID = 100_000
_SHIPPED = "ablation/spaces"
_KEYS = ("preset", "settings", "space")
_RANGE_KEYS = ("low", "high", "step", "log")
# Trials are compared with each other: all must be scored on the same utterances, the same way.
_SCORING = ("data.dev", "data.dev_share", "data.canary", "data.normalizer",
            "select.max_dev_utterances", "select.canary_bound", "retain.watched_clips")  # fmt: skip
_PATHS = ("data.train", "data.replay", "augment.noise", "augment.rooms")


@dataclass(frozen=True)
class Dimension:
    """What varies under one name: a setting over a range of numbers, or settings over a list.

    Attributes:
        distribution: the values as Optuna draws them. Those of a list are labels, by which they
            are stored and shown: a number, a word, or a text for lists and bundles of settings.
        options: for each label its settings by their full keys; empty for a
            range.
    """

    name: str
    distribution: IntDistribution | FloatDistribution | CategoricalDistribution
    options: tuple[Mapping[str, Any], ...] = ()

    @property
    def keys(self) -> frozenset[str]:
        """The settings that vary."""
        varied = [key for option in self.options for key in option]
        return frozenset(varied or [self.name])

    @property
    def labels(self) -> tuple[Scalar, ...]:
        """All values; empty where there are too many to list."""
        values = self.distribution
        if isinstance(values, CategoricalDistribution):
            return values.choices
        if values.step is None or values.log:
            return ()
        count = round((values.high - values.low) / values.step) + 1
        if count > _MAX_GRID:
            return ()
        return tuple(round(values.low + index * values.step, 12) for index in range(count))

    def settings_of(self, label: Scalar) -> Mapping[str, Any]:
        """The settings of one value."""
        if self.options:
            return self.options[self.labels.index(label)]
        return {self.name: label}

    def label_of(self, settings: Mapping[str, Any]) -> tuple[Scalar] | None:
        """The value that flat settings have, as a 1-tuple; None where it is none of these."""
        values = self.distribution
        if isinstance(values, CategoricalDistribution):
            for label, option in zip(self.labels, self.options, strict=True):
                if all(settings.get(key) == value for key, value in option.items()):
                    return (label,)
            return None
        value = settings.get(self.name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        inside = values.low <= value <= values.high and value in (self.labels or (value,))
        return (value,) if inside else None

    def suggest(self, trial: optuna.Trial) -> Scalar:
        """The value that the sampler draws for a trial."""
        values = self.distribution
        if isinstance(values, CategoricalDistribution):
            return trial.suggest_categorical(self.name, values.choices)
        log = values.log
        if isinstance(values, IntDistribution):
            return trial.suggest_int(self.name, values.low, values.high, step=values.step, log=log)
        return trial.suggest_float(self.name, values.low, values.high, step=values.step, log=log)

    def to_record(self) -> Any:
        """As JSON data."""
        values = self.distribution
        if isinstance(values, CategoricalDistribution):
            pairs = zip(self.labels, self.options, strict=True)
            return [{"label": label, "settings": dict(settings)} for label, settings in pairs]
        return {"low": values.low, "high": values.high, "step": values.step, "log": values.log,
                "whole": isinstance(values, IntDistribution)}  # fmt: skip

    @classmethod
    def from_record(cls, name: str, record: Any) -> "Dimension":
        """The dimension that `to_record` wrote."""
        if isinstance(record, Mapping):
            return cls(name, _numbers(*(record[key] for key in (*_RANGE_KEYS, "whole"))))
        labels = [item["label"] for item in record]
        return cls(name, CategoricalDistribution(labels), tuple(i["settings"] for i in record))


def _numbers(
    low: float, high: float, step: float | None, log: bool, integer: bool
) -> IntDistribution | FloatDistribution:
    """Numbers from `low` to `high`, both included; `step` None: all numbers between."""
    with warnings.catch_warnings():
        # Optuna warns where it lowers `high` to the last step.
        warnings.simplefilter("ignore")
        if integer:
            return IntDistribution(int(low), int(high), log=log, step=int(step or 1))
        return FloatDistribution(low, high, log=log, step=step)


@dataclass(frozen=True)
class SearchSpace:
    """What varies, and the settings that the space file fixes (`layers`, weakest first)."""

    name: str
    dimensions: tuple[Dimension, ...]
    layers: Layers = ()

    def settings_of(self, params: Mapping[str, Scalar]) -> dict[str, Any]:
        """The nested settings of one point of the space."""
        flat: dict[str, Any] = {}
        for dimension in self.dimensions:
            flat.update(dimension.settings_of(params[dimension.name]))
        return unflatten(flat)

    def point_of(self, settings: RunSettings) -> dict[str, Scalar] | None:
        """The point of the space that has these settings; None if they lie outside."""
        flat = dict(flatten(settings.model_dump(mode="json")))
        point: dict[str, Scalar] = {}
        for dimension in self.dimensions:
            label = dimension.label_of(flat)
            if label is None:
                return None
            point[dimension.name] = label[0]
        return point

    def grid(self) -> tuple[dict[str, Scalar], ...]:
        """Every point.

        Raises:
            ProblemsError: a dimension has more values than can be listed.
            RequestError: there are too many points.
        """
        endless = [item.name for item in self.dimensions if not item.labels]
        if endless:
            raise ProblemsError(
                "a grid needs values that can be listed",
                [f"{name} is a range without a step" for name in endless],
                hint="give it a step or a list of values, or search with --sampler tpe",
            )
        if math.prod(len(item.labels) for item in self.dimensions) > _MAX_GRID:
            raise RequestError(
                f"the grid has more than {_MAX_GRID} points", hint="search with --sampler tpe"
            )
        names = [item.name for item in self.dimensions]
        values = product(*(item.labels for item in self.dimensions))
        return tuple(dict(zip(names, point, strict=True)) for point in values)

    def to_record(self) -> dict[str, Any]:
        """What varies, as JSON data: equal records are equal searches."""
        return {item.name: item.to_record() for item in self.dimensions}

    @classmethod
    def from_record(cls, name: str, record: Mapping[str, Any]) -> "SearchSpace":
        """The space that `to_record` wrote; fixed settings are not in it."""
        return cls(name, tuple(Dimension.from_record(key, record[key]) for key in record))


def space_names() -> tuple[str, ...]:
    """Names of the search spaces that ship with the package."""
    return shipped_names(_SHIPPED)


def read_space(name: str) -> SearchSpace:
    """A search space by the path of its YAML file, or by the name of a shipped one.

    Raises:
        RequestError: there is no such file or name, or it is not YAML.
        ProblemsError: everything that is wrong in it, together: unknown settings with the nearest
            name, values that a setting does not take, dimensions that overlap.
    """
    path = Path(name)
    if path.is_file():
        return _SpaceReader(path.name, path.parent).read(read_yaml(path))
    if name in space_names():
        return _SpaceReader(name, None).read(read_shipped(_SHIPPED, name))
    raise RequestError(
        "no such search space",
        where=path,
        hint=f"name a YAML file, or one that is shipped: {', '.join(space_names())}",
    )


class _SpaceReader:
    """Reads one space and collects everything that is wrong with it."""

    def __init__(self, name: str, folder: Path | None) -> None:
        self._name, self._folder = name, folder
        self._layers: Layers = ()
        # A dict, because several values of one setting can be wrong in the same way.
        self._problems: dict[str, None] = {}

    def read(self, content: object) -> SearchSpace:
        if not isinstance(content, Mapping):
            raise RequestError("a search space must be a YAML mapping", where=self._name)
        for key in content:
            if key not in _KEYS:
                self._refuse(f"no entry is called {key!r}; one of: {', '.join(_KEYS)}")
        self._read_fixed(content.get("preset"), content.get("settings"))
        space = content.get("space")
        dimensions: list[Dimension] = []
        if isinstance(space, Mapping) and space:
            read = [self._dimension(str(key), value) for key, value in space.items()]
            dimensions = [item for item in read if item is not None]
        else:
            self._refuse("nothing varies: `space:` must list settings with their values")
        owners: dict[str, str] = {}
        for dimension in dimensions:
            for key in sorted(dimension.keys):
                if key in owners:
                    self._refuse(f"{key} is varied by {owners[key]!r} and by {dimension.name!r}")
                if key in _SCORING:
                    self._refuse(f"{key} may not vary: trials must be scored alike to be compared")
                owners[key] = dimension.name
        if self._problems:
            raise ProblemsError(
                f"{len(self._problems)} problems in the search space {self._name}",
                list(self._problems),
                hint="list all settings: moonshine-tune settings",
            )
        return SearchSpace(self._name, tuple(dimensions), self._layers)

    def _refuse(self, problem: str) -> None:
        self._problems[problem] = None

    def _accepts(self, *layers: tuple[str, Mapping[str, Any]]) -> bool:
        """Whether these settings exist and are valid; if not, their problems are noted."""
        try:
            resolve_settings(layers)
        except ProblemsError as error:
            self._problems |= dict.fromkeys(error.problems)
            return False
        return True

    def _read_fixed(self, preset: object, settings: object) -> None:
        layers: Layers = ()
        if preset is not None:
            try:
                layers += ((f"preset {preset}", read_preset(str(preset))),)
            except RequestError as error:
                self._refuse(f"preset: {error.message}")
        if isinstance(settings, Mapping):
            layers += ((f"space {self._name}", unflatten(self._values(settings))),)
        elif settings is not None:
            self._refuse("`settings:` must be a mapping, as in a settings file")
        self._layers = layers if self._accepts(*layers) else ()

    def _dimension(self, key: str, content: object) -> Dimension | None:
        """A dimension; None where it has none of the forms."""
        if isinstance(content, Mapping):
            return self._range(key, content)
        if not isinstance(content, list) or not content:
            self._refuse(
                f"{key}: give a list of values, or a range {{low: …, high: …}}, not {content!r}"
            )
            return None
        if all(isinstance(item, Mapping) for item in content):
            options = [self._values(item) for item in content]
            labels: list[Scalar] = [_bundle_label(option) for option in options]
        elif any(isinstance(item, Mapping) for item in content):
            self._refuse(f"{key}: give values, or mappings of settings, not both in one list")
            return None
        else:
            options = [self._values({key: value}) for value in content]
            labels = [_label(option[key]) for option in options]
        for label, count in Counter(map(json.dumps, labels)).items():
            if count > 1:
                self._refuse(f"{key}: listed twice: {label}")
        for option in options:
            self._accepts(*self._layers, (f"space, {key}", unflatten(option)))
        return Dimension(key, CategoricalDistribution(labels), tuple(options))

    def _range(self, key: str, content: Mapping[str, Any]) -> Dimension | None:
        unknown = [name for name in content if name not in _RANGE_KEYS]
        for name in unknown:
            self._refuse(f"{key}: a range has {', '.join(_RANGE_KEYS)}, not {name!r}")
        values: Mapping[str, Any] = self._values(content)
        low, high, step, log = [values.get(name, None) for name in _RANGE_KEYS]
        integer = type(dict(flatten(RunSettings().model_dump())).get(key)) is int
        problem = _range_problem(low, high, step, log, integer)
        if problem:
            self._refuse(f"{key}: {problem}")
        if unknown or problem:
            return None
        for end in (low, high):
            value = int(end) if integer else end
            self._accepts(*self._layers, (f"space, {key}", unflatten({key: value})))
        return Dimension(key, _numbers(low, high, step, bool(log), integer))

    def _values(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """Flat settings, with absolute paths, and numbers that YAML 1.1 reads as text (3e-4)."""
        values = dict(flatten(content))
        for key, value in values.items():
            if isinstance(value, str) and key in _PATHS and self._folder is not None:
                values[key] = absolute_path(key, value, self._folder)
            elif isinstance(value, str):
                with suppress(ValueError):
                    values[key] = float(value)
        return values


def _label(value: Any) -> Scalar:
    return value if isinstance(value, Scalar) else json.dumps(value, ensure_ascii=False)


def _bundle_label(settings: Mapping[str, Any]) -> str:
    texts = {k: f"{v:g}" if isinstance(v, float) else str(v) for k, v in settings.items()}
    return " ".join(f"{key.rpartition('.')[2]}={text}" for key, text in texts.items())


def _range_problem(low: Any, high: Any, step: Any, log: Any, integer: bool) -> str:
    """What is wrong with a range; empty where nothing is. No step and no log are None."""
    numbers = [low, high] if step is None else [low, high, step]
    if any(isinstance(n, bool) or not isinstance(n, int | float) for n in numbers):
        return "low, high and step must be numbers"
    if not all(math.isfinite(number) for number in numbers):
        return "low, high and step must be finite"
    if low >= high:
        return f"low ({low:g}) must lie below high ({high:g})"
    if step is not None and not 0 < step <= high - low:
        return f"step ({step:g}) does not fit between low and high"
    if log not in (None, True, False):
        return "log is true or false"
    if log and (low <= 0 or step is not None):
        return "a log range starts above 0 and has no step"
    if integer and any(number != int(number) for number in numbers):
        return "takes whole numbers"
    return ""
