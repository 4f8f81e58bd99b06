"""`data import`: a folder of recordings and their transcripts become a manifest."""

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from moonshine_tune.audio.io import AUDIO_ENDINGS, AudioInfo
from moonshine_tune.core.errors import AudioError, ProblemsError, RequestError
from moonshine_tune.core.progress import Progress
from moonshine_tune.corpus.manifest import RESERVED_KEYS, Utterance, seconds_of, write_manifest
from moonshine_tune.data.importers.arrow import is_dataset_folder, read_dataset_folder
from moonshine_tune.data.importers.convert import convert, probe
from moonshine_tune.data.importers.corpora import corpus_layout, read_corpus
from moonshine_tune.data.importers.cues import rows_beside_cues
from moonshine_tune.data.importers.huggingface import HubDataset, read_hub_dataset
from moonshine_tune.data.importers.tables import (
    TABLE_ENDINGS,
    ColumnNames,
    Row,
    Source,
    read_table,
    rows_beside_texts,
    rows_of_trans_files,
    rows_without_texts,
)

# Manifests round times to milliseconds; a span may pass the end of its recording by this much.
_SPAN_SLACK_S = 0.1


@dataclass(frozen=True)
class ImportRequest:
    """What to import.

    Attributes:
        place: a folder of recordings; or a table, beside which they lie; or a dataset of the hub.
        out: the manifest to write.
        table: CSV, TSV or JSONL; without one, the folder is searched for transcripts.
        columns: columns named by the user.
        want_text: whether a recording needs a transcript; without, none is looked for.
        language: set on every utterance that has none.
        skip_bad: leave out rows that cannot be used, instead of refusing the whole table.
        force: replace an existing `out`.
        tier: of TextGrid files, the one that holds the texts.
        audio_out: folder for copies as the model hears them: mono, 16 kHz, FLAC, one a row.
        channel: of recordings with several, from 1; needs `audio_out`. None: their mean.
    """

    place: Path | HubDataset
    out: Path
    table: Path | None = None
    columns: ColumnNames = field(default_factory=ColumnNames)
    want_text: bool = True
    language: str | None = None
    skip_bad: bool = False
    force: bool = False
    tier: str | None = None
    audio_out: Path | None = None
    channel: int | None = None


@dataclass(frozen=True)
class Dropped:
    """One row or recording that is not in the manifest, and why."""

    place: str
    reason: str
    detail: str


@dataclass(frozen=True)
class ImportResult:
    """What was imported; found = kept + the sum of `reasons`.

    Attributes:
        source: where texts and names came from.
        reasons: reason → number of rows left out.
        unlisted: recordings of the folder that no row names.
    """

    manifest: Path
    source: str
    found: int
    kept: int
    seconds: float
    speakers: int
    reasons: dict[str, int]
    dropped: tuple[Dropped, ...]
    unlisted: int

    def summary(self) -> str:
        """`kept 97 of 100: 2 unreadable, 1 without text`."""
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.reasons.items())
        return f"kept {self.kept:,} of {self.found:,}" + (f": {reasons}" if reasons else "")


def import_data(request: ImportRequest, progress: Progress) -> ImportResult:
    """Write a manifest of recordings whose header can be read.

    Unreadable recordings and rows without text are left out and counted. A row that names no
    recording, a missing one, a broken span or a used id is an error, unless `skip_bad`.

    Raises:
        RequestError: no folder, no transcripts, an existing manifest, or nothing that can be used.
        ProblemsError: rows that cannot be used; all are listed with file and line.
    """
    _check(request)
    folder, audio, source = _read_source(request, progress)
    progress.say(f"reading {source.description}")
    finder = _RecordingFinder(folder, source.folder, audio)
    infos = probe([_found(finder, row) for row in source.rows], progress)
    kept: list[Utterance] = []
    dropped: list[Dropped] = []
    problems: list[str] = []
    ids: set[str] = set()
    named: set[Path] = set()
    for row in source.rows:
        made = _utterance(row, finder, infos, request, ids)
        if isinstance(made, Utterance):
            named.add(made.audio)
            ids.add(made.id)
            kept.append(made)
        elif made.reason in _FATAL and not request.skip_bad:
            problems.append(f"{made.place}: {made.detail}")
        else:
            dropped.append(made)
            named.update(finder.last)
    if problems:
        raise ProblemsError(
            f"{len(problems)} of {len(source.rows)} rows cannot be used",
            problems,
            hint="mend these rows, or leave them out with --skip-bad",
        )
    if request.audio_out is not None and kept:
        kept, failed = convert(kept, request.audio_out, request.channel, progress)
        dropped += [Dropped(str(path), "unreadable", detail) for path, detail in failed]
    reasons = dict(Counter(item.reason for item in dropped))
    unlisted = sum(path.resolve() not in named for path in audio)
    result = ImportResult(
        manifest=request.out,
        source=source.description,
        found=len(source.rows),
        kept=len(kept),
        seconds=round(seconds_of(kept), 3),
        speakers=len({item.speaker for item in kept if item.speaker}),
        reasons=reasons,
        dropped=tuple(dropped),
        unlisted=unlisted,
    )
    if not kept:
        raise ProblemsError(
            f"nothing can be imported: {result.summary()}",
            [f"{item.place}: {item.detail}" for item in dropped],
            hint="recordings without transcripts are imported with --no-text",
        )
    write_manifest(request.out, kept)
    return result


