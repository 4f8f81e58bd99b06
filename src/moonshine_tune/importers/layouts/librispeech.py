"""LibriSpeech: `*.trans.txt` files with a name and its words per line.

Names of the form speaker-chapter-number give speaker and session.
"""

from pathlib import Path
from typing import Any

from moonshine_tune.importers.base import Importer, ImportSource, Row, Rows, read_text


def _recognizes(source: ImportSource) -> bool:
    return any(map(_is_list, source.files))


def _read(source: ImportSource) -> Rows:
    files = [path for path in source.files if _is_list(path)]
    by_name = {(path.parent, path.stem): path for path in source.recordings}
    rows = []
    for file in files:
        for number, line in enumerate(read_text(file).splitlines(), start=1):
            if not line.strip():
                continue
            name, _, text = line.strip().partition(" ")
            path = by_name.get((file.parent, name), file.parent / name)
            parts = name.split("-")
            values: dict[str, Any] = {"id": name, "text": text}
            if len(parts) == 3:
                values |= {"speaker": parts[0], "session": f"{parts[0]}-{parts[1]}"}
            rows.append(Row(f"{file}:{number}", str(path), values))
    return Rows(f"{len(files)} .trans.txt files", source.folder, tuple(rows))


def _is_list(path: Path) -> bool:
    return path.name.lower().endswith(".trans.txt")


IMPORTER = Importer("LibriSpeech", 60, _recognizes, _read)
