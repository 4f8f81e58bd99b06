"""Recordings with a `.txt` file of the same name beside each."""

from moonshine_tune.data.importers.base import Importer, ImportSource, Row, Rows, read_text


def _recognizes(source: ImportSource) -> bool:
    return any(path.with_suffix(".txt").is_file() for path in source.recordings)


def _read(source: ImportSource) -> Rows:
    rows, count = [], 0
    for path in source.recordings:
        text_file = path.with_suffix(".txt")
        has_text = text_file.is_file()
        count += has_text
        values = {"text": read_text(text_file)} if has_text else {}
        rows.append(Row(str(path), str(path), values))
    return Rows(f"{count} .txt files beside {len(rows)} recordings", source.folder, tuple(rows))


IMPORTER = Importer("text files", 80, _recognizes, _read)
