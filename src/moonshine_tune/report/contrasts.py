"""Error rates before and after, as a report compares them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moonshine_tune.metrics.wer import ScoredUtterance, compare_paired, summarize
from moonshine_tune.report.figures import Interval, clean
from moonshine_tune.report.reading import (
    EvaluationPart,
    ReportInput,
    RunPart,
    mapping,
    number,
    sequence,
)
from moonshine_tune.report.tables import short


@dataclass(frozen=True)
class Rate:
    """A WER in percent with its 95 % interval where it is known."""

    wer: float
    low: float | None = None
    high: float | None = None
    utterances: int | None = None

    @property
    def interval(self) -> Interval:
        """For the drawing."""
        low = self.wer if self.low is None else self.low
        return Interval(self.wer, low, self.wer if self.high is None else self.high)


@dataclass(frozen=True)
class Contrast:
    """One row of the headline: a set heard by the base and by the adapted model.

    Attributes:
        ci95: interval of the difference in points; None where it is not known.
    """

    set_name: str
    backend: str
    before: Rate | None
    after: Rate | None
    difference: float | None = None
    ci95: tuple[float, float] | None = None
    verdict: str = ""


def contrasts(report_input: ReportInput) -> tuple[Contrast, ...]:
    """All pairs of base and adapted that the folder holds, the sets in their order."""
    alone = report_input.run is not None and report_input.kind in ("run", "ablation")
    found = contrasts_of_run(report_input.run) if report_input.run and alone else []
    named = [part for part in report_input.evaluations if part.model]
    places = dict.fromkeys((part.set_name, part.backend) for part in named)
    order = {"domain": 0, "canary": 1, "torch": 0, "runtime": 1}
    for set_name, backend in sorted(
        places, key=lambda place: (order.get(place[0], 2), place[0], order.get(place[1], 2))
    ):
        sides = {p.model: p for p in named if (p.set_name, p.backend) == (set_name, backend)}
        found.append(_contrast(set_name, backend, sides.get("base"), sides.get("adapted")))
    found += [_of_one(part) for part in report_input.evaluations if not part.model]
    found += [] if named else _of_demo(report_input.demo)
    return tuple(row for row in found if row.before or row.after)


def _contrast(
    set_name: str, backend: str, base: EvaluationPart | None, adapted: EvaluationPart | None
) -> Contrast:
    before, after = _rate_of(base), _rate_of(adapted)
    difference = after.wer - before.wer if before and after else None
    if base and adapted and base.scored and adapted.scored:
        try:
            paired = compare_paired(base.scored, adapted.scored)
        except ValueError:
            # A torn file: other utterances on the two sides cannot be compared.
            return Contrast(set_name, backend, before, after, difference)
        return Contrast(
            set_name, backend, before, after, paired.difference, paired.ci95, paired.verdict
        )
    return Contrast(set_name, backend, before, after, difference)


def _rate_of(part: EvaluationPart | None) -> Rate | None:
    if part is None:
        return None
    return rate_in(part.result) or _rate_from(part.scored)


def rate_in(record: Mapping[str, Any]) -> Rate | None:
    """The score in a JSON record that has `wer` and perhaps `ci95` and `utterances`."""
    wer = clean(number(record.get("wer")))
    if wer is None:
        return None
    low, high = _pair(record.get("ci95")) or (None, None)
    utterances = number(record.get("utterances"))
    return Rate(wer, low, high, None if utterances is None else int(utterances))


def _pair(value: object) -> tuple[float, float] | None:
    ends = [end for item in sequence(value) if (end := clean(number(item))) is not None]
    return (ends[0], ends[1]) if len(ends) == 2 else None


def _rate_from(scored: Sequence[ScoredUtterance]) -> Rate | None:
    if not scored:
        return None
    score = summarize(scored, num_worst=0)
    return Rate(score.wer, *score.ci95, utterances=score.utterances)


def _of_one(part: EvaluationPart) -> Contrast:
    """An evaluation, compared with what it was compared with when it was made."""
    after, before = _rate_of(part), rate_in(mapping(part.result.get("base")))
    comparison = mapping(part.result.get("comparison"))
    backend = short(str(part.result.get("backend", "")))
    return Contrast(
        part.set_name,
        backend,
        before,
        after,
        clean(number(comparison.get("difference"))),
        _pair(comparison.get("ci95")),
        short(str(comparison.get("verdict", ""))),
    )


def contrasts_of_run(run: RunPart) -> list[Contrast]:
    """Dev and canary of a run: the base at step 0, and the adapter that was kept."""
    result = mapping(run.record.get("result"))
    at_start = next((line for line in run.metrics if line.get("step") == 0), {})
    first = mapping(result.get("baseline")) or at_start
    best = mapping(result.get("best")) or run.selection
    heard = _rate_from(run.dev)
    found = []
    for name, key in (("dev", "dev_wer"), ("canary", "canary_wer")):
        wers = [clean(number(side.get(key))) for side in (first, best)]
        before, after = (None if wer is None else Rate(wer) for wer in wers)
        if name == "dev" and heard and (after is None or abs(heard.wer - after.wer) < 0.01):
            after = heard
        difference = after.wer - before.wer if before and after else None
        found.append(Contrast(name, "torch", before, after, difference))
    return found


def _of_demo(demo: Mapping[str, Any]) -> list[Contrast]:
    """The scores that demo.json repeats, for a folder whose evaluations are gone."""
    found = []
    for name in ("domain", "canary"):
        sides = mapping(demo.get(name))
        for backend in ("torch", "runtime"):
            before, after = (
                rate_in(mapping(mapping(sides.get(model)).get(backend)))
                for model in ("base", "adapted")
            )
            difference = after.wer - before.wer if before and after else None
            found.append(Contrast(name, backend, before, after, difference))
    return found
