"""Tables: a CSV, TSV or JSON file, such as a manifest of NeMo, beside the recordings."""

from pathlib import Path

from moonshine_tune.core.errors import RequestError
from moonshine_tune.data.importers import json_records
from moonshine_tune.data.importers.base import Importer, ImportSource, Rows, is_clutter
from moonshine_tune.data.importers.tabular import read_table
from moonshine_tune.transcripts.read import is_cue_table

_ENDINGS = (".csv", ".tsv", *json_records.ENDINGS)


def _recognizes(source: ImportSource) -> bool:
    if source.file is None:
        return bool(_tables(source))
    # A file that is named with --table is a table whatever its ending.
    return source.request.table is not None or source.file.suffix.lower() in _ENDINGS


def _read(source: ImportSource) -> Rows:
    tables = _tables(source) if source.file is None else [source.file]
    if len(tables) > 1:
        raise RequestError(
            f"the folder has {len(tables)} tables: {', '.join(path.name for path in tables)}",
            where=source.folder,
            hint=f"choose one with --table {tables[0]}",
        )
    path, request = tables[0], source.request
    is_json = json_records.is_json_file(path)
    read = json_records.read_json_table if is_json else read_table
    return read(path, request.columns, want_text=request.want_text)


def _tables(source: ImportSource) -> list[Path]:
    return [
        path
        for path in sorted(source.folder.iterdir())
        if path.suffix.lower() in _ENDINGS
        and not is_clutter(path.name)
        and path.is_file()
        and path != source.request.out
        and _names_recordings(path, source)
    ]


def _names_recordings(path: Path, source: ImportSource) -> bool:
    """Whether a file may be a table of the folder, and not of one recording or of settings."""
    ending = path.suffix.lower()
    if ending == ".json":
        is_of_one = any(path.with_suffix("") == item.with_suffix("") for item in source.recordings)
        return not is_of_one and json_records.names_recordings(path)
    return ending != ".tsv" or not is_cue_table(path)


IMPORTER = Importer("tables", 50, _recognizes, _read, kinds=("folder", "file"))
