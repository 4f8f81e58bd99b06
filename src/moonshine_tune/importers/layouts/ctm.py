"""CTM: files of words with their times, as recognizers and aligners write them.

They have no utterances, so any other transcript of the folder comes first.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from moonshine_tune.corpus.transcript_form import is_silence_label
from moonshine_tune.importers.base import Importer, ImportSource, Row, Rows, read_text

# A pause that ends an utterance.
_PAUSE_S = 0.5
_OVERLAP_S = 0.05


def _recognizes(source: ImportSource) -> bool:
    return bool(source.recordings and _files(source))


def _files(source: ImportSource) -> list[Path]:
    return [path for path in source.files if path.suffix.lower() == ".ctm"]


def _read(source: ImportSource) -> Rows:
    files = _files(source)
    rows = tuple(row for file in files for row in _utterances(file))
    remark = f"words of .ctm files are joined up to the next pause of {_PAUSE_S:g} s"
    names = ", ".join(path.name for path in files[:3]) + (", …" if len(files) > 3 else "")
    return Rows(f"{len(rows)} utterances of {names}", source.folder, rows, (remark,))


def _utterances(file: Path) -> Iterator[Row]:
    """The rows of `recording channel start duration word [confidence]`, joined up to a pause."""
    location, name, values = "", "", dict[str, Any]()
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith((";;", "#")):
            continue
        fields = line.split()
        try:
            start = float(fields[2])
            end, word = start + float(fields[3]), fields[4]
        except (IndexError, ValueError):
            problem = "not recording, channel, start, duration and word"
            yield Row(f"{file}:{number}", fields[0], problem=problem)
            continue
        if is_silence_label(word):
            continue
        if values and name == fields[0] and -_OVERLAP_S <= start - values["end"] <= _PAUSE_S:
            values |= {"end": round(end, 6), "text": f"{values['text']} {word}"}
            continue
        if values:
            yield Row(location, name, values)
        location, name = f"{file}:{number}", fields[0]
        values = {"start": start, "end": round(end, 6), "text": word, "session": name}
    if values:
        yield Row(location, name, values)


IMPORTER = Importer("CTM", 90, _recognizes, _read)
