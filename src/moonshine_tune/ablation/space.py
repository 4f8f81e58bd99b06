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
from pydantic import BaseModel

from moonshine_tune.config.resolve import read_preset, resolve_settings
from moonshine_tune.config.settings import RunSettings
from moonshine_tune.core.errors import ProblemsError, RequestError
from moonshine_tune.core.nested import flatten, unflatten
from moonshine_tune.core.text import did_you_mean
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
        options: for each label the settings that it stands for, by their full keys; empty for a
            range.
    """

    name: str
    distribution: IntDistribution | FloatDistribution | CategoricalDistribution
    options: tuple[Mapping[str, Any], ...] = ()

    @property
    def keys(self) -> frozenset[str]:
        """The settings that vary."""
        return frozenset(key for option in self.options for key in option) or {self.name}

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
        suggest = (
            trial.suggest_int if isinstance(values, IntDistribution) else trial.suggest_float
        )
        return suggest(self.name, values.low, values.high, step=values.step, log=values.log)

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


def _setting_types(section: type[BaseModel] = RunSettings, prefix: str = "") -> dict[str, Any]:
    """The type of every setting by its full key."""
    types: dict[str, Any] = {}
    for name, field in section.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            types |= _setting_types(annotation, f"{prefix}{name}.")
        else:
            types[f"{prefix}{name}"] = annotation
    return types


class _SpaceReader:
    """Reads one space and collects everything that is wrong with it."""

    def __init__(self, name: str, folder: Path | None) -> None:
        self._name, self._folder = name, folder
        self._types = _setting_types()
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
                owners[key] = dimension.name
        if self._problems:
            raise ProblemsError(
                f"{len(self._problems)} problems in the search space {self._name}",
                list(self._problems),
                hint="all settings and their meaning: docs/settings.md",
            )
        return SearchSpace(self._name, tuple(dimensions), self._layers)

    def _refuse(self, problem: str) -> None:
        self._problems[problem] = None

    def _accepts(self, layers: Layers) -> bool:
        """Whether these settings are valid; if not, their problems are noted."""
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
            fixed = {key: self._value(key, value) for key, value in flatten(settings)}
            layers += ((f"space {self._name}", unflatten(fixed)),)
        elif settings is not None:
            self._refuse("`settings:` must be a mapping, as in a settings file")
        self._layers = layers if self._accepts(layers) else ()

    def _dimension(self, key: str, value: object) -> Dimension | None:
        """A dimension; None where its name or its form is wrong."""
        mappings = isinstance(value, list) and all(isinstance(item, Mapping) for item in value)
        bundle = key not in self._types and bool(value) and mappings
        if not bundle and not self._may_vary(key):
            return None
        if isinstance(value, Mapping):
            return self._range(key, value)
        if not isinstance(value, list) or not value:
            self._refuse(
                f"{key}: give a list of values, or a range {{low: …, high: …}}, not {value!r}"
            )
            return None
        options = [self._bundle(item) if bundle else self._option(key, item) for item in value]
        for label, count in Counter(json.dumps(label) for label, _ in options).items():
            if count > 1:
                self._refuse(f"{key}: listed twice: {label}")
        for _, settings in options:
            self._check_values(key, settings)
        labels = CategoricalDistribution([label for label, _ in options])
        return Dimension(key, labels, tuple(settings for _, settings in options))

    def _option(self, key: str, value: Any) -> tuple[Scalar, dict[str, Any]]:
        value = self._value(key, value)
        label = value if isinstance(value, Scalar) else json.dumps(value, ensure_ascii=False)
        return label, {key: value}

    def _bundle(self, content: Mapping[str, Any]) -> tuple[Scalar, dict[str, Any]]:
        settings = {key: self._value(key, value) for key, value in flatten(content)}
        for key in settings:
            self._may_vary(key)
        texts = {k: f"{v:g}" if isinstance(v, float) else str(v) for k, v in settings.items()}
        label = " ".join(f"{key.rpartition('.')[2]}={text}" for key, text in texts.items())
        return label, settings

    def _may_vary(self, key: str) -> bool:
        """Whether there is such a setting and it may differ between trials."""
        if key in _SCORING:
            self._refuse(f"{key} may not vary: trials must be scored alike to be compared")
        elif key not in self._types:
            self._refuse(f"no setting is called {key!r}{did_you_mean(key, self._types)}")
        return key in self._types and key not in _SCORING

    def _check_values(self, key: str, settings: Mapping[str, Any]) -> None:
        known = {name: value for name, value in settings.items() if name in self._types}
        self._accepts((*self._layers, (f"space, {key}", unflatten(known))))

    def _value(self, key: str, value: Any) -> Any:
        if isinstance(value, str) and key in _PATHS and self._folder is not None:
            return str((self._folder / value).absolute())
        if isinstance(value, str):
            # YAML 1.1 reads 3e-4 as text; people mean a number.
            with suppress(ValueError):
                return float(value)
        return value

    def _range(self, key: str, content: Mapping[str, Any]) -> Dimension | None:
        unknown = [name for name in content if name not in _RANGE_KEYS]
        for name in unknown:
            self._refuse(f"{key}: a range has {', '.join(_RANGE_KEYS)}, not {name!r}")
        low, high, step = (self._value("", content.get(name)) for name in ("low", "high", "step"))
        log, integer = content.get("log", False), self._types.get(key) is int
        problem = _range_problem((low, high, *([] if step is None else [step])), log, integer)
        if problem:
            self._refuse(f"{key}: {problem}")
        if unknown or problem:
            return None
        for end in (low, high):
            self._check_values(key, {key: int(end) if integer else end})
        return Dimension(key, _numbers(low, high, step, log, integer))


def _range_problem(numbers: tuple[Any, ...], log: object, integer: bool) -> str:
    """What is wrong with low, high and, where there is one, step; empty where nothing is."""
    if any(isinstance(n, bool) or not isinstance(n, int | float) for n in numbers):
        return "low, high and step must be numbers"
    if not all(math.isfinite(number) for number in numbers):
        return "low, high and step must be finite"
    low, high, *step = numbers
    if low >= high:
        return f"low ({low:g}) must lie below high ({high:g})"
    if step and not 0 < step[0] <= high - low:
        return f"step ({step[0]:g}) does not fit between low and high"
    if not isinstance(log, bool):
        return "log is true or false"
    if log and (low <= 0 or step):
        return "a log range starts above 0 and has no step"
    if integer and any(number != int(number) for number in numbers):
        return "the setting takes whole numbers"
    return ""
