"""What an importer is, what it reads and returns, and the registry of all importers.

Every module in `importers/layouts/` is loaded and defines one `IMPORTER`. Importers do not
import each other; what several need is here and in `tabular.py`.
"""

import os
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, Literal

from moonshine_tune.core.bounded_files import open_regular
from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.progress import Progress

_LAYOUTS = "moonshine_tune.importers.layouts"
# What `data import` was given: a folder of recordings, a file that lists them, or an address.
SourceKind = Literal["folder", "file", "address"]
# What systems and programs leave in folders, beside hidden files: macOS's archives, network disks,
# Windows's lists of thumbnails, lock files of office programs, and unfinished downloads.
_CLUTTER = frozenset(
    ("__macosx", "@eadir", "@tmp", "@recycle", "#recycle", "#snapshot", "$recycle.bin",
     "system volume information", "lost+found", "thumbs.db", "ehthumbs.db", "desktop.ini",
     "__pycache__", "icon\r")
)  # fmt: skip
_CLUTTER_ENDINGS = (".tmp", ".temp", ".part", ".partial", ".crdownload", "~")


@dataclass(frozen=True)
class ColumnNames:
    """Columns that the user has named; the others are guessed."""

    audio: str | None = None
    text: str | None = None
    speaker: str | None = None


@dataclass(frozen=True)
class HubOptions:
    """Which rows of a dataset to read.

    Attributes:
        config: its configuration, often a language; None if it has only one.
        split: None reads every split.
        revision: branch, tag or commit.
        limit: maximum number of rows of each split; None reads all.
    """

    config: str | None = None
    split: str | None = None
    revision: str | None = None
    limit: int | None = None


@dataclass(frozen=True)
class CorrectionOptions:
    """How a log of corrections is read where its content can be read in two ways.

    Attributes:
        hypothesis_column: what the recognizer wrote; None to go by the names of the columns.
        duplicates: which of several corrections of one recording counts: `first` or `last`; None
            for the latest by its time.
        empty: what an empty correction means: `silence`, `unchanged` or `skip`.
    """

    hypothesis_column: str | None = None
    duplicates: str | None = None
    empty: str | None = None


@dataclass(frozen=True)
class ImportRequest:
    """What to import.

    Attributes:
        location: a folder of recordings, a file beside them that lists them, or an address.
        out: the manifest to write.
        table: the file that lists the recordings; without one, the folder is searched.
        want_text: whether a recording needs a transcript; if not, none is read.
        language: of every utterance that has none.
        skip_bad: leave out rows that cannot be used, instead of refusing all.
        force: replace an existing `out`.
        tier: of TextGrid and ELAN files, the one with the texts; several separated by commas, or
            `*` for all, are the speakers.
        transcripts: of recordings with several transcripts, the ending of the right ones
            (`.normalized.txt`), or their folder.
        times: the unit of two numbers at the start of each line of a transcript, a key of
            `label_tracks.UNITS`; "none" if they are words. None decides by content.
        encoding: of the table, such as cp1252; None for UTF-8 or UTF-16.
        max_clip_s: cut longer recordings at their pauses; only without texts. None cuts nothing.
        audio_out: folder for copies as the model reads them: mono, 16 kHz, FLAC, one per row.
        channel: of recordings with several, from 1; needs `audio_out`. None averages them.
        corrections: a table of recordings, hypotheses and their corrections.
    """

    location: str | Path
    out: Path
    table: Path | None = None
    columns: ColumnNames = field(default_factory=ColumnNames)
    hub: HubOptions = field(default_factory=HubOptions)
    want_text: bool = True
    language: str | None = None
    skip_bad: bool = False
    force: bool = False
    tier: str | None = None
    transcripts: str | None = None
    times: str | None = None
    audio_out: Path | None = None
    channel: int | None = None
    encoding: str | None = None
    corrections: Path | None = None
    correction_options: CorrectionOptions = field(default_factory=CorrectionOptions)
    max_clip_s: float | None = None

    @property
    def left_out_path(self) -> Path:
        """File that lists the corrections that are not in the manifest."""
        return self.out.with_name(f"{self.out.stem}.left-out.jsonl")

    @property
    def is_address(self) -> bool:
        """Whether the location is an address, such as `hf://owner/name`, and not a path."""
        return "://" in str(self.location)

    @property
    def embedded_audio_folder(self) -> Path:
        """Folder for recordings that are stored inside a table."""
        return self.audio_out or self.out.parent / f"{self.out.stem}-audio"


@dataclass(frozen=True)
class ImportSource:
    """What importers look at.

    Attributes:
        folder: of the recordings.
        file: the file that lists the recordings, if one is named.
        recordings: all audio files below the folder, sorted.
        files: all other files below the folder, sorted; see `is_clutter` for what is in neither.
    """

    request: ImportRequest
    folder: Path
    file: Path | None
    recordings: tuple[Path, ...]
    progress: Progress
    files: tuple[Path, ...] = ()

    @property
    def kind(self) -> SourceKind:
        """What was given."""
        if self.request.is_address:
            return "address"
        return "folder" if self.file is None else "file"


@dataclass(frozen=True)
class Row:
    """One recording as its source describes it; nothing is checked yet.

    Attributes:
        location: file and line (or the file alone), for messages.
        audio: the path as written.
        values: the fields of a manifest, by name.
        extra: all other fields.
        problem: why the row cannot be used.
        id_column: the column that `values["id"]` is from, if it may be the id of something else.
        left_out: why the row is left out, though it contradicts nothing.
        is_silence: whether an empty text says that nobody speaks.
    """

    location: str
    audio: str
    values: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    problem: str | None = None
    id_column: str | None = None
    left_out: str | None = None
    is_silence: bool = False


