"""NIST's STM: files of utterances, with their times and speakers, of many recordings."""

from collections.abc import Iterator
from pathlib import Path

from moonshine_tune.corpus.transcript_form import is_silence_label
from moonshine_tune.importers.base import Importer, ImportSource, Row, Rows, read_text

# Lines that are not scored.
_NOT_SCORED = frozenset(
    ("inter_segment_gap", "ignore_time_segment_in_scoring", "excluded_region")
)  # fmt: skip


def _recognizes(source: ImportSource) -> bool:
    return bool(source.recordings and _files(source))


def _files(source: ImportSource) -> list[Path]:
    return [path for path in source.files if path.suffix.lower() == ".stm"]


def _read(source: ImportSource) -> Rows:
    files = _files(source)
    rows = tuple(row for file in files for row in _utterances(file))
    names = ", ".join(path.name for path in files[:3]) + (", …" if len(files) > 3 else "")
    return Rows(f"{len(rows)} utterances of {names}", source.folder, rows)


def _utterances(file: Path) -> Iterator[Row]:
    """The rows of `recording channel speaker start end [<labels>] text`."""
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith(";;"):
            continue
        location, fields = f"{file}:{number}", line.split(None, 5)
        try:
            name, _, speaker = fields[:3]
            start, end = float(fields[3]), float(fields[4])
        except (IndexError, ValueError):
            problem = "not recording, channel, speaker, start, end and text"
            yield Row(location, fields[0], problem=problem)
            continue
        text = fields[5] if len(fields) > 5 else ""
        # Labels of the conditions, such as `<o,f0,male>`.
        if text.startswith("<") and "," in text.partition(">")[0]:
            text = text.partition(">")[2]
        text = " ".join(text.split())
        is_scored = not _NOT_SCORED & {speaker.lower(), text.lower()}
        if not text or not is_scored or is_silence_label(text):
            continue
        values = {"start": start, "end": end, "text": text, "session": name, "speaker": speaker}
        yield Row(location, name, values)


IMPORTER = Importer("STM", 65, _recognizes, _read)
