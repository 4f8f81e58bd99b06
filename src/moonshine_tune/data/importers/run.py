"""`data import`: a folder of recordings and their transcripts become a manifest."""

import json
import os
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moonshine_tune.audio.io import AUDIO_ENDINGS, AudioInfo
from moonshine_tune.core.errors import AudioError, ProblemsError, RequestError
from moonshine_tune.core.files import holds_out
from moonshine_tune.core.progress import Progress
from moonshine_tune.core.scratch import remove_leftovers
from moonshine_tune.core.text import quoted
from moonshine_tune.corpus.manifest import RESERVED_KEYS, Utterance, seconds_of, write_manifest
from moonshine_tune.data.importers.base import (
    ImportRequest,
    ImportSource,
    Row,
    Rows,
    all_importers,
)
from moonshine_tune.data.importers.channels import channels_of
from moonshine_tune.data.importers.convert import convert, probe
from moonshine_tune.data.importers.finder import RecordingFinder
from moonshine_tune.data.importers.ids import with_unique_ids
from moonshine_tune.data.importers.times import SPAN_SLACK_S, in_seconds

# Rows that contradict their table or their folder. Real corpora are full of rows with the other
# reasons (unreadable, without text), which are only counted.
_FATAL = frozenset({"malformed", "missing", "with a wrong span", "with a repeated id"})


@dataclass(frozen=True)
class Dropped:
    """One row or recording that is not in the manifest, and why."""

    location: str
    reason: str
    detail: str


@dataclass(frozen=True)
class ImportResult:
    """What was imported; rows = kept + the sum of `reasons`.

    Attributes:
        source: where texts and names came from.
        reasons: reason → number of rows that were left out.
        unlisted: recordings of the folder that no row names.
    """

    manifest: Path
    source: str
    rows: int
    kept: int
    seconds: float
    speakers: int
    reasons: dict[str, int]
    dropped: tuple[Dropped, ...]
    unlisted: int

    def summary(self) -> str:
        """`kept 97 of 100: 2 unreadable, 1 without text`."""
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.reasons.items())
        return f"kept {self.kept:,} of {self.rows:,}" + (f": {reasons}" if reasons else "")

    def to_record(self) -> dict[str, Any]:
        """The JSON document."""
        dropped = [
            {"place": item.location, "reason": item.reason, "detail": item.detail}
            for item in self.dropped
        ]
        record = asdict(self) | {"dropped": dropped}
        record["found"] = record.pop("rows")
        return record


@holds_out(lambda request, progress: request.out)
def import_data(request: ImportRequest, progress: Progress) -> ImportResult:
    """Write a manifest of the recordings whose header can be read.

    Unreadable recordings and rows without text are left out and counted. A row that names no
    recording, a missing recording, a wrong span or a repeated id is an error, unless `skip_bad`.

    Raises:
        RequestError: no folder, no transcripts, an existing manifest, or nothing usable.
        ProblemsError: rows that cannot be used; all are listed with file and line.
    """
    _check(request)
    remove_leftovers(request.embedded_audio_folder)
    source = _open_source(request, progress)
    rows = _read_rows(source)
    progress.say(f"reading {rows.description}")
    resolved, infos = _resolve(rows, source)
    channels: list[int | None] = []
    kept: list[Utterance] = []
    dropped: list[Dropped] = []
    ids: set[str] = set()
    for item in resolved:
        outcome = _utterance(item, source.folder, infos, request, ids)
        if isinstance(outcome, Utterance):
            ids.add(outcome.id)
            kept.append(outcome)
            channels.append(request.channel if item.channel is None else item.channel)
        else:
            dropped.append(outcome)
    fatal = [item for item in dropped if item.reason in _FATAL]
    if fatal and not request.skip_bad:
        raise ProblemsError(
            f"{len(fatal)} of {len(rows.rows)} rows cannot be used",
            [f"{item.location}: {item.detail}" for item in fatal],
            hint="fix these rows, or leave them out with --skip-bad",
        )
    if request.audio_out is not None and kept:
        kept, failed = convert(kept, request.audio_out, channels, progress)
        dropped += [Dropped(str(path), "unreadable", detail) for path, detail in failed]
    named = {item.path for item in resolved}
    result = ImportResult(
        manifest=request.out,
        source=rows.description,
        rows=len(rows.rows),
        kept=len(kept),
        seconds=round(seconds_of(kept), 3),
        speakers=len({item.speaker for item in kept if item.speaker}),
        reasons=dict(Counter(item.reason for item in dropped)),
        dropped=tuple(dropped),
        unlisted=sum(path.resolve() not in named for path in source.recordings),
    )
    if not kept:
        raise ProblemsError(
            f"nothing can be imported: {result.summary()}",
            [f"{item.location}: {item.detail}" for item in dropped],
            hint="import recordings without transcripts with --no-text",
        )
    write_manifest(request.out, kept, replace=request.force)
    return result