# Rows that contradict their table or their folder. The other reasons (unreadable, without text)
# are what real corpora are full of, and are only counted.
_FATAL = frozenset({"malformed", "missing", "with a wrong span", "with a repeated id"})


def _check(request: ImportRequest) -> None:
    """Refuse what cannot be, before anything is read."""
    if request.channel is not None and (request.audio_out is None or request.channel < 1):
        raise RequestError(
            "a channel can be chosen, from 1, where copies are written",
            hint="name a folder for them with --audio-out DIR",
        )
    if request.out.is_dir():
        raise RequestError(
            "a folder, and the manifest is a file",
            where=request.out,
            hint=f"name a file, such as --out {request.out / 'train.jsonl'}",
        )
    table = request.table or request.place
    if isinstance(table, Path) and table.is_file() and _is_same_file(request.out, table):
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


def _is_same_file(one: Path, other: Path) -> bool:
    return one.exists() and one.samefile(other)


def _read_source(request: ImportRequest, progress: Progress) -> tuple[Path, Sequence[Path], Source]:
    """The folder of the recordings, those that were found in it, and the rows."""
    if isinstance(request.place, HubDataset):
        sound = _sound_folder(request)
        source = read_hub_dataset(
            request.place, sound, request.columns, progress, want_text=request.want_text
        )
        return sound, (), source
    folder, table = request.place, request.table
    if table is None and folder.is_file() and folder.suffix.lower() in TABLE_ENDINGS:
        folder, table = folder.parent, folder
    if not folder.is_dir():
        what = "a file, not a folder" if folder.exists() else "no such folder"
        raise RequestError(
            what, where=folder, hint="give the folder of recordings: data import FOLDER --out F"
        )
    audio = _recordings(folder, request.out)
    return folder, audio, _find_source(folder, table, audio, request, progress)


def _sound_folder(request: ImportRequest) -> Path:
    """Where recordings go that lie in a table."""
    return request.audio_out or request.out.parent / f"{request.out.stem}-audio"


def _recordings(folder: Path, out: Path) -> list[Path]:
    """All recordings below a folder, in order of their names; hidden ones are not looked at."""
    found = []
    for place, names, files in os.walk(folder, followlinks=False):
        names[:] = sorted(name for name in names if not name.startswith("."))
        found += [
            Path(place) / name
            for name in files
            if Path(name).suffix.lower() in AUDIO_ENDINGS and not name.startswith(".")
        ]
    return sorted(path for path in found if path != out)


def _find_source(
    folder: Path,
    table: Path | None,
    audio: Sequence[Path],
    request: ImportRequest,
    progress: Progress,
) -> Source:
    if table is not None:
        return read_table(table, request.columns, want_text=request.want_text)
    layout = corpus_layout(folder)
    if layout is not None:
        return read_corpus(layout, folder, want_text=request.want_text)
    if is_dataset_folder(folder):
        return read_dataset_folder(
            folder,
            _sound_folder(request),
            request.columns,
            progress,
            want_text=request.want_text,
        )
    if not request.want_text and audio:
        return rows_without_texts(folder, audio)
    tables = [
        path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in TABLE_ENDINGS and path.is_file() and path != request.out
    ]
    if len(tables) == 1:
        return read_table(tables[0], request.columns, want_text=request.want_text)
    if tables:
        raise RequestError(
            f"the folder has {len(tables)} tables: {', '.join(path.name for path in tables)}",
            where=folder,
            hint=f"choose one with --table {tables[0]}",
        )
    found = (
        rows_of_trans_files(folder, audio)
        or rows_beside_cues(folder, audio, tier=request.tier)
        or rows_beside_texts(folder, audio)
    )
    if found is None:
        raise RequestError(
            f"{len(audio)} recordings and no transcripts" if audio else "no recordings",
            where=folder,
            hint="name a table with --table FILE"
            + (", or import the recordings without texts: --no-text" if audio else ""),
        )
    return found


