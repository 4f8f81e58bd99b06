"""Common Voice: `train.tsv`, `dev.tsv` and `test.tsv` beside a folder `clips`."""

from dataclasses import replace

from moonshine_tune.importers.base import ColumnNames, Importer, ImportSource, Row, Rows
from moonshine_tune.importers.tabular import read_table

_SPLITS = ("train", "dev", "test")
_KEPT = ("accents", "gender", "age")


def _recognizes(source: ImportSource) -> bool:
    return (source.folder / "clips").is_dir() and any(
        (source.folder / f"{name}.tsv").is_file() for name in (*_SPLITS, "validated")
    )


def _read(source: ImportSource) -> Rows:
    """`validated.tsv` repeats the three splits and is read only if they are missing."""
    folder = source.folder
    names = [name for name in _SPLITS if (folder / f"{name}.tsv").is_file()] or ["validated"]
    rows: list[Row] = []
    for name in names:
        path = folder / f"{name}.tsv"
        table = read_table(
            path, ColumnNames(), want_text=source.request.want_text, recordings=source.recordings
        )
        split = {"split": name} if name in _SPLITS else {}
        for row in table.rows:
            audio = row.audio if "/" in row.audio or not row.audio else f"clips/{row.audio}"
            extra = {key: value for key, value in row.extra.items() if key in _KEPT}
            rows.append(replace(row, audio=audio, values=row.values | split, extra=extra))
    listed = ", ".join(f"{name}.tsv" for name in names)
    return Rows(f"Common Voice: {listed}", folder, tuple(rows))


IMPORTER = Importer("Common Voice", 20, _recognizes, _read)
