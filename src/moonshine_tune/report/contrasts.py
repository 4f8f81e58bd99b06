"""Error rates before and after, as a report compares them."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from moonshine_tune.metrics.wer import ScoredUtterance, compare_paired, summarize
from moonshine_tune.report.alignment import score_sides_alike
from moonshine_tune.report.cells import clean, clean_interval, short
from moonshine_tune.report.figures import Interval
from moonshine_tune.report.reading import EvaluationPart, ReportInput, RunPart
from moonshine_tune.runs.records import (
    ComparisonRecord,
    EvaluationRecord,
    PlanRecord,
    RunRecord,
    ScoreRecord,
    SelectionRecord,
)

# Small sets move by this much when a word or two changes.
_LIKELY_POINTS = 1.0
_ORDER = {"domain": 0, "canary": 1, "torch": 0, "runtime": 1}


@dataclass(frozen=True)
class Rate(Interval):
    """A WER in percent, with its 95 % interval where it is known."""

    utterances: int | None = None


@dataclass(frozen=True)
class Contrast:
    """One row of the headline: the base and the adapted model on one set.

    Attributes:
        ci95: interval of the difference in points; None where it is not known.
        voices: whose voices it is for, and of which adapter where that is not the one that was
            kept, in a sentence; empty where it is for new voices and that adapter.
        canary: of a canary, which set it is: `librispeech_other, 50 clips`.
        parent: of the adapter that the run started at; None where that is the base.
    """

    set_name: str
    backend: str
    before: Rate | None
    after: Rate | None
    difference: float | None = None
    ci95: tuple[float, float] | None = None
    verdict: str = ""
    voices: str = ""
    canary: str = ""
    parent: Rate | None = None

    @property
    def utterances(self) -> int | None:
        """How many were scored, where it is known."""
        return next((r.utterances for r in (self.after, self.before) if r and r.utterances), None)

    @property
    def is_significant(self) -> bool:
        """Whether the difference is more than chance; a guess where its interval is not known."""
        if self.ci95 is None:
            return abs(self.difference or 0.0) >= _LIKELY_POINTS
        return self.ci95[0] > 0 or self.ci95[1] < 0


def contrasts(report_input: ReportInput) -> tuple[Contrast, ...]:
    """All pairs of base and adapted that the folder holds, the sets in their order."""
    rows = contrasts_of_run(report_input.run_alone) if report_input.run_alone else []
    named = [part for part in report_input.evaluations if part.model]
    for set_name, backend in sorted(
        dict.fromkeys((part.set_name, part.backend) for part in named),
        key=lambda key: (_ORDER.get(key[0], 2), key[0], _ORDER.get(key[1], 2)),
    ):
        sides = {p.model: p for p in named if (p.set_name, p.backend) == (set_name, backend)}
        rows.append(_contrast(set_name, backend, sides.get("base"), sides.get("adapted")))
    rows += [_of_one(part) for part in report_input.evaluations if not part.model]
    rows += [] if named else _of_summary(report_input.summary)
    return tuple(row for row in rows if row.before or row.after)


def leading(rows: Sequence[Contrast]) -> list[Contrast]:
    """The rows that are shown large: the set that matters, and the canary."""
    shown = []
    for names in (("domain", "dev"), ("canary",)):
        # The runtime comes last in the rows and counts most: it is what users get.
        shown += [row for row in rows if row.set_name in names and row.after][-1:]
    return shown or list(rows[:1])


def _contrast(
    set_name: str, backend: str, base: EvaluationPart | None, adapted: EvaluationPart | None
) -> Contrast:
    row = _unpaired(set_name, backend, _rate_of(base), _rate_of(adapted))
    part = adapted or base
    row = replace(row, voices=_voices_in(adapted.result if adapted else None))
    row = replace(row, canary=_canary_in(part.result) if part and set_name == "canary" else "")
    if base and adapted and base.scored and adapted.scored:
        alike = score_sides_alike(base, adapted)
        # Damaged files: two sides without a common clip, or with other counts, have no difference.
        with suppress(ValueError):
            if alike is None:
                return replace(row, difference=None)
            change = compare_paired(alike.before, alike.after)
            if alike.remarks:
                # The rates as they were written are not of the same clips, or not counted alike.
                row = replace(row, before=_rate_from(alike.before), after=_rate_from(alike.after))
            return replace(
                row, difference=change.difference, ci95=change.ci95, verdict=change.verdict
            )
        return replace(row, difference=None)
    return row


def _unpaired(set_name: str, backend: str, before: Rate | None, after: Rate | None) -> Contrast:
    difference = after.value - before.value if before and after else None
    return Contrast(set_name, backend, before, after, difference)


def _rate_of(part: EvaluationPart | None) -> Rate | None:
    return None if part is None else _rate_in(part.result) or _rate_from(part.scored)


def _rate_in(record: ScoreRecord | EvaluationRecord | None) -> Rate | None:
    wer = clean(record.wer) if record else None
    if record is None or wer is None:
        return None
    return Rate(wer, clean_interval(record.ci95), record.utterances)


def _rate_from(scored: Sequence[ScoredUtterance]) -> Rate | None:
    if not scored:
        return None
    score = summarize(scored, num_worst=0)
    return Rate(score.wer, score.ci95, score.utterances)


def _of_one(part: EvaluationPart) -> Contrast:
    """An evaluation, compared with what it was compared with when it was made."""
    comparison = part.result.comparison or ComparisonRecord()
    return Contrast(
        part.set_name,
        short(part.result.backend),
        _rate_in(part.result.base),
        _rate_of(part),
        clean(comparison.difference),
        clean_interval(comparison.ci95),
        short(comparison.verdict),
        _voices_in(part.result),
    )


def contrasts_of_run(run: RunPart) -> list[Contrast]:
    """Dev and canary of a run: the base at step 0, and the adapter that was kept."""
    result, scored = run.record.result, _rate_from(run.dev)
    base, best = result.baseline, result.best
    if base.is_empty:
        start = next((line for line in run.metrics if line.get("step") == 0), {})
        base, _ = SelectionRecord.salvage(dict(start))
    if best.is_empty:
        best = run.selection
    rows = []
    earlier = result.parent or SelectionRecord()
    for name, wers in (
        ("dev", (base.dev_wer, earlier.dev_wer, best.dev_wer)),
        ("canary", (base.canary_wer, earlier.canary_wer, best.canary_wer)),
    ):
        before, parent, after = (_rate_in(ScoreRecord(wer=wer)) for wer in wers)
        if name == "dev" and scored and (after is None or abs(scored.value - after.value) < 0.01):
            after = scored
        voices, sets = (run.record.dev_voices, best.dev_sentence) if name == "dev" else ("", "")
        scope = "; ".join(filter(None, (voices, result.scored_adapter, sets)))
        canary = short(best.canary, 80) if name == "canary" else ""
        row = _unpaired(name, "torch", before, after)
        rows.append(replace(row, voices=scope, canary=canary, parent=parent))
    return rows


def _canary_in(record: EvaluationRecord) -> str:
    clips = [] if record.utterances is None else [f"{record.utterances} clips"]
    return short(", ".join([*filter(None, [record.set_name]), *clips]), 80)


def _voices_in(record: EvaluationRecord | RunRecord | None) -> str:
    return record.voices.sentence if record and record.voices else ""


def _of_summary(summary: PlanRecord) -> list[Contrast]:
    """The scores that demo.json repeats, for a folder whose evaluations are gone."""
    return [
        _unpaired(
            name,
            backend,
            _rate_in(sides.get("base", {}).get(backend)),
            _rate_in(sides.get("adapted", {}).get(backend)),
        )
        for name, sides in (("domain", summary.domain), ("canary", summary.canary))
        for backend in ("torch", "runtime")
    ]
