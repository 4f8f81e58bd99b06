"""`data import`: a folder of recordings and their transcripts become a manifest."""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from moonshine_tune.audio.io import AUDIO_ENDINGS, AudioInfo
from moonshine_tune.core.errors import AudioError, ProblemsError, RequestError
from moonshine_tune.core.files import holds_out, write_jsonl_atomic
from moonshine_tune.core.names import real_path
from moonshine_tune.core.progress import Progress
from moonshine_tune.core.scratch import remove_leftovers
from moonshine_tune.core.text import quoted
from moonshine_tune.corpus.manifest import (
    HYPOTHESIS,
    RESERVED_KEYS,
    Utterance,
    seconds_of,
    write_manifest,
)
from moonshine_tune.corpus.rolling_captions import repeated_captions
from moonshine_tune.corpus.speaker_labels import count_speakers
from moonshine_tune.corpus.transcript_form import KINDS, clean_text, count_form, is_list_or_object
from moonshine_tune.importers.base import (
    ImportRequest,
    ImportSource,
    Row,
    Rows,
    all_importers,
    files_below,
    is_clutter,
)
from moonshine_tune.importers.channels import channels_of
from moonshine_tune.importers.convert import convert, probe, report_readings
from moonshine_tune.importers.corrections import judge_corrections
from moonshine_tune.importers.cut import cut_recordings
from moonshine_tune.importers.finder import RecordingFinder
from moonshine_tune.importers.ids import with_unique_ids
from moonshine_tune.importers.recording_counts import RecordingCounts, count_recordings
from moonshine_tune.importers.times import SPAN_SLACK_S, in_seconds, with_ends
from moonshine_tune.importers.transcripts.read import NO_TRANSCRIPTS

# Names of copies: hashes of their content.
_COPY = re.compile(r"[0-9a-f]{24}")
_SHOWN_KINDS = 5
_TABLES = frozenset((".csv", ".tsv", ".jsonl", ".json", ".list", ".lst", ".xlsx"))
# Rows that contradict their table or their folder. Real corpora are full of rows with the other
# reasons (unreadable, without text), which are only counted.
_WITHOUT_TEXT = "without text"
_FATAL = frozenset({"malformed", "missing", "with a wrong span", "with a repeated id"})
# Dictation programs delete old recordings, and keep the texts.
_FATAL_OF_CORRECTIONS = _FATAL - {"missing"}


@dataclass(frozen=True)
class Dropped:
    """One row or recording that is not in the manifest, and why.

    Attributes:
        recording: the resolved path, if there is such a recording.
        row: as its source has it, where there is one.
    """

    location: str
    reason: str
    detail: str
    recording: Path | None = None
    row: Row | None = None

    @property
    def has_no_text(self) -> bool:
        """Whether only the text is missing."""
        return self.reason == _WITHOUT_TEXT


@dataclass(frozen=True)
class ImportResult:
    """What was imported; rows = kept + the sum of `reasons`.

    Attributes:
        clips: lines of the manifest: more than `kept` rows where long recordings were cut.
        source: where texts and names came from.
        reasons: reason → number of rows that were left out.
        unlisted: recordings of the folder that no row names.
        form: kind of finding → number of texts with what is not speech, or may not be.
        recordings: what became of each recording.
        remarks: what was decided by content, a sentence each.
        left_out: of corrections, the file that lists those that are not in the manifest.
    """

    manifest: Path
    source: str
    rows: int
    kept: int
    clips: int
    seconds: float
    speakers: int
    reasons: dict[str, int]
    dropped: tuple[Dropped, ...]
    unlisted: int
    form: dict[str, int]
    recordings: RecordingCounts
    remarks: tuple[str, ...] = ()
    left_out: Path | None = None

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
    if request.max_clip_s is not None and request.want_text:
        source = _without_texts(source)
        request = source.request
    rows = _read_rows(source)
    progress.say(f"reading {rows.description}")
    resolved, infos, remarks = _resolve(rows, source)
    channels: list[int | None] = []
    kept: list[Utterance] = []
    dropped: list[Dropped] = []
    ids: dict[str, int] = {}
    for item in resolved:
        outcome = _utterance(item, source.folder, infos, request, ids)
        if isinstance(outcome, Utterance):
            ids[outcome.id] = 1
            kept.append(outcome)
            channels.append(request.channel if item.channel is None else item.channel)
        else:
            dropped.append(replace(outcome, recording=item.path, row=item.row))
    if not request.skip_bad:
        fatal = _FATAL_OF_CORRECTIONS if request.corrections else _FATAL
        _refuse_contradictions(dropped, len(rows.rows), fatal)
    if request.max_clip_s is not None:
        kept, channels, remark = _cut(kept, channels, request.max_clip_s, dropped, progress)
        remarks += (remark,) if remark else ()
    used = [item.audio for item in kept]
    if request.audio_out is not None and kept:
        kept, failed = convert(kept, request.audio_out, channels, progress)
        dropped += [
            Dropped(str(path), "unreadable", detail, recording=path) for path, detail in failed
        ]
        used = list((Counter(used) - Counter(path for path, _ in failed)).elements())
    counts = _counts(source, used, dropped)
    result = ImportResult(
        manifest=request.out,
        source=rows.description,
        rows=len(rows.rows),
        kept=max(len(rows.rows) - len(dropped), 0),
        clips=len(kept),
        seconds=round(seconds_of(kept), 3),
        speakers=count_speakers(kept),
        reasons=dict(Counter(item.reason for item in dropped)),
        dropped=tuple(dropped),
        unlisted=counts.in_no_row,
        recordings=counts,
        remarks=remarks,
        form=_count_form(kept, rows, request),
        left_out=request.left_out_path if request.corrections and dropped else None,
    )
    if not kept:
        raise ProblemsError(
            f"nothing can be imported: {result.summary()}",
            [f"{item.location}: {item.detail}" for item in dropped],
            hint="import recordings without transcripts with --no-text",
        )
    _write(request, kept, dropped)
    return result