@dataclass(frozen=True)
class Rows:
    """Rows, their origin in a few words, and the folder that their paths are relative to.

    Attributes:
        remarks: what was decided by content, a sentence each.
    """

    description: str
    folder: Path
    rows: tuple[Row, ...]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Importer:
    """How one layout is recognized and read.

    Attributes:
        name: of the layout.
        priority: importers are asked in this order, lowest first; the first that recognizes a
            source reads it.
        recognizes: whether the source has this layout. It looks at names first, and into as few
            files as it can.
        read: all rows.
        kinds: the kinds of sources that it is asked about.
    """

    name: str
    priority: int
    recognizes: Callable[[ImportSource], bool]
    read: Callable[[ImportSource], Rows]
    kinds: tuple[SourceKind, ...] = ("folder",)


@cache
def all_importers() -> tuple[Importer, ...]:
    """The importer of every module in `importers/layouts/`, by priority."""
    names = [info.name for info in iter_modules(import_module(_LAYOUTS).__path__, f"{_LAYOUTS}.")]
    importers: list[Importer] = [import_module(name).IMPORTER for name in names]
    return tuple(sorted(importers, key=lambda importer: (importer.priority, importer.name)))


def is_clutter(name: str) -> bool:
    """Whether a file or folder is no part of a corpus: hidden, or left by a system or program.

    The twins of macOS (`._take.wav`) have the names of recordings, tables and transcripts, and
    hold neither. Every importer and every search of a folder asks here.
    """
    return (
        name.startswith((".", "~$"))
        or name.endswith(_CLUTTER_ENDINGS)
        or name.casefold() in _CLUTTER
    )


def files_below(folder: Path) -> Iterator[tuple[str, str]]:
    """Folder and name of every file below a folder; links to folders are not followed."""
    for parent, folders, names in os.walk(folder, followlinks=False):
        folders[:] = sorted(name for name in folders if not is_clutter(name))
        yield from ((parent, name) for name in names if not is_clutter(name))


_SAVE_AS_CSV = "open it, save it as CSV UTF-8 (comma delimited), and name that file"
# Signatures of files that are no text, what they are, and the next step.
_NO_TEXT = (
    (b"PK\x03\x04", "an Excel or LibreOffice workbook (or an archive)", _SAVE_AS_CSV),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook", _SAVE_AS_CSV),
    (
        b"PAR1",
        "a Parquet file",
        "name its folder instead: moonshine-tune data import FOLDER --out F",
    ),
    (b"\x1f\x8b", "a file compressed by gzip", "unpack it with gunzip first"),
)
# Encodings of spreadsheets and editors that a file without a mark may have.
_ENCODINGS = ("cp1252", "cp1250", "cp1251", "mac_roman", "cp932", "cp949", "gb18030")


def read_text(path: Path, encoding: str | None = None) -> str:
    """Text of a file: UTF-8, or UTF-16 as Excel saves it, with or without a byte order mark.

    Args:
        encoding: of the file, if it is another.

    Raises:
        RequestError: neither, a workbook, or no such encoding.
    """
    with open_regular(path) as file:
        raw = file.read()
    for signature, kind, hint in _NO_TEXT:
        if raw.startswith(signature):
            raise RequestError(f"{kind}, not text", where=path, hint=hint)
    try:
        return raw.decode(encoding or _unicode_encoding(raw))
    except LookupError as error:
        raise RequestError(
            f"no encoding is called {encoding!r}",
            hint=f"name one with --encoding, such as {', '.join(_ENCODINGS)}",
        ) from error
    except UnicodeDecodeError as error:
        if encoding is not None:
            raise RequestError(
                f"not {encoding} (byte {error.start})", where=path, hint="name another --encoding"
            ) from error
        raise RequestError(
            f"not UTF-8 text (byte {error.start}){_readings(raw, error.start)}",
            where=path,
            hint="save it again as UTF-8; for a table, name the one that reads right: "
            "--encoding cp1252",
        ) from error


def _unicode_encoding(raw: bytes) -> str:
    """UTF-16 by its mark or by its zeros, which UTF-8 text never has; else UTF-8."""
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    start = raw[:4096]
    # Korean or Chinese UTF-16 still has names of files; a broken UTF-8 file may have one zero.
    if 20 * start.count(0) > len(start) and len(raw) % 2 == 0:
        return "utf-16-le" if start[1::2].count(0) >= start[::2].count(0) else "utf-16-be"
    return "utf-8-sig"


def _readings(raw: bytes, position: int) -> str:
    """The word at a byte in each encoding that gives letters and punctuation there."""
    start = max(raw.rfind(mark, 0, position) for mark in (b" ", b"\n", b",", b";", b"\t", b"|")) + 1
    word = raw[start : position + 24].split(b"\n")[0]
    readings: dict[str, str] = {}
    for encoding in _ENCODINGS:
        text = word.decode(encoding, errors="replace").partition(" ")[0].strip()
        if text and all(unicodedata.category(character)[0] in "LPMN" for character in text):
            readings.setdefault(text, encoding)
    shown = ", ".join(f"{text!r} in {encoding}" for text, encoding in readings.items())
    return f": {shown}" if shown else ""
