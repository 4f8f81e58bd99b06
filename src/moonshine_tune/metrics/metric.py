"""Extra metrics for `evaluate`: each module of this package that defines `METRIC` adds one."""

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from moonshine_tune import metrics
from moonshine_tune.core.statistics import bootstrap_interval
from moonshine_tune.corpus.normalizers import Normalizer
from moonshine_tune.metrics.wer import ScoredUtterance, rounded


@dataclass(frozen=True)
class Metric:
    """A figure of references and hypotheses. As in WER, counts come first and are divided once.

    Attributes:
        name: the key in the JSON document and the label in the table.
        unit: of the value, for example "%".
        better: the direction in which a model improves.
        count: from one reference and its hypothesis to (counted, out of).
        scale: the value is scale · Σ counted ÷ Σ out of, over all utterances.
        normalized: whether `count` gets normalized texts, or texts as they are written.
        not_scored: from all references to why they cannot be scored; empty where they can.
    """

    name: str
    unit: str
    better: Literal["lower", "higher"]
    count: Callable[[str, str], tuple[float, float]]
    scale: float = 100.0
    normalized: bool = True
    not_scored: Callable[[Sequence[str]], str] = lambda _references: ""

    def score(self, scored: Sequence[ScoredUtterance], normalizer: Normalizer) -> "MetricScore":
        """The value over all utterances with its 95 % interval, by bootstrap over utterances."""
        if reason := self.not_scored([item.reference for item in scored]):
            return MetricScore(self, None, None, reason=reason)
        read = normalizer if self.normalized else str
        counts = [self.count(read(item.reference), read(item.hypothesis)) for item in scored]

        def value(drawn: Sequence[tuple[float, float]]) -> float:
            total = sum(pair[1] for pair in drawn)
            return self.scale * sum(pair[0] for pair in drawn) / total if total else 0.0

        if not any(pair[1] for pair in counts):
            return MetricScore(self, None, None)
        counted, out_of = (sum(pair[index] for pair in counts) for index in (0, 1))
        interval = bootstrap_interval(counts, value)
        return MetricScore(self, value(counts), interval, counted, out_of)


@dataclass(frozen=True)
class MetricScore:
    """A metric's value with its 95 % interval; None where there was nothing to count.

    Attributes:
        counted, out_of: the sums that the value is made of.
        reason: why the references cannot be scored.
    """

    metric: Metric
    value: float | None
    ci95: tuple[float, float] | None
    counted: float = 0
    out_of: float = 0
    reason: str = ""

    def to_record(self) -> dict[str, Any]:
        """The JSON object."""
        record = {
            "value": None if self.value is None else round(self.value, 4),
            "ci95": rounded(self.ci95),
            "counted": self.counted,
            "out_of": self.out_of,
            "unit": self.metric.unit,
            "better": self.metric.better,
        }
        return record | ({"reason": self.reason} if self.reason else {})


def extra_metrics() -> tuple[Metric, ...]:
    """The metrics that modules of this package define, in the order of the modules' names.

    Raises:
        ValueError: two metrics have one name.
    """
    by_name: dict[str, Metric] = {}
    for module in pkgutil.iter_modules(metrics.__path__, f"{metrics.__name__}."):
        metric = getattr(importlib.import_module(module.name), "METRIC", None)
        if isinstance(metric, Metric):
            if metric.name in by_name:
                raise ValueError(f"two metrics are called {metric.name!r}")
            by_name[metric.name] = metric
    return tuple(by_name.values())