def _check(request: ImportRequest) -> None:
    """Refuse an impossible request before anything is read."""
    if request.channel is not None and (request.audio_out is None or request.channel < 1):
        raise RequestError(
            "--channel needs a number from 1, and --audio-out",
            hint="name a folder for the copies with --audio-out DIR",
        )
    if any(value is not None for value in vars(request.hub).values()) and not request.is_address:
        raise RequestError(
            "--dataset-config, --split, --revision and --limit need a dataset of the hub",
            where=request.location,
            hint="name it as hf://OWNER/NAME",
        )
    if request.out.is_dir():
        raise RequestError(
            "a folder, but the manifest is a file",
            where=request.out,
            hint=f"name a file, such as --out {quoted(request.out / 'train.jsonl')}",
        )
    table = request.table or Path(request.location)
    if table.is_file() and request.out.exists() and request.out.samefile(table):
        raise RequestError(
            "the manifest would replace the table that it is made from",
            where=request.out,
            hint="choose another name with --out",
        )
    if request.out.exists() and not request.force:
        raise RequestError(
            "the manifest exists already",
            where=request.out,
            hint="choose another name with --out, or replace it with --force",
        )


def _open_source(request: ImportRequest, progress: Progress) -> ImportSource:
    if request.is_address:
        return ImportSource(request, request.embedded_audio_folder, None, (), progress)
    folder, file = Path(request.location), request.table
    if file is None and folder.is_file():
        folder, file = folder.parent, folder
    if not folder.is_dir():
        raise RequestError(
            "no such folder" if not folder.exists() else "a file, not a folder",
            where=folder,
            hint="give the folder of recordings: data import FOLDER --out F",
        )
    return ImportSource(request, folder, file, _recordings(folder, request.out), progress)


def _recordings(folder: Path, out: Path) -> tuple[Path, ...]:
    """All recordings below a folder, sorted; hidden files and folders are skipped."""
    recordings = []
    for parent, folders, files in os.walk(folder, followlinks=False):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        recordings += [
            Path(parent) / name
            for name in files
            if Path(name).suffix.lower() in AUDIO_ENDINGS and not name.startswith(".")
        ]
    return tuple(sorted(path for path in recordings if path != out))


def _read_rows(source: ImportSource) -> Rows:
    """The rows of the first importer that recognizes the source."""
    for importer in all_importers():
        if source.kind in importer.kinds and importer.recognizes(source):
            return importer.read(source)
    if source.kind == "address":
        raise RequestError("no such source", where=source.request.location)
    if source.file is not None:
        raise RequestError(
            "a file, not a folder",
            where=source.file,
            hint="give the folder of recordings: data import FOLDER --out F",
        )
    count = len(source.recordings)
    raise RequestError(
        f"{count} recordings and no transcripts" if count else "no recordings",
        where=source.folder,
        hint="name a table with --table FILE"
        + (", or import the recordings without texts: --no-text" if count else ""),
    )


@dataclass(frozen=True)
class _ResolvedRow:
    """A row with the path of its recording, if there is one, and its problem, if it has one."""

    row: Row
    path: Path | None
    problem: str
    channel: int | None = None


def _resolve(
    rows: Rows, source: ImportSource
) -> tuple[list[_ResolvedRow], dict[Path, AudioInfo | AudioError]]:
    """Rows with their recordings, their times in seconds, their channels, and ids that are ids."""
    finder = RecordingFinder(source.folder, rows.folder, source.recordings)
    results = finder.find_all(rows.rows)
    paths: list[Path | None] = []
    problems: list[str] = []
    for row in rows.rows:
        result = results.get(row.audio, "no recording is named")
        paths.append(result if isinstance(result, Path) else None)
        problems.append(row.problem or ("" if isinstance(result, Path) else result))
    usable = [None if problem else path for path, problem in zip(paths, problems, strict=True)]
    infos = probe(usable, source.progress, source.request.channel)
    remarks = [*rows.remarks, *finder.remarks]
    timed, unit = in_seconds(rows.rows, usable, infos)
    if unit is not None:
        remarks.append(f"times are in {unit}: as seconds they would not fit the recordings")
    channels, channel_remark = channels_of(timed, usable, infos, source.request.channel)
    timed, id_remark = with_unique_ids(timed, usable)
    for remark in (*remarks, channel_remark, id_remark):
        if remark:
            source.progress.say(remark)
    items = zip(timed, paths, problems, channels, strict=True)
    return [_ResolvedRow(*item) for item in items], infos


