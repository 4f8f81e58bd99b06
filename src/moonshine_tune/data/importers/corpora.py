"""Corpora in the layouts of other programs, as rows: Common Voice, Kaldi, lhotse.

NeMo's manifests are JSON lines and LibriSpeech's `.trans.txt` files; `data_tables` reads both.
"""

import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from moonshine_tune.core.errors import RequestError
from moonshine_tune.data.importers.tables import ColumnNames, Row, Source, decoded, read_table

_CV_SPLITS = ("train", "dev", "test")
_CV_KEPT = ("accents", "gender", "age")
_LHOTSE_ENDINGS = (".jsonl", ".jsonl.gz")


def corpus_layout(folder: Path) -> str | None:
    """`commonvoice`, `kaldi` or `lhotse` by the files of a folder; None for anything else."""
    if (folder / "clips").is_dir() and any(
        (folder / f"{name}.tsv").is_file() for name in (*_CV_SPLITS, "validated")
    ):
        return "commonvoice"
    if (folder / "wav.scp").is_file() and (folder / "text").is_file():
        return "kaldi"
    if _lhotse_files(folder, "cuts") or (
        _lhotse_files(folder, "recordings") and _lhotse_files(folder, "supervisions")
    ):
        return "lhotse"
    return None


def read_corpus(layout: str, folder: Path, *, want_text: bool) -> Source:
    """Rows of a corpus in a known layout.

    Raises:
        RequestError: a file of the layout is missing or cannot be read.
    """
    readers = {"commonvoice": _common_voice, "kaldi": _kaldi, "lhotse": _lhotse}
    return readers[layout](folder, want_text)


def _common_voice(folder: Path, want_text: bool) -> Source:
    """Its train, dev and test tables, each naming its split; else what was validated.

    `validated.tsv` holds the three again, so it is read only where they are missing.
    """
    names = [name for name in _CV_SPLITS if (folder / f"{name}.tsv").is_file()] or ["validated"]
    rows: list[Row] = []
    for name in names:
        source = read_table(folder / f"{name}.tsv", ColumnNames(), want_text=want_text)
        for row in source.rows:
            kept = {key: value for key, value in row.extra.items() if key in _CV_KEPT}
            split = {"split": name} if name in _CV_SPLITS else {}
            audio = row.audio if "/" in row.audio or not row.audio else f"clips/{row.audio}"
            rows.append(Row(row.place, audio, row.values | split, kept, row.problem))
    listed = ", ".join(f"{name}.tsv" for name in names)
    return Source(f"Common Voice: {listed}", folder, tuple(rows))


def _kaldi(folder: Path, want_text: bool) -> Source:
    """`wav.scp`, `text`, and where they are there `segments` and `utt2spk`.

    Commands in `wav.scp` are never run: a data folder is data.
    """
    audio = {key: value for _, key, value in _pairs(folder / "wav.scp")}
    speakers = _optional(folder / "utt2spk")
    texts = {key: value for _, key, value in _pairs(folder / "text")} if want_text else {}
    segments = folder / "segments"
    rows = []
    if segments.is_file():
        for number, name, rest in _pairs(segments):
            rows.append(_kaldi_segment(f"{segments}:{number}", name, rest.split(), audio))
    else:
        for number, name, path in _pairs(folder / "wav.scp"):
            rows.append(_kaldi_row(f"{folder / 'wav.scp'}:{number}", name, path))
    found = []
    for row in rows:
        name = row.values.get("id", "")
        more = {"text": texts.get(name), "speaker": speakers.get(name)}
        values = row.values | {key: value for key, value in more.items() if value}
        found.append(Row(row.place, row.audio, values, {}, row.problem))
    kind = "segments of recordings" if segments.is_file() else "recordings"
    return Source(f"Kaldi: {len(found)} {kind}", folder, tuple(found))


def _kaldi_segment(place: str, name: str, fields: Sequence[str], audio: dict[str, str]) -> Row:
    if len(fields) != 3 or fields[0] not in audio:
        what = "no such recording in wav.scp" if len(fields) == 3 else "not four fields"
        return Row(place, name, {"id": name}, problem=f"segment {name}: {what}")
    row = _kaldi_row(place, name, audio[fields[0]])
    try:
        start, end = float(fields[1]), float(fields[2])
    except ValueError:
        return Row(place, name, {"id": name}, problem=f"segment {name}: its times are no numbers")
    return Row(place, row.audio, {**row.values, "start": start, "end": end}, problem=row.problem)


