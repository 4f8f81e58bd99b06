"""Kaldi data folders: `wav.scp` and `text`, with `segments` and `utt2spk` if they exist.

Commands in `wav.scp` are never run: a data folder is data.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from moonshine_tune.data.importers.base import Importer, ImportSource, Row, Rows, read_text


def _recognizes(source: ImportSource) -> bool:
    return (source.folder / "wav.scp").is_file() and (source.folder / "text").is_file()


def _read(source: ImportSource) -> Rows:
    folder, segments = source.folder, source.folder / "segments"
    speakers = {key: value for _, key, value in _pairs(folder / "utt2spk")}
    text_lines = _pairs(folder / "text") if source.request.want_text else ()
    texts = {key: value for _, key, value in text_lines}
    recordings = list(_pairs(folder / "wav.scp"))
    if segments.is_file():
        paths = {key: path for _, key, path in recordings}
        rows = [
            _segment(f"{segments}:{number}", name, fields.split(), paths)
            for number, name, fields in _pairs(segments)
        ]
    else:
        rows = [
            _row(f"{folder / 'wav.scp'}:{number}", name, path) for number, name, path in recordings
        ]
    described = []
    for row in rows:
        name = row.values["id"]
        more = {"text": texts.get(name), "speaker": speakers.get(name)}
        values = row.values | {key: value for key, value in more.items() if value}
        described.append(replace(row, values=values))
    name = "segments of recordings" if segments.is_file() else "recordings"
    return Rows(f"Kaldi: {len(rows)} {name}", folder, tuple(described))


def _segment(location: str, name: str, fields: list[str], paths: dict[str, str]) -> Row:
    """The row of a line `name recording start end`."""
    problem = ""
    if len(fields) != 3:
        problem = "not four fields"
    elif fields[0] not in paths:
        problem = "no such recording in wav.scp"
    else:
        row = _row(location, name, paths[fields[0]])
        try:
            times = {"start": float(fields[1]), "end": float(fields[2])}
            return replace(row, values=row.values | times)
        except ValueError:
            problem = "its times are not numbers"
    return Row(location, name, {"id": name}, problem=f"segment {name}: {problem}")


def _row(location: str, name: str, path: str) -> Row:
    if path.endswith("|"):
        problem = f"{name}: a command instead of a file; write its output to a file first"
        return Row(location, name, {"id": name}, problem=problem)
    return Row(location, path, {"id": name})


def _pairs(path: Path) -> Iterator[tuple[int, str, str]]:
    """Line number, first word and rest of each line; nothing if there is no such file."""
    lines = read_text(path).splitlines() if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        name, _, rest = line.strip().partition(" ")
        if name:
            yield number, name, rest.strip()


IMPORTER = Importer("Kaldi", 21, _recognizes, _read)