def _utterance(
    resolved: _ResolvedRow,
    folder: Path,
    infos: Mapping[Path, AudioInfo | AudioError],
    request: ImportRequest,
    ids: set[str],
) -> Utterance | Dropped:
    """The utterance of a row, or why there is none."""
    row, path = resolved.row, resolved.path
    if row.problem is not None:
        return Dropped(row.location, "malformed", row.problem)
    if path is None:
        return Dropped(row.location, "missing", resolved.problem)
    text = " ".join(str(row.values.get("text", "")).split()) if request.want_text else ""
    if request.want_text and not text:
        return Dropped(row.location, "without text", f"{row.audio}: no text")
    info = infos[path]
    if isinstance(info, AudioError):
        return Dropped(row.location, "unreadable", f"{row.audio}: {info.message}")
    if resolved.channel is not None and request.audio_out is None:
        detail = f"{row.audio}: one channel of several; cut it out with --audio-out DIR"
        return Dropped(row.location, "malformed", detail)
    problem = _unwritable(row, path)
    if problem:
        return Dropped(row.location, "malformed", f"{row.audio!r}: {problem}")
    if info.seconds <= 0:
        return Dropped(row.location, "empty", f"{row.audio}: no samples")
    span = _span(row.values, info.seconds)
    if isinstance(span, str):
        return Dropped(row.location, "with a wrong span", f"{row.audio}: {span}")
    start, end = span
    identifier = row.values.get("id")
    if identifier is not None and identifier in ids:
        return Dropped(row.location, "with a repeated id", f"an earlier row has id {identifier!r}")
    return Utterance(
        id=identifier or _new_id(path, folder, ids),
        audio=path,
        text=text if request.want_text else None,
        speaker=row.values.get("speaker"),
        duration=round((info.seconds if end is None else end) - (start or 0.0), 4),
        start=start,
        end=end,
        language=row.values.get("language", request.language),
        split=row.values.get("split"),
        session=row.values.get("session"),
        extra=_extra(row, resolved.channel),
    )


def _extra(row: Row, channel: int | None) -> dict[str, Any]:
    """All other fields; one that is called like a field of the manifest is the source's."""
    return {
        f"source_{key}" if key in RESERVED_KEYS else key: value
        for key, value in row.extra.items()
        if key != "channel" or channel is None
    }


def _unwritable(row: Row, path: Path) -> str | None:
    """Why a row cannot be a line of JSON: half of a character, or nesting without end."""
    try:
        f"{path}{row.values}".encode()
        json.dumps([*row.values.values(), row.extra], ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return "not valid Unicode"
    except (RecursionError, ValueError, TypeError):
        return "a value that JSON cannot hold"
    return None


def _span(values: dict[str, Any], seconds: float) -> tuple[float | None, float | None] | str:
    """Start and end of a row in a recording of that length, or the problem in a sentence."""
    start, end, duration = values.get("start"), values.get("end"), values.get("duration")
    if start is None and end is None:
        return None, None
    start = start or 0.0
    if end is None:
        end = start + duration if duration else seconds
    if not 0 <= start < end <= seconds + SPAN_SLACK_S:
        return f"the span {start:g} to {end:g} s is not within its {seconds:.2f} s"
    return start, round(min(end, seconds), 6)


def _new_id(path: Path, folder: Path, ids: set[str]) -> str:
    """An id from the recording's path in the folder, with a number if it is taken."""
    home = folder.resolve()
    name = path.relative_to(home) if path.is_relative_to(home) else Path(path.name)
    base = unicodedata.normalize("NFC", name.with_suffix("").as_posix())
    number, identifier = 1, base
    while identifier in ids:
        number += 1
        identifier = f"{base}-{number}"
    return identifier
