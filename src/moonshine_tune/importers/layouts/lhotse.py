"""lhotse: cuts, or recordings with supervisions, as JSON lines, compressed or not."""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.json_text import JsonError, parse_json_object
from moonshine_tune.importers.base import (
    Importer,
    ImportSource,
    Row,
    Rows,
    is_clutter,
    read_text,
)

_ENDINGS = (".jsonl", ".jsonl.gz")


def _recognizes(source: ImportSource) -> bool:
    has_cuts, has_recordings, has_supervisions = (
        bool(_files(source.folder, kind)) for kind in ("cuts", "recordings", "supervisions")
    )
    return has_cuts or (has_recordings and has_supervisions)


def _files(folder: Path, kind: str) -> list[Path]:
    """Files of one kind, such as `recordings.jsonl.gz` or `an4_recordings_train.jsonl.gz`."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.name.endswith(_ENDINGS)
        and not is_clutter(path.name)
        and kind in path.name.split(".")[0].split("_")
    )


def _read(source: ImportSource) -> Rows:
    """The cuts; without any, each supervision in its recording."""
    files = _files(source.folder, "cuts")
    rows: list[Row] = []
    if files:
        for location, cut in _records(files):
            rows += _rows_of_cut(location, cut)
    else:
        recordings = {
            str(record.get("id")): record
            for _, record in _records(_files(source.folder, "recordings"))
        }
        files = _files(source.folder, "supervisions")
        for location, supervision in _records(files):
            recording = recordings.get(str(supervision.get("recording_id")))
            if recording is None:
                problem = f"no recording is called {supervision.get('recording_id')!r}"
                rows.append(Row(location, str(supervision.get("id")), problem=problem))
            else:
                rows.append(_row(location, supervision, recording, 0.0))
    return Rows(f"lhotse: {', '.join(path.name for path in files)}", source.folder, tuple(rows))


def _rows_of_cut(location: str, cut: dict[str, Any]) -> list[Row]:
    recording = cut.get("recording")
    if not isinstance(recording, dict):
        problem = f"cut {cut.get('id')!r}: mixed or padded, not one span of one recording"
        return [Row(location, str(cut.get("id")), problem=problem)]
    start, channel = float(cut.get("start") or 0.0), cut.get("channel")
    supervisions = cut.get("supervisions") or [
        {"id": cut.get("id"), "start": 0.0, "duration": cut.get("duration")}
    ]
    return [_row(location, item, recording, start, channel) for item in supervisions]


def _row(
    location: str,
    supervision: dict[str, Any],
    recording: dict[str, Any],
    offset: float,
    cut_channel: Any = None,
) -> Row:
    """The row of one supervision; its times are relative to `offset`."""
    name = str(supervision.get("id"))
    sources = [item for item in recording.get("sources") or [] if item.get("type") == "file"]
    if not sources:
        return Row(location, name, problem=f"{name}: its recording is not a file")
    named = supervision.get("channel", cut_channel)
    channels = named if isinstance(named, list) else [0 if named is None else named]
    source = next((s for s in sources if channels[0] in s.get("channels", [0])), sources[0])
    try:
        start = offset + float(supervision.get("start") or 0.0)
        end = start + float(supervision["duration"])
    except (KeyError, TypeError, ValueError):
        return Row(location, name, problem=f"{name}: start and duration are not numbers")
    values: dict[str, Any] = {"id": name}
    if start > 0 or end < float(recording.get("duration") or 0.0) - 1e-3:
        values |= {"start": round(start, 6), "end": round(end, 6)}
    for key in ("text", "speaker", "language"):
        if supervision.get(key) is not None:
            values[key] = str(supervision[key])
    if len(source.get("channels", [0])) > 1 and len(channels) == 1:
        values["channel"] = source["channels"].index(channels[0]) + 1
    return Row(location, str(source.get("source")), values)


def _records(paths: list[Path]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Location and JSON object of every line of some files."""
    for path in paths:
        try:
            if path.name.endswith(".gz"):
                text = gzip.decompress(path.read_bytes()).decode("utf-8")
            else:
                text = read_text(path)
        except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
            raise RequestError(f"cannot be decompressed ({error})", where=path) from error
        for number, line in enumerate(text.splitlines(), start=1):
            if not line.strip():
                continue
            try:
                yield f"{path}:{number}", parse_json_object(line)
            except JsonError as error:
                raise RequestError(str(error), where=path, line=number) from error


IMPORTER = Importer("lhotse", 22, _recognizes, _read)
