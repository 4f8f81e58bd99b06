"""Tables: a CSV, TSV or JSONL file, such as a manifest of NeMo, beside the recordings."""

from pathlib import Path

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.text import quoted
from moonshine_tune.data.importers.base import Importer, ImportSource, Rows
from moonshine_tune.data.importers.tabular import read_table

_ENDINGS = (".csv", ".tsv", ".jsonl")
# Lists of other programs, and workbooks, which are refused with what to do.
_OTHER_ENDINGS = (".txt", ".list", ".lst", ".tab", ".psv", ".dat", ".xlsx", ".xls", ".xlsm", ".ods",
                  ".numbers")  # fmt: skip


def _recognizes(source: ImportSource) -> bool:
    if source.file is None:
        return bool(_tables(source))
    # A file that is named with --table is a table whatever its ending.
    return source.request.table is not None or source.file.suffix.lower() in (
        *_ENDINGS,
        *_OTHER_ENDINGS,
    )


def _read(source: ImportSource) -> Rows:
    tables = _tables(source) if source.file is None else [source.file]
    if len(tables) > 1:
        raise RequestError(
            f"the folder has {len(tables)} tables: {', '.join(path.name for path in tables)}",
            where=source.folder,
            hint=f"choose one with --table {quoted(tables[0])}",
        )
    request = source.request
    beside = source.folder / tables[0].name
    if not tables[0].exists() and beside.is_file():
        raise RequestError(
            "no such table",
            where=tables[0],
            hint=f"there is one in the folder: --table {quoted(beside)}",
        )
    return read_table(
        tables[0],
        request.columns,
        want_text=request.want_text,
        recordings=source.recordings,
        encoding=request.encoding,
    )


def _tables(source: ImportSource) -> list[Path]:
    return [
        path
        for path in sorted(source.folder.iterdir())
        if path.suffix.lower() in _ENDINGS and path.is_file() and path != source.request.out
    ]


IMPORTER = Importer("tables", 50, _recognizes, _read, kinds=("folder", "file"))
