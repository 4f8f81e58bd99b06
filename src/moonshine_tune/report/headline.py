"""The result in one look: scores with intervals, the figures above them, and the gates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moonshine_tune.report.figures import Interval, clean, interval_strip
from moonshine_tune.report.reading import (
    EvaluationPart,
    Material,
    RunPart,
    mapping,
    number,
    sequence,
)
from moonshine_tune.report.tables import (
    SET_NAMES,
    Cell,
    Column,
    Table,
    change_cell,
    duration_text,
    set_title,
    short,
    signed,
    text_cell,
)
from moonshine_tune.score import ScoredUtterance, compare_paired, summarize

# Small sets move by this much when a word or two is heard otherwise.
_LIKELY_POINTS = 1.0
_MAX_ROWS = 60


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


@dataclass(frozen=True)
class Gate:
    """A promise: `passed` is None where it was not measured or says nothing.

    `group` is the phase of a plan, `note` why it says nothing.
    """

    name: str
    passed: bool | None
    figure: str
    bound: str
    group: str = ""
    verdict: str = ""
    note: str = ""

    @property
    def word(self) -> str:
        """The verdict in a word."""
        return self.verdict or {True: "passed", False: "FAILED", None: "open"}[self.passed]

    @property
    def kind(self) -> str:
        """Passed, failed or open, for the style sheet."""
        return {True: "passed", False: "failed", None: "open"}[self.passed]


@dataclass(frozen=True)
class Tile:
    """A large figure: `before` is shown in front of it, smaller."""

    label: str
    figure: str
    unit: str = ""
    before: str = ""
    detail: str = ""
    kind: str = ""


def contrasts(material: Material) -> tuple[Contrast, ...]:
    """All pairs of base and adapted that the folder holds, the sets in their order."""
    alone = material.run is not None and material.kind in ("run", "ablation")
    found = _of_run(material.run) if material.run and alone else []
    named = [part for part in material.evaluations if part.model]
    places = dict.fromkeys((part.set_name, part.backend) for part in named)
    order = {"domain": 0, "canary": 1, "torch": 0, "runtime": 1}
    for set_name, backend in sorted(
        places, key=lambda place: (order.get(place[0], 2), place[0], order.get(place[1], 2))
    ):
        sides = {p.model: p for p in named if (p.set_name, p.backend) == (set_name, backend)}
        found.append(_contrast(set_name, backend, sides.get("base"), sides.get("adapted")))
    found += [_of_one(part) for part in material.evaluations if not part.model]
    found += [] if named else _of_demo(material.demo)
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


def _of_run(run: RunPart) -> list[Contrast]:
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


def headline_table(rows: Sequence[Contrast]) -> Table | None:
    """Base against adapted with intervals, as numbers and drawn on one scale from zero."""
    rates = [rate for row in rows for rate in (row.before, row.after) if rate]
    if not rates:
        return None
    highest = max(max(rate.wer, rate.interval.high) for rate in rates)
    compared = any(row.before for row in rows)
    columns = [Column("Heard")]
    columns += [Column("Base", "number")] if compared else []
    columns += [Column("Adapted" if compared else "WER", "number")]
    columns += [Column("Change", "number")] if compared else []
    columns += [Column(f"0 to {highest:.0f} %", "figure")]
    lines = []
    for row in rows[:_MAX_ROWS]:
        strip = interval_strip(
            row.before.interval if row.before else None,
            row.after.interval if row.after else None,
            highest,
        )
        count = next((r.utterances for r in (row.after, row.before) if r and r.utterances), None)
        line = [Cell(set_title(row.set_name), detail=_where(row.backend, count))]
        line += [_rate_cell(row.before)] if compared else []
        line += [_rate_cell(row.after)]
        line += [_change_cell(row)] if compared else []
        lines.append((*line, Cell("", figure=strip)))
    note = (
        "Word error rate: wrong, missing and added words in percent of the words said. Lower is "
        "better. Below each number its 95 % interval, from resampling utterances"
    )
    note += "; below a change the interval of the paired difference." if compared else "."
    return Table("Word error rate, %", tuple(columns), tuple(lines), note, sortable=False)


def _where(backend: str, utterances: int | None) -> str:
    count = "" if utterances is None else f"{utterances:,} utterances"
    return ", ".join(part for part in (backend, count) if part)


def _change_cell(row: Contrast) -> Cell:
    """Coloured only where there is a difference: a colour is a claim."""
    parts = [row.verdict] if row.verdict else []
    if row.ci95 is not None:
        parts.append(f"{signed(row.ci95[0])} to {signed(row.ci95[1])}")
    threshold = 0.005 if _is_shown(row) else float("inf")
    return change_cell(row.difference, ", ".join(parts), threshold)


def _is_shown(row: Contrast) -> bool:
    """Whether the difference is more than chance; a guess where its interval is not known."""
    if row.ci95 is None:
        return abs(row.difference or 0.0) >= _LIKELY_POINTS
    return row.ci95[0] > 0 or row.ci95[1] < 0


def _rate_cell(rate: Rate | None) -> Cell:
    if rate is None:
        return text_cell("–", "number")
    has_interval = rate.low is not None and rate.high is not None
    detail = f"{rate.low:.2f} to {rate.high:.2f}" if has_interval else ""
    return Cell(f"{rate.wer:.2f}", sort=rate.wer, detail=detail, kind="number")


def gates_of(material: Material) -> tuple[Gate, ...]:
    """The gates of a demonstration, or what a run by itself can be held to."""
    found = []
    for record in map(mapping, sequence(material.demo.get("gates"))):
        passed = record.get("passed")
        name, figure, bound = (
            short(str(record.get(key, "–"))) for key in ("name", "figure", "bound")
        )
        group, verdict, note = (
            short(str(record.get(key) or ""), 120) for key in ("phase", "verdict", "note")
        )
        holds = passed if isinstance(passed, bool) else None
        found.append(Gate(name, holds, figure, bound, group, verdict, note))
    return tuple(found) or (_gates_of_run(material.run) if material.run else ())


def _gates_of_run(run: RunPart) -> tuple[Gate, ...]:
    result, status = mapping(run.record.get("result")), run.record.get("status")
    if not run.record:
        return ()
    steps = number(result.get("steps"))
    done = None if status in (None, "running") else status in ("finished", "early stop")
    figure = "running, or killed" if done is None else short(str(status))
    found = [
        Gate(
            "training completes",
            done,
            figure if steps is None else f"{figure}, {steps:g} steps",
            "finished or early stop",
        )
    ]
    first, last = (clean(number(result.get(key))) for key in ("first_loss", "last_loss"))
    if first is not None and last is not None:
        falls = f"{first:.3f} → {last:.3f}"
        found.append(
            Gate("training loss falls", last < first, falls, "last tenth below first tenth")
        )
    bound = number(mapping(mapping(run.record.get("settings")).get("select")).get("canary_bound"))
    for row in _of_run(run):
        if row.before is None or row.after is None or row.difference is None:
            continue
        figure = f"{row.before.wer:.2f} → {row.after.wer:.2f}"
        if row.set_name == "dev":
            found.append(Gate("dev WER improves", row.difference < 0, figure, "below the base"))
        elif bound is not None:
            kept = row.difference <= bound + 1e-9
            found.append(Gate("canary is kept", kept, figure, f"+{bound:g} points at most"))
    return tuple(found)


def tiles_of(
    material: Material, rows: Sequence[Contrast], gates: Sequence[Gate]
) -> tuple[Tile, ...]:
    """Up to four large figures: the set that matters, the canary, the gates, the time."""
    found = []
    for names in (("domain", "dev"), ("canary",)):
        # The runtime comes last in the rows and counts most: it is what users hear.
        named = [row for row in rows if row.set_name in names and row.after]
        if named:
            found.append(_rate_tile(named[-1]))
    if not found and rows:
        found.append(_rate_tile(rows[0]))
    if gates:
        passed, measured = sum(gate.passed is True for gate in gates), len(gates)
        failed = [gate.name for gate in gates if gate.passed is False]
        blind = sum(gate.verdict == "not meaningful" for gate in gates)
        detail = f"failed: {', '.join(failed)}" if failed else ""
        detail = detail or (f"{blind} not meaningful" if blind else "")
        found.append(
            Tile(
                "Gates passed", str(passed), f"of {measured}", "", detail, "worse" if failed else ""
            )
        )
    return (*found, *_speed_tiles(material), *_cost_tiles(material))[:4]


def _rate_tile(row: Contrast) -> Tile:
    rate = row.after or row.before
    what = f"{set_title(row.set_name)} WER" if row.set_name in SET_NAMES else "WER"
    label = f"{what}, {row.backend}" if row.backend else what
    if rate is None:
        return Tile(label, "–")
    if row.before is None or row.after is None or row.difference is None:
        detail = "" if rate.low is None or rate.high is None else (
            f"95 % interval {rate.low:.1f} to {rate.high:.1f}"
        )  # fmt: skip
        return Tile(label, f"{rate.wer:.1f}", "%", "", detail)
    relative = 100 * row.difference / row.before.wer if row.before.wer else 0.0
    detail = f"{signed(row.difference, 1)} points"
    detail += f", {signed(relative, 0)} %" if row.before.wer else ""
    if not _is_shown(row):
        detail += ": within chance" if row.ci95 is not None else ""
        return Tile(label, f"{row.after.wer:.1f}", "%", f"{row.before.wer:.1f}", detail)
    kind = "better" if row.difference < 0 else "worse" if row.difference > 0.005 else ""
    return Tile(label, f"{row.after.wer:.1f}", "%", f"{row.before.wer:.1f}", detail, kind)


def _speed_tiles(material: Material) -> list[Tile]:
    """What a benchmark alone is about."""
    if material.kind != "benchmark":
        return []
    this = material.benchmark
    latency, memory = mapping(this.get("latency_ms")), mapping(this.get("memory_mb"))
    found = []
    for label, value, unit in (
        ("95 % answered within", number(latency.get("p95")), "ms"),
        ("Median latency", number(latency.get("median")), "ms"),
        ("Peak memory", number(memory.get("peak")), "MB"),
        ("WER", number(mapping(this.get("wer")).get("wer")), "%"),
    ):
        if clean(value) is not None and value is not None:
            digits = 1 if unit == "%" else 0
            found.append(Tile(label, f"{value:,.{digits}f}", unit))
    return found


def _cost_tiles(material: Material) -> list[Tile]:
    """What it took."""
    result = mapping(material.run.record.get("result")) if material.run else {}
    found = []
    seconds = number(mapping(material.demo.get("seconds")).get("total"))
    seconds = number(result.get("seconds")) if seconds is None else seconds
    memory = number(material.demo.get("peak_memory_mb")) or number(result.get("peak_memory_mb"))
    if seconds is not None:
        figure, _, unit = duration_text(seconds).partition(" ")
        detail = "" if memory is None else f"peak memory {memory:,.0f} MB"
        found.append(Tile("Time", figure, unit, detail=detail))
    if material.kind == "evaluation":
        one = material.evaluations[0].result
        for label, key, unit in (("CER", "cer", "%"), ("Real-time factor", "rtf", "")):
            value = clean(number(one.get(key)))
            if value is not None:
                found.append(Tile(label, f"{value:.3g}", unit))
    return found