class _RecordingFinder:
    """Finds recordings by what a table calls them: a path, a name, a name without ending."""

    def __init__(self, folder: Path, table_folder: Path, audio: Sequence[Path]) -> None:
        self._places = tuple(dict.fromkeys((folder, table_folder)))
        self.folder = folder
        self._audio = audio
        self._by_name: dict[str, list[Path]] | None = None
        self.last: tuple[Path, ...] = ()

    def find(self, name: str) -> Path | str:
        """The recording, or a sentence that says why it is not found."""
        self.last = ()
        for place in self._places:
            try:
                path = place / Path(name).expanduser()
                if path.is_file():
                    self.last = (path.resolve(),)
                    return self.last[0]
            except (OSError, ValueError, RuntimeError):
                return f"{name!r} is no path"
        if self._by_name is None:
            self._by_name = self._index()
        # Tables made on Windows have backslashes; disks of macOS spell accents in two characters.
        key = _composed(name.replace("\\", "/").removeprefix("./"))
        found = self._by_name.get(key) or self._by_name.get(key.rpartition("/")[2]) or []
        if len(found) == 1:
            self.last = (found[0].resolve(),)
            return self.last[0]
        if found:
            return f"{len(found)} recordings are called {name}: {found[0]}, {found[1]}"
        return f"no such recording: {name}"

    def _index(self) -> dict[str, list[Path]]:
        """Recordings by relative path and by bare name, each with and without its ending."""
        index: dict[str, list[Path]] = defaultdict(list)
        for path in self._audio:
            relative = path.relative_to(self.folder)
            keys = {relative.as_posix(), relative.with_suffix("").as_posix(), path.name, path.stem}
            for key in sorted(keys):
                index[_composed(key)].append(path)
        return index


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _found(finder: _RecordingFinder, row: Row) -> Path | None:
    if row.problem is not None:
        return None
    path = finder.find(row.audio)
    return path if isinstance(path, Path) else None


def _utterance(
    row: Row,
    finder: _RecordingFinder,
    infos: Mapping[Path, AudioInfo | AudioError],
    request: ImportRequest,
    ids: set[str],
) -> Utterance | Dropped:
    """The utterance of a row, or why there is none."""
    finder.last = ()
    if row.problem is not None:
        return Dropped(row.place, "malformed", row.problem)
    path = finder.find(row.audio)
    if isinstance(path, str):
        return Dropped(row.place, "missing", path)
    text = " ".join(str(row.values.get("text", "")).split()) if request.want_text else ""
    if request.want_text and not text:
        return Dropped(row.place, "without text", f"{row.audio}: no text")
    info = infos[path]
    if isinstance(info, AudioError):
        return Dropped(row.place, "unreadable", f"{row.audio}: {info.message}")
    if "channel" in row.extra and request.audio_out is None:
        detail = f"{row.audio}: one channel of several; cut it out with --audio-out DIR"
        return Dropped(row.place, "malformed", detail)
    try:
        str(path).encode("utf-8")
        text.encode("utf-8")
    except UnicodeEncodeError:
        return Dropped(row.place, "malformed", f"{row.audio!r}: not valid Unicode")
    if info.seconds <= 0:
        return Dropped(row.place, "empty", f"{row.audio}: no samples")
    span = _span(row.values, info.seconds)
    if isinstance(span, str):
        return Dropped(row.place, "with a wrong span", f"{row.audio}: {span}")
    start, end = span
    named = row.values.get("id")
    if named is not None and named in ids:
        return Dropped(row.place, "with a repeated id", f"id {named!r} was used already")
    utterance = Utterance(
        id=named or _fresh_id(path, finder.folder, ids),
        audio=path,
        text=text or None,
        speaker=row.values.get("speaker"),
        duration=round((info.seconds if end is None else end) - (start or 0.0), 4),
        start=start,
        end=end,
        language=row.values.get("language", request.language),
        split=row.values.get("split"),
        session=row.values.get("session"),
        extra={key: value for key, value in row.extra.items() if key not in RESERVED_KEYS},
    )
    return utterance if request.want_text else replace(utterance, text=row.values.get("text"))


def _span(values: dict[str, Any], seconds: float) -> tuple[float | None, float | None] | str:
    """Start and end of a row in a recording of so many seconds, or what is wrong with them."""
    start, end, duration = values.get("start"), values.get("end"), values.get("duration")
    if start is None and end is None:
        return None, None
    begin = start or 0.0
    if end is None:
        end = begin + duration if duration else seconds
    if not 0 <= begin < end <= seconds + _SPAN_SLACK_S:
        return f"the span {begin:g} to {end:g} s does not lie in its {seconds:.2f} s"
    end = round(min(end, seconds), 6)
    return begin, end


def _fresh_id(path: Path, folder: Path, ids: set[str]) -> str:
    """An id from the recording's place in the folder, with a number where it is used already."""
    home = folder.resolve()
    name = path.relative_to(home) if path.is_relative_to(home) else Path(path.name)
    base = _composed(name.with_suffix("").as_posix())
    number, made = 1, base
    while made in ids:
        number += 1
        made = f"{base}-{number}"
    return made