def _write(request: ImportRequest, kept: Sequence[Utterance], dropped: Sequence[Dropped]) -> None:
    """Write the manifest; of corrections, first the list of those that are not in it."""
    if request.corrections is not None and dropped:
        records = map(_left_out_record, dropped)
        write_jsonl_atomic(request.left_out_path, records, replace=request.force)
    elif request.corrections is not None:
        request.left_out_path.unlink(missing_ok=True)
    write_manifest(request.out, kept, replace=request.force)


def _left_out_record(item: Dropped) -> dict[str, Any]:
    """A line of the list of corrections that are not in the manifest: a manifest line, and why."""
    row = item.row or Row(item.location, "")
    audio = str(item.recording or row.audio)
    fields = {"audio": audio, "text": str(row.values.get("text") or "")}
    hypothesis = {HYPOTHESIS: row.extra[HYPOTHESIS]} if HYPOTHESIS in row.extra else {}
    others = {name: value for name, value in row.values.items() if name not in fields}
    why = {"reason": item.reason, "detail": item.detail, "location": item.location}
    return fields | hypothesis | others | why


def _cut(
    kept: Sequence[Utterance],
    channels: Sequence[int | None],
    max_clip_s: float,
    dropped: list[Dropped],
    progress: Progress,
) -> tuple[list[Utterance], list[int | None], str]:
    """The clips of long recordings, the channel of each, and a remark; failures join `dropped`."""
    cut = cut_recordings(kept, max_clip_s, progress)
    for index, reason, detail in cut.failed:
        path = kept[index].audio
        dropped.append(Dropped(str(path), reason, f"{path}: {detail}", recording=path))
    if cut.remark:
        progress.say(cut.remark)
    return list(cut.clips), [channels[index] for index in cut.origins], cut.remark


def _refuse_contradictions(
    dropped: Sequence[Dropped], total: int, reasons: Collection[str]
) -> None:
    """Refuse all rows if some contradict their table or their folder."""
    fatal = [item for item in dropped if item.reason in reasons]
    if fatal:
        raise ProblemsError(
            f"{len(fatal)} of {total} rows cannot be used",
            [f"{item.location}: {item.detail}" for item in fatal],
            hint="fix these rows, or leave them out with --skip-bad",
        )


def _counts(
    source: ImportSource, used: Sequence[Path], dropped: Sequence[Dropped]
) -> RecordingCounts:
    """What became of each recording of the folder and of the rows."""
    named = [(item.recording, item.has_no_text) for item in dropped if item.recording is not None]
    return count_recordings(
        source.folder,
        [real_path(path) for path in source.recordings],
        used=used,
        left_out=[path for path, has_no_text in named if not has_no_text],
        without_text=[path for path, has_no_text in named if has_no_text],
    )


