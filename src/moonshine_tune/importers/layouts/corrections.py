"""A log of corrections, named with --corrections: recordings, hypotheses, corrected texts."""

from dataclasses import replace

from moonshine_tune.core.errors import RequestError
from moonshine_tune.corpus.manifest import HYPOTHESIS, PSEUDO_LABEL
from moonshine_tune.importers import json_records
from moonshine_tune.importers.base import Importer, ImportSource, Row, Rows
from moonshine_tune.importers.corrections import correction_columns
from moonshine_tune.importers.tabular import delimited_table, rows_of_table


def _recognizes(source: ImportSource) -> bool:
    return source.request.corrections is not None


def _read(source: ImportSource) -> Rows:
    request, path = source.request, source.request.corrections
    if path is None or not path.is_file():
        raise RequestError("no such log", where=path, hint="name it with --corrections LOG")
    stems = {recording.stem for recording in source.recordings}
    options = request.correction_options
    if json_records.is_json_file(path):
        table = json_records.json_table(path, request.encoding)
    else:
        columns = request.columns
        named = [columns.audio, columns.text, columns.speaker, options.hypothesis_column]
        table = delimited_table(path, [name for name in named if name], stems, request.encoding)
    records = [record for _, record in table.records if isinstance(record, dict)]
    hypothesis, correction = correction_columns(
        path, table.heading, options, request.columns.text, records
    )
    names = replace(request.columns, text=correction)
    rows = rows_of_table(path, table, names, stems, want_text=True)
    return Rows(
        f"{rows.description}, hypothesis from {hypothesis!r}",
        rows.folder,
        tuple(_with_hypothesis(row, hypothesis) for row in rows.rows),
        remarks=table.remarks,
    )


def _with_hypothesis(row: Row, column: str) -> Row:
    """The row with its hypothesis under the name that manifests have for it."""
    if row.problem is not None and not row.audio:
        # A log that has lost the name of the recording, too: missing, not malformed.
        row = replace(row, problem=None)
    extra = dict(row.extra)
    text = extra.pop(column, None)
    # A person has gone through a log of corrections, also where nothing had to be changed.
    extra.pop(PSEUDO_LABEL, None)
    return replace(row, extra=extra | {HYPOTHESIS: text.strip() if isinstance(text, str) else ""})


IMPORTER = Importer("corrections", 5, _recognizes, _read, kinds=("folder", "file"))
