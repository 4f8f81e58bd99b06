"""The search space of an ablation: which settings vary, over what, on top of which settings.

A YAML file:

    preset: tiny                      # optional: where the search starts from
    settings: {train: {steps: 100}}   # optional: fixed for all trials
    space:
      adapter.sites: [decoder, decoder-attention]
      train.learning_rate: {low: 1e-4, high: 2e-3, log: true}
      size:                           # settings that move together, under a name of its own
        - {adapter.rank: 4, adapter.alpha: 8}
        - {adapter.rank: 16, adapter.alpha: 32}
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from moonshine_tune.config.settings import RunSettings
from moonshine_tune.core.errors import ProblemsError, RequestError
from moonshine_tune.core.nested import flatten, unflatten

Scalar = str | int | float | bool | None
Layers = tuple[tuple[str, Mapping[str, Any]], ...]

_MAX_GRID = 100_000


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; `step` None means any number between."""

    low: float
    high: float
    step: float | None = None
    log: bool = False
    whole: bool = False

    def points(self) -> tuple[float, ...]:
        """All numbers of a stepped or whole range; empty where there are too many to list."""
        step = self.step or (1 if self.whole and not self.log else None)
        if step is None:
            return ()
        count = math.floor((self.high - self.low) / step + 1e-9) + 1
        if count > _MAX_GRID:
            return ()
        found = (self.low + place * step for place in range(count))
        return tuple(int(value) if self.whole else round(value, 12) for value in found)

    def holds(self, value: object) -> bool:
        """Whether `value` is one of these numbers."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        points = self.points() if self.step else ()
        return self.low <= value <= self.high and (not points or value in points)


@dataclass(frozen=True)
class Choice:
    """One value of a dimension.

    Attributes:
        label: how it is stored and shown; a number, a word, or a text for lists and bundles.
        settings: the settings that it stands for, by their full keys.
    """

    label: Scalar
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Dimension:
    """One thing that varies: a setting, or a bundle of settings under a name of its own.

    Exactly one of `choices` and `numbers` is used.
    """

    name: str
    choices: tuple[Choice, ...] = ()
    numbers: Range | None = None

    @property
    def labels(self) -> tuple[Scalar, ...]:
        """All values where they can be listed, else empty."""
        if self.numbers is not None:
            return self.numbers.points()
        return tuple(choice.label for choice in self.choices)

    @property
    def keys(self) -> frozenset[str]:
        """The settings that it moves."""
        if self.numbers is not None:
            return frozenset((self.name,))
        return frozenset(key for choice in self.choices for key in choice.settings)

    def settings_of(self, label: Scalar) -> Mapping[str, Any]:
        """The settings behind one value."""
        if self.numbers is not None:
            return {self.name: label}
        for choice in self.choices:
            if choice.label == label:
                return choice.settings
        raise RequestError(f"{self.name} has no value {label!r} in this search space")

    def label_of(self, settings: Mapping[str, Any]) -> tuple[Scalar] | None:
        """The value (in a 1-tuple) that stands for these flat settings; None if none does."""
        if self.numbers is not None:
            value = settings.get(self.name)
            return (value,) if self.numbers.holds(value) else None
        for choice in self.choices:
            if all(settings.get(key) == value for key, value in choice.settings.items()):
                return (choice.label,)
        return None


@dataclass(frozen=True)
class SearchSpace:
    """What varies, and the settings that the space file fixes (`layers`, weakest first)."""

    name: str
    dimensions: tuple[Dimension, ...]
    layers: Layers

    def settings_of(self, params: Mapping[str, Scalar]) -> dict[str, Any]:
        """The nested settings of one point of the space."""
        flat: dict[str, Any] = {}
        for dimension in self.dimensions:
            flat.update(dimension.settings_of(params[dimension.name]))
        return unflatten(flat)

    def point_of(self, settings: RunSettings) -> dict[str, Scalar] | None:
        """The point of the space at which `settings` lie; None if they lie outside."""
        flat = dict(flatten(settings.model_dump(mode="json")))
        found: dict[str, Scalar] = {}
        for dimension in self.dimensions:
            label = dimension.label_of(flat)
            if label is None:
                return None
            found[dimension.name] = label[0]
        return found

    def grid(self) -> tuple[dict[str, Scalar], ...]:
        """Every point.

        Raises:
            ProblemsError: a dimension has more values than can be listed.
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
        record: dict[str, Any] = {}
        for item in self.dimensions:
            if item.numbers is not None:
                numbers = item.numbers
                record[item.name] = {
                    "low": numbers.low, "high": numbers.high, "step": numbers.step,
                    "log": numbers.log, "whole": numbers.whole,
                }  # fmt: skip
            else:
                record[item.name] = [
                    {"label": choice.label, "settings": dict(choice.settings)}
                    for choice in item.choices
                ]
        return record

    @classmethod
    def from_record(cls, name: str, record: Mapping[str, Any]) -> "SearchSpace":
        """The space that `to_record` wrote; what was fixed is not in it."""
        dimensions = []
        for key, value in record.items():
            if isinstance(value, Mapping):
                dimensions.append(Dimension(key, numbers=Range(**value)))
            else:
                choices = tuple(Choice(item["label"], item["settings"]) for item in value)
                dimensions.append(Dimension(key, choices))
        return cls(name, tuple(dimensions), ())
