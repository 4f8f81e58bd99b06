"""Adapter, key terms and both, side by side, where an evaluation was made with key terms."""

from moonshine_tune.report.figures import clean
from moonshine_tune.report.reading import ReportInput
from moonshine_tune.report.tables import (
    Cell,
    Column,
    Table,
    change_cell,
    interval_text,
    number_cell,
    set_title,
    short,
    text_cell,
)
from moonshine_tune.runs.records import KeyTermsArmRecord, KeyTermsRecord

_MAX_TABLES, _MAX_ARMS = 6, 8
_COLUMNS = (
    Column("Arm"), Column("WER %", "number"), Column("Change", "number"),
    Column("Listed words recognized %", "number"), Column("False alarms", "number"),
)  # fmt: skip


def key_terms_tables(report_input: ReportInput) -> tuple[Table, ...]:
    """A table for each evaluation that has arms with and without key terms."""
    tables = []
    for part in report_input.evaluations:
        record = part.result.keyterms or KeyTermsRecord()
        rows = tuple(_row(arm) for arm in record.arms[:_MAX_ARMS])
        if rows:
            caption = " · ".join(filter(None, (set_title(short(part.set_name, 60)), part.model)))
            tables.append(Table(caption, _COLUMNS, rows, _note(record), sortable=False))
    return tuple(tables[:_MAX_TABLES])


def _row(arm: KeyTermsArmRecord) -> tuple[Cell, ...]:
    change, rate = arm.change, clean(arm.false_alarms_per_1000_words)
    counted = arm.recalled is not None and arm.spoken is not None
    return (
        text_cell(arm.arm or "–"),
        number_cell(arm.wer),
        change_cell(change.difference, interval_text(change.ci95, sign=True)),
        number_cell(arm.recall, 1, f"{arm.recalled} of {arm.spoken}" if counted else ""),
        number_cell(arm.false_alarms, 0, "" if rate is None else f"{rate:.1f} in 1,000 words"),
    )


def _note(record: KeyTermsRecord) -> str:
    counts, boost = "", clean(record.boost)
    if record.terms is not None and boost is not None:
        counts = f"{record.terms} terms, boost {boost:g}. "
    return (
        f"{counts}A false alarm is a listed term in the transcript that is not in the reference. "
        "Changes are against the first arm."
    )