def _count_form(kept: Sequence[Utterance], rows: Rows, request: ImportRequest) -> dict[str, int]:
    """Kind of finding → number of texts with it, as `data check` will report."""
    counts = count_form([item.text for item in kept])
    counts["repeated_caption"] = len(list(repeated_captions(kept)))
    texts = [str(row.values.get("text", "")) for row in rows.rows if request.want_text]
    unchanged = {item.text for item in kept}
    changed = (text for text in texts if text not in unchanged)
    counts["cleaned_text"] = sum(clean_text(text) != text for text in changed)
    return {kind: count for kind, count in counts.items() if count}


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
    _check_corrections(request)
    table = request.corrections or request.table or Path(request.location)
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


def _check_corrections(request: ImportRequest) -> None:
    """Refuse options of corrections without a log, or with options that exclude it."""
    options = request.correction_options
    if request.corrections is None:
        if any(value is not None for value in vars(options).values()):
            raise RequestError(
                "--hypothesis-column, --duplicates and --empty-correction need a log",
                hint="name it with --corrections LOG",
            )
        return
    if request.table is not None or not request.want_text:
        raise RequestError(
            "--corrections is the table, and its corrections are the texts",
            hint="leave out --table and --no-text",
        )
    for flag, value, known in (
        ("--duplicates", options.duplicates, ("first", "last")),
        ("--empty-correction", options.empty, ("silence", "unchanged", "skip")),
    ):
        if value is not None and value not in known:
            raise RequestError(f"{flag} {value} is unknown", hint=f"one of: {', '.join(known)}")
    if request.left_out_path.exists() and not request.force:
        raise RequestError(
            "the list of left-out corrections exists already",
            where=request.left_out_path,
            hint="choose another name with --out, or replace it with --force",
        )


def _open_source(request: ImportRequest, progress: Progress) -> ImportSource:
    if request.is_address:
        if request.corrections is not None:
            raise RequestError(
                "corrections need a folder of recordings, not a dataset",
                where=request.location,
                hint="name the folder of the recordings",
            )
        return ImportSource(request, request.embedded_audio_folder, None, (), progress)
    folder, file = Path(request.location), request.table
    if file is None and folder.is_file():
        folder, file = folder.parent, folder
    if not folder.is_dir():
        raise RequestError(
            "no such folder" if not folder.exists() else "a file, not a folder",
            where=folder,
            hint="name the folder of recordings: moonshine-tune data import FOLDER --out F",
        )
    if file is not None and request.table is None and file.suffix.lower() in AUDIO_ENDINGS:
        beside = (path for path in sorted(folder.iterdir()) if not is_clutter(path.name))
        files = tuple(path for path in beside if path.suffix.lower() not in AUDIO_ENDINGS)
        return ImportSource(request, folder, None, (file,), progress, files)
    recordings, files = _listed(folder, request)
    return ImportSource(request, folder, file, recordings, progress, files)


def _without_texts(source: ImportSource) -> ImportSource:
    """The same source without transcripts, to be cut.

    Raises:
        RequestError: it has some, and whether they matter is not said.
    """
    if any(item.recognizes(source) for item in all_importers() if source.kind in item.kinds):
        location = quoted(source.request.location)
        raise RequestError(
            "--cut makes clips without texts, but these recordings have transcripts",
            where=source.request.location,
            hint="divide the transcripts among the clips: moonshine-tune data align "
            f"{location} --out {quoted(source.request.out)}; or leave them out: --cut --no-text",
        )
    source.progress.say("no transcripts: the clips have no texts")
    return replace(source, request=replace(source.request, want_text=False))


def _listed(folder: Path, request: ImportRequest) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """All recordings below a folder, and all other files; without what an import wrote there."""
    recordings, files = [], []
    copies = str(request.embedded_audio_folder)
    for parent, name in files_below(folder):
        stem, mark, ending = name.rpartition(".")
        if f".{ending.lower()}" not in AUDIO_ENDINGS or not mark:
            files.append(Path(parent, name))
        elif parent != copies or not _COPY.fullmatch(stem):
            recordings.append(Path(parent, name))
    kept = (sorted(path for path in paths if path != request.out) for paths in (recordings, files))
    return tuple(next(kept)), tuple(next(kept))


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
            hint="name the folder of recordings: moonshine-tune data import FOLDER --out F",
        )
    raise _nothing_to_read(source)


