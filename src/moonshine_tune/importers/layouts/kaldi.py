"""Kaldi data folders: `wav.scp` and `text`, with `segments` and `utt2spk` if they exist.

Commands in `wav.scp` are never run: a data folder is data.
"""

from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

from moonshine_tune.core.errors import ProblemsError
from moonshine_tune.importers.base import Importer, ImportSource, Row, Rows, read_text


def _recognizes(source: ImportSource) -> bool:
    return (source.folder / "wav.scp").is_file() and (source.folder / "text").is_file()


def _read(source: ImportSource) -> Rows:
    folder, segments = source.folder, source.folder / "segments"
    speakers = _speakers(folder)
    texts = _by_key(folder / "text") if source.request.want_text else {}
    recordings = list(_pairs(folder / "wav.scp"))
    if segments.is_file():
        paths = _by_key(folder / "wav.scp")
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
    remarks = [_missing([row.values["id"] for row in rows], speakers, folder / "utt2spk")]
    if texts:
        listed = {row.values["id"] for row in rows}
        remarks.append(
            _missing(texts, listed, segments if segments.is_file() else folder / "wav.scp")
        )
    shown = tuple(remark for remark in remarks if remark)
    return Rows(f"Kaldi: {len(rows)} {name}", folder, tuple(described), shown)


def _speakers(folder: Path) -> dict[str, str]:
    """Utterance → speaker, of `utt2spk`, or of `spk2utt` where only that exists."""
    if not (folder / "utt2spk").is_file():
        lines = _pairs(folder / "spk2utt")
        return {name: speaker for _, speaker, names in lines for name in names.split()}
    return {key: value for key, value in _by_key(folder / "utt2spk").items() if value}


def _by_key(path: Path) -> dict[str, str]:
    """First word → rest of the lines of a file; nothing if there is no such file.

    Raises:
        ProblemsError: the same first word with two different rests.
    """
    values: dict[str, tuple[int, str]] = {}
    problems = []
    for number, key, value in _pairs(path):
        first, known = values.setdefault(key, (number, value))
        if known != value:
            problems.append(
                f"{path}:{number}: {key} is {value[:60]!r}, and {known[:60]!r} in line {first}"
            )
    if problems:
        raise ProblemsError(
            f"{path}: {len(problems)} keys have two values",
            problems,
            hint="keep one line of each key",
        )
    return {key: value for key, (_, value) in values.items()}


def _missing(names: Collection[str], listed: Collection[str], file: Path) -> str | None:
    """How many utterances a file lacks, with an example; None if it lacks none or is absent."""
    missing = [name for name in names if name not in listed] if listed or file.is_file() else []
    if not missing:
        return None
    count = f"{len(missing):,} of {len(names):,} utterances are"
    return f"{count} not in {file.name}, such as {missing[0]!r}"


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
            if times["end"] == -1:
                del times["end"]  # until the end of the recording
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
    lines = read_text(path).split("\n") if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        # Kaldi itself takes any white space; its scripts write a space, spreadsheets a tab.
        fields = line.split(None, 1)
        if fields:
            yield number, fields[0], fields[1].strip() if len(fields) > 1 else ""


IMPORTER = Importer("Kaldi", 21, _recognizes, _read)
