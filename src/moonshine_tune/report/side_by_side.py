"""Torch and runtime, and the adapter before: every set of a report, and its speakers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from moonshine_tune.report.cells import Cell, clean, clean_interval, interval_text, number_cell
from moonshine_tune.report.contrasts import contrasts_of_run
from moonshine_tune.report.reading import ReportInput, RunPart
from moonshine_tune.runs.records import EvaluationRecord, SpeakerRecord, SystemRecord
from moonshine_tune.runs.side_by_side import SYSTEMS, SideBySide, SystemKey, columns, side_by_side

_MAX_SETS, _MAX_SPEAKERS = 12, 200


@dataclass(frozen=True)
class Speakers:
    """The speakers of a set, the hardest for the last system first; `total` is that of all.

    `columns` are the systems, with the kind of their column.
    """

    set_name: str
    columns: list[tuple[str, str]]
    rows: tuple[tuple[str, SpeakerRecord, tuple[Cell, ...]], ...]
    total: int


@dataclass(frozen=True)
class Systems:
    """The sets, each with a cell for each system, and their speakers.

    Attributes:
        columns: the systems, with the kind of their column.
        rows: name of the set, number of utterances, cells.
    """

    columns: list[tuple[str, str]]
    rows: tuple[tuple[str, int | None, tuple[Cell, ...]], ...]
    speakers: tuple[Speakers, ...]

    @property
    def title(self) -> str:
        """What is compared."""
        parts = {"Adapter before": "before", "Torch and runtime": "runtime"}
        names = " ".join(name for name, _ in self.columns)
        return ", ".join(title for title, word in parts.items() if word in names)


def systems_of(report_input: ReportInput) -> Systems | None:
    """None where no set has more than the base and the adapted model by one back end."""
    run = report_input.run
    names = {}
    if run is not None:
        digests = ((role, run.record.data.get(role)) for role in ("train", "dev", "canary"))
        names = {digest: role for role, digest in digests if digest}
    sets = side_by_side(_evaluations(report_input), names)[:_MAX_SETS]
    if not sets:
        return None
    shown = columns(sets)
    rows = tuple(
        (
            part.name,
            next((s.utterances for s in part.systems.values() if s.utterances), None),
            tuple(_wer_cell(part.systems.get(key)) for key in shown),
        )
        for part in sets
    )
    speakers = tuple(_speakers(part) for part in sets if len(part.speakers) > 1)
    return Systems(_columns(shown), rows, speakers)


def _evaluations(report_input: ReportInput) -> Iterator[tuple[str, str, EvaluationRecord]]:
    for part in report_input.evaluations:
        yield part.set_name, part.model, part.result
    if report_input.run_alone is not None:
        yield from _of_run(report_input.run_alone)


def _of_run(run: RunPart) -> Iterator[tuple[str, str, EvaluationRecord]]:
    """Dev and canary as training scored them in torch: by the hash of their manifests."""
    for row in contrasts_of_run(run):
        for side, rate in (("base", row.before), ("parent", row.parent), ("adapted", row.after)):
            if rate is None:
                continue
            record = EvaluationRecord(
                wer=rate.value,
                ci95=rate.ends,
                utterances=rate.utterances,
                backend="torch",
                manifest_sha256=run.record.data.get(row.set_name) or "",
                normalizer=run.record.normalizer,
            )
            yield row.set_name, side, record


def _columns(shown: Sequence[SystemKey]) -> list[tuple[str, str]]:
    return [(SYSTEMS[key], "number") for key in shown]


def _wer_cell(system: SystemRecord | None) -> Cell:
    if system is None:
        return number_cell(None)
    return number_cell(system.wer, 2, interval_text(clean_interval(system.ci95)))


def _speakers(part: SideBySide) -> Speakers:
    shown = columns([part])
    last: SystemKey = shown[-1]

    def wer(name: str, key: SystemKey) -> float | None:
        return clean(part.systems[key].by_speaker.get(name))

    names = sorted(part.speakers, key=lambda name: (-(wer(name, last) or 0.0), name))
    return Speakers(
        part.name,
        _columns(shown),
        tuple(
            (name, part.speakers[name], tuple(number_cell(wer(name, key), 1) for key in shown))
            for name in names[:_MAX_SPEAKERS]
        ),
        len(names),
    )
