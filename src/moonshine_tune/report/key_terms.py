"""Adapter, key terms and both, side by side, where an evaluation was made with key terms."""

from collections.abc import Iterator, Mapping
from typing import Any

from moonshine_tune.report.reading import ReportInput, mapping, number, sequence
from moonshine_tune.report.tables import (
    Cell,
    Column,
    Table,
    change_cell,
    number_cell,
    set_title,
    short,
    text_cell,
)

_MAX_TABLES, _MAX_ARMS = 6, 8
_COLUMNS = (
    Column("Arm"), Column("WER %", "number"), Column("Change", "number"),
    Column("Listed words heard %", "number"), Column("False alarms", "number"),
)  # fmt: skip


def key_terms_tables(report_input: ReportInput) -> tuple[Table, ...]:
    """A table for each evaluation that has arms with and without key terms."""
    found = []
    for part in report_input.evaluations:
        record = mapping(part.result.get("keyterms"))
        rows = tuple(_row(mapping(arm)) for arm in sequence(record.get("arms"))[:_MAX_ARMS])
        if rows:
            caption = " · ".join(filter(None, (set_title(short(part.set_name, 60)), part.model)))
            found.append(Table(caption, _COLUMNS, rows, " ".join(_notes(record)), sortable=False))
    return tuple(found[:_MAX_TABLES])


def _row(arm: Mapping[str, Any]) -> tuple[Cell, ...]:
    change = mapping(arm.get("change"))
    recalled, spoken = number(arm.get("recalled")), number(arm.get("spoken"))
    counted = recalled is not None and spoken is not None
    alarms = number(arm.get("false_alarms"))
    rate = number(arm.get("false_alarms_per_1000_words"))
    return (
        text_cell(arm.get("arm") or "–"),
        number_cell(number(arm.get("wer"))),
        change_cell(number(change.get("difference")), _interval(change)),
        number_cell(
            number(arm.get("recall")), 1, f"{recalled:.0f} of {spoken:.0f}" if counted else ""
        ),
        number_cell(alarms, 0, "" if rate is None else f"{rate:.1f} in 1,000 words"),
    )


def _interval(change: Mapping[str, Any]) -> str:
    ends = [number(value) for value in sequence(change.get("ci95"))]
    if len(ends) != 2 or ends[0] is None or ends[1] is None:
        return ""
    return f"{ends[0]:.2f} to {ends[1]:.2f}".replace("-", "−")


def _notes(record: Mapping[str, Any]) -> Iterator[str]:
    terms, boost = number(record.get("terms")), number(record.get("boost"))
    if terms is not None and boost is not None:
        yield f"{terms:.0f} terms, boost {boost:g}."
    yield "A false alarm is a listed term that was heard and not said. Changes are against the " \
          "first arm."  # fmt: skip
