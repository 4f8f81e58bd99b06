"""Tables: a CSV, TSV or JSON file, such as a manifest of NeMo, beside the recordings."""

from pathlib import Path

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.text import quoted
from moonshine_tune.importers import json_records
from moonshine_tune.importers.base import Importer, ImportSource, Rows, is_clutter
from moonshine_tune.importers.tabular import read_table
from moonshine_tune.importers.transcripts.read import CUE_ENDINGS, is_cue_table

_ENDINGS = (".csv", ".tsv", *json_records.ENDINGS)
# Lists of other programs, and workbooks, which are refused with what to do.
_OTHER_ENDINGS = (".txt", ".list", ".lst", ".tab", ".psv", ".dat", ".xlsx", ".xls", ".xlsm", ".ods",
                  ".numbers")  # fmt: skip


def _recognizes(source: ImportSource) -> bool:
    if source.file is None:
        return bool(_tables(source))
    # A file that is named with --table is a table whatever its ending.
    ending = source.file.suffix.lower()
    return source.request.table is not None or ending in (
        *_ENDINGS,
        *_OTHER_ENDINGS,
        *CUE_ENDINGS,
    )


def _read(source: ImportSource) -> Rows:
    tables = _tables(source) if source.file is None else [source.file]
    if len(tables) > 1:
        raise RequestError(
            f"the folder has {len(tables)} tables: {', '.join(path.name for path in tables)}",
            where=source.folder,
            hint=f"choose one with --table {quoted(tables[0])}",
        )
    path, request = tables[0], source.request
    beside = source.folder / path.name
    if not path.exists() and beside.is_file():
        raise RequestError(
            "no such table",
            where=path,
            hint=f"there is one in the folder: --table {quoted(beside)}",
        )
    if path.suffix.lower() in CUE_ENDINGS:
        raise RequestError(
            "the transcript of a recording, not a table",
            where=path,
            hint="give the folder: moonshine-tune data import "
            f"{quoted(source.folder)} --out train.jsonl",
        )
    read = json_records.read_json_table if json_records.is_json_file(path) else read_table
    return read(
        path,
        request.columns,
        want_text=request.want_text,
        recordings=source.recordings,
        encoding=request.encoding,
    )


def _tables(source: ImportSource) -> list[Path]:
    """The tables of the folder: not those of one recording, and not JSON of another kind."""
    of_one = {path.with_suffix("") for path in source.recordings if path.parent == source.folder}
    tables = []
    for path in sorted(source.folder.iterdir()):
        ending = path.suffix.lower()
        if ending not in _ENDINGS or is_clutter(path.name) or path == source.request.out:
            continue
        if not path.is_file():
            continue
        has_recording = path.with_suffix("") in of_one
        if ending == ".json":
            is_table = not has_recording and json_records.names_recordings(path)
        else:
            is_table = ending not in (".tsv", ".csv") or not is_cue_table(
                path, has_recording=has_recording
            )
        if is_table:
            tables.append(path)
    return tables


IMPORTER = Importer("tables", 50, _recognizes, _read, kinds=("folder", "file"))