def _kaldi_row(place: str, name: str, path: str) -> Row:
    if path.endswith("|"):
        problem = f"{name}: a command instead of a file; write its output to a file first"
        return Row(place, name, {"id": name}, problem=problem)
    return Row(place, path, {"id": name})


def _optional(path: Path) -> dict[str, str]:
    return {key: value for _, key, value in _pairs(path)} if path.is_file() else {}


def _pairs(path: Path) -> Iterator[tuple[int, str, str]]:
    """Line number, first word and rest of each line."""
    for number, line in enumerate(decoded(path).splitlines(), start=1):
        name, _, rest = line.strip().partition(" ")
        if name:
            yield number, name, rest.strip()


def _lhotse_files(folder: Path, kind: str) -> list[Path]:
    """Files of one kind, such as `recordings.jsonl.gz` or `an4_recordings_train.jsonl.gz`."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.name.endswith(_LHOTSE_ENDINGS) and kind in path.name.split(".")[0].split("_")
    )


def _lhotse(folder: Path, want_text: bool) -> Source:
    """Its cuts; without any, each supervision in its recording."""
    cuts = _lhotse_files(folder, "cuts")
    rows: list[Row] = []
    if cuts:
        for path in cuts:
            for number, cut in _records(path):
                rows += _rows_of_cut(f"{path}:{number}", cut)
        return Source(f"lhotse: {', '.join(path.name for path in cuts)}", folder, tuple(rows))
    recordings = {
        str(record.get("id")): record
        for path in _lhotse_files(folder, "recordings")
        for _, record in _records(path)
    }
    named = _lhotse_files(folder, "supervisions")
    for path in named:
        for number, one in _records(path):
            place = f"{path}:{number}"
            recording = recordings.get(str(one.get("recording_id")))
            if recording is None:
                problem = f"no recording is called {one.get('recording_id')!r}"
                rows.append(Row(place, str(one.get("id")), problem=problem))
            else:
                rows.append(_supervised(place, one, recording, 0.0))
    return Source(f"lhotse: {', '.join(path.name for path in named)}", folder, tuple(rows))


def _rows_of_cut(place: str, cut: dict[str, Any]) -> list[Row]:
    recording = cut.get("recording")
    if not isinstance(recording, dict):
        problem = f"cut {cut.get('id')!r}: mixed or padded, not one span of one recording"
        return [Row(place, str(cut.get("id")), problem=problem)]
    begin = float(cut.get("start") or 0.0)
    found = cut.get("supervisions") or []
    if not found:
        whole = {"id": cut.get("id"), "start": 0.0, "duration": cut.get("duration")}
        return [_supervised(place, whole, recording, begin, cut.get("channel"))]
    return [_supervised(place, one, recording, begin, cut.get("channel")) for one in found]


def _supervised(
    place: str,
    one: dict[str, Any],
    recording: dict[str, Any],
    begin: float,
    channel: Any = None,
) -> Row:
    """The row of one supervision; its times are relative to `begin`."""
    name = str(one.get("id"))
    sources = [item for item in recording.get("sources") or [] if item.get("type") == "file"]
    if not sources:
        return Row(place, name, problem=f"{name}: its recording is not a file")
    told = one.get("channel", channel)
    channels = told if isinstance(told, list) else [0 if told is None else told]
    holding = next((s for s in sources if channels[0] in s.get("channels", [0])), sources[0])
    try:
        start = begin + float(one.get("start") or 0.0)
        end = start + float(one["duration"])
    except (KeyError, TypeError, ValueError):
        return Row(place, name, problem=f"{name}: no start and duration that are numbers")
    values: dict[str, Any] = {"id": name}
    if start > 0 or end < float(recording.get("duration") or 0.0) - 1e-3:
        values |= {"start": round(start, 6), "end": round(end, 6)}
    values |= {
        key: str(one[key]) for key in ("text", "speaker", "language") if one.get(key) is not None
    }
    extra = {}
    if len(holding.get("channels", [0])) > 1 and len(channels) == 1:
        extra["channel"] = holding["channels"].index(channels[0]) + 1
    return Row(place, str(holding.get("source")), values, extra)


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """JSON objects of a file of lines, packed or not."""
    try:
        if path.name.endswith(".gz"):
            with gzip.open(path, "rt", encoding="utf-8") as file:
                lines = file.read().splitlines()
        else:
            lines = decoded(path).splitlines()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise RequestError(f"cannot be unpacked ({error})", where=path) from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise RequestError(f"not JSON ({error})", where=path, line=number) from error
        if not isinstance(record, dict):
            raise RequestError("not a JSON object", where=path, line=number)
        yield number, record
