"""The extra metrics of evaluations, base against adapted."""

from dataclasses import dataclass

from moonshine_tune.report.reading import EvaluationPart, ReportInput
from moonshine_tune.runs.records import MetricRecord


@dataclass(frozen=True)
class MetricRow:
    """One metric of one evaluation.

    Attributes:
        base: the base model's value, where it is known.
    """

    set_name: str
    backend: str
    name: str
    metric: MetricRecord
    base: int | float | None

    @property
    def title(self) -> str:
        """The metric's name and its unit."""
        words = self.name.replace("_", " ").capitalize()
        return f"{words}, {self.metric.unit}" if self.metric.unit else words

    @property
    def difference(self) -> float | None:
        """The change from the base."""
        if self.base is None or self.metric.value is None:
            return None
        return self.metric.value - self.base


def metric_rows(report_input: ReportInput) -> tuple[MetricRow, ...]:
    """The metrics that have a value, of all evaluations of the adapted model."""
    bases = {
        (part.set_name, part.backend): part
        for part in report_input.evaluations
        if part.model == "base"
    }
    return tuple(
        MetricRow(
            part.set_name,
            part.backend,
            name,
            metric,
            _base_value(metric, name, bases.get((part.set_name, part.backend))),
        )
        for part in report_input.evaluations
        if part.model != "base"
        for name, metric in part.result.metrics.items()
        if metric.value is not None
    )


def _base_value(metric: MetricRecord, name: str, base: EvaluationPart | None) -> int | float | None:
    if metric.base is not None or base is None or name not in base.result.metrics:
        return metric.base
    return base.result.metrics[name].value
