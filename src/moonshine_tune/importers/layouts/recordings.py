"""Recordings without transcripts."""

from moonshine_tune.importers.base import Importer, ImportSource, Row, Rows


def _recognizes(source: ImportSource) -> bool:
    return not source.request.want_text and bool(source.recordings)


def _read(source: ImportSource) -> Rows:
    rows = tuple(Row(str(path), str(path)) for path in source.recordings)
    return Rows(f"{len(rows)} recordings without transcripts", source.folder, rows)


IMPORTER = Importer("recordings", 40, _recognizes, _read)
