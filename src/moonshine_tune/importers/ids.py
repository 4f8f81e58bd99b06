"""Ids of tables: a column called `id` may number sentences or recordings, not rows."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from moonshine_tune.corpus.manifest import RESERVED_KEYS
from moonshine_tune.importers.base import Row


def with_unique_ids(
    rows: Sequence[Row], paths: Sequence[Path | None]
) -> tuple[Sequence[Row], str | None]:
    """The rows, and what was decided about their ids, in a sentence.

    If a value of the id column repeats over different recordings or spans, as that of a sentence
    which several people read, then all values of the column become a field, and ids are made from
    the recordings. The same row twice is no such case: it stays an error.
    """
    spans: dict[str, tuple[Any, ...]] = {}
    example = next(
        (
            row
            for row, path in zip(rows, paths, strict=True)
            if row.id_column is not None
            and path is not None
            and (name := row.values.get("id")) is not None
            and spans.setdefault(name, span := _span(row, path)) != span
        ),
        None,
    )
    if example is None:
        return rows, None
    column = str(example.id_column)
    field = column if column not in RESERVED_KEYS else f"source_{column}"
    while any(field in row.extra for row in rows):
        field = f"source_{field}"
    remark = (
        f"{column!r} repeats over different recordings, such as {example.values['id']!r}: it is "
        f"kept as the field {field!r}, and ids are made from the recordings"
    )
    return [_with_field(row, field) for row in rows], remark


def _span(row: Row, path: Path) -> tuple[Any, ...]:
    return (path, *(row.values.get(name) for name in ("start", "end", "duration")))


def _with_field(row: Row, field: str) -> Row:
    if "id" not in row.values:
        return row
    values = {name: value for name, value in row.values.items() if name != "id"}
    return replace(row, values=values, extra={**row.extra, field: row.values["id"]})