def _nothing_to_read(source: ImportSource) -> RequestError:
    """What the folder has instead of transcripts, and how to go on."""
    count = len(source.recordings)
    examples: dict[str, Path] = {}
    kinds = Counter(path.suffix.lower() for path in source.files)
    for path in source.files:
        examples.setdefault(path.suffix.lower(), path.relative_to(source.folder))
    listed = [
        f"{number} {ending or 'without ending'}, such as {examples[ending]}"
        + (f" ({NO_TRANSCRIPTS[ending]})" if ending in NO_TRANSCRIPTS else "")
        for ending, number in kinds.most_common(_SHOWN_KINDS)
    ]
    problem = "no recordings"
    if count:
        example = source.recordings[0].relative_to(source.folder)
        problem = f"{count} recordings and no transcripts; recordings such as {example}"
    if listed:
        problem += f"; other files: {'; '.join(listed)}"
    table = next((path for path in source.files if path.suffix.lower() in _TABLES), None)
    named = quoted(table) if table else "FILE"
    return RequestError(
        problem,
        where=source.folder,
        hint=f"name a table with --table {named}"
        + (
            ", or import the recordings without texts: --no-text"
            if count
            else ", or the folder that holds the recordings"
        ),
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
) -> tuple[list[_ResolvedRow], dict[Path, AudioInfo | AudioError], tuple[str, ...]]:
    """Rows with their recordings, their times in seconds, their channels, and ids that are ids.

    Also the headers of the recordings, and what was decided by content, a sentence each.
    """
    finder = RecordingFinder(source.folder, rows.folder, source.recordings)
    rows = replace(rows, rows=tuple(finder.with_folders(rows.rows)))
    results = finder.find_all(rows.rows)
    paths: list[Path | None] = []
    problems: list[str] = []
    for row in rows.rows:
        result = results.get(row.audio, "no recording is named")
        paths.append(result if isinstance(result, Path) else None)
        problems.append(row.problem or ("" if isinstance(result, Path) else result))
    usable = [None if problem else path for path, problem in zip(paths, problems, strict=True)]
    infos = probe(usable, source.progress)
    remarks = [*rows.remarks, *finder.remarks]
    ended, end_remark = with_ends(rows.rows, usable)
    timed, unit = in_seconds(ended, usable, infos)
    if end_remark is not None:
        remarks.append(end_remark)
    if unit is not None:
        remarks.append(f"times are in {unit}: as seconds they would not fit the recordings")
    requested = source.request.channel
    channels, channel_remark = channels_of(timed, usable, infos, requested)
    pairs = zip(usable, channels, strict=True)
    with_channel = {path for path, channel in pairs if path and (channel or requested)}
    report_readings(infos, with_channel, source.progress)
    timed, id_remark = with_unique_ids(timed, usable)
    remarks += [remark for remark in (channel_remark, id_remark) if remark]
    request = source.request
    if request.corrections is not None:
        options = request.correction_options
        timed, decisions = judge_corrections(timed, usable, options, request.language)
        remarks += decisions
    for remark in remarks:
        source.progress.say(remark)
    items = zip(timed, paths, problems, channels, strict=True)
    return [_ResolvedRow(*item) for item in items], infos, tuple(remarks)


def _utterance(
    resolved: _ResolvedRow,
    folder: Path,
    infos: Mapping[Path, AudioInfo | AudioError],
    request: ImportRequest,
    ids: dict[str, int],
) -> Utterance | Dropped:
    """The utterance of a row, or why there is none."""
    row, path = resolved.row, resolved.path
    if row.problem is not None:
        return Dropped(row.location, "malformed", row.problem)
    if path is None:
        return Dropped(row.location, "missing", resolved.problem)
    if row.left_out is not None:
        reason, _, detail = row.left_out.partition(": ")
        return Dropped(row.location, reason, f"{row.audio}: {detail or reason}")
    text = clean_text(str(row.values.get("text", ""))) if request.want_text else ""
    if is_list_or_object(text):
        detail = f"{row.audio}: the text is {KINDS['list_or_object']}: {text[:60]}"
        return Dropped(row.location, "malformed", detail)
    if request.want_text and not text and not row.is_silence:
        return Dropped(row.location, _WITHOUT_TEXT, f"{row.audio}: no text")
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
        values = [*row.values.values(), row.extra]
        json.dumps(values, ensure_ascii=False, allow_nan=False).encode()
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


def _new_id(path: Path, folder: Path, ids: dict[str, int]) -> str:
    """An id from the recording's path in the folder, with a number if it is taken.

    Args:
        ids: taken ids, with the last number that each got: thousands of spans share a recording.
    """
    home = folder.resolve()
    name = path.relative_to(home) if path.is_relative_to(home) else Path(path.name)
    base = unicodedata.normalize("NFC", name.with_suffix("").as_posix())
    identifier = base
    while identifier in ids:
        ids[base] += 1
        identifier = f"{base}-{ids[base]}"
    return identifier
