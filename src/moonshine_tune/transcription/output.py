"""Where transcripts go: standard output as they come, or files that are complete or not there.

What is transcribed for files is first written to a journal beside them, line by line, so that a
killed job continues where it stopped. Its name ends in `.partial`: nobody takes it for a result.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

from moonshine_tune.core.errors import RequestError, disk_errors
from moonshine_tune.core.files import read_lines, write_text_atomic
from moonshine_tune.core.json_text import JsonError, parse_json_object
from moonshine_tune.transcription.formats import FORMATS, Document
from moonshine_tune.transcription.made import (
    FileContents,
    MadeRecord,
    add_made,
    made_line,
    write_made,
)
from moonshine_tune.transcription.recordings import Recording
from moonshine_tune.transcription.segments import Segment, manifest_record

_JOURNAL_OF_FOLDER = "transcripts.partial"


@dataclass(frozen=True)
class OutputRequest:
    """Where to write and in which forms.

    Attributes:
        out: a file, a folder, or None for standard output.
        formats: keys of `FORMATS`.
        with_words: whether words are written with their times.
        resume: continue what was stopped, and skip what is complete.
        overwrite: replace what exists.
    """

    out: Path | None
    formats: tuple[str, ...]
    with_words: bool = False
    resume: bool = False
    overwrite: bool = False

    @property
    def is_folder(self) -> bool:
        """Whether each recording gets files of its own."""
        return self.out is not None and format_of(self.out) is None

    @property
    def needs_times(self) -> bool:
        """Whether a form needs the times or the confidence of words."""
        return self.with_words or any(FORMATS[name].is_timed for name in self.formats)


def format_of(out: Path) -> str | None:
    """The form that the ending of a file says; None for a folder."""
    if out.is_dir():
        return None
    endings = {FORMATS[name].ending.casefold(): name for name in FORMATS}
    return endings.get(out.suffix.casefold())


def output_request(
    out: Path | None, formats: Sequence[str], *, with_words: bool, resume: bool, overwrite: bool
) -> OutputRequest:
    """The request, with the forms that follow from the name of a file.

    Raises:
        RequestError: an unknown form, forms that do not fit the output, or flags that exclude each
            other.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown:
        raise RequestError(
            f"no format is called {unknown[0]!r}", hint=f"one or several of: {', '.join(FORMATS)}"
        )
    if resume and overwrite:
        raise RequestError(
            "--resume and --overwrite exclude each other", hint="--resume skips what is complete"
        )
    own = None if out is None else format_of(out)
    if out is not None and own is None and out.suffix and not out.is_dir():
        endings = ", ".join(item.ending for item in FORMATS.values())
        raise RequestError(
            f"{out.suffix} is the ending of no format",
            where=out,
            hint=f"a file ends in {endings}; for a folder of this name, make it first",
        )
    if own is not None and any(name != own for name in formats):
        raise RequestError(
            f"the file's name says {own}, --format says {', '.join(formats)}",
            where=out,
            hint="leave out --format, or name a folder: --out transcripts",
        )
    chosen = tuple(dict.fromkeys(formats)) or (own or "text",)
    if out is None and len(chosen) > 1:
        raise RequestError(
            f"standard output takes one format, not {', '.join(chosen)}",
            hint="name a folder for their files: --out transcripts",
        )
    if with_words and not any(FORMATS[name].has_words for name in chosen):
        names = ", ".join(name for name, item in FORMATS.items() if item.has_words)
        raise RequestError(
            f"{', '.join(chosen)} cannot hold the times of words",
            hint=f"leave out --words, or choose one of the formats {names}",
        )
    return OutputRequest(out, chosen, with_words, resume, overwrite)


@dataclass
class EarlierWork:
    """What an earlier job has of a recording: its segments, and where to go on."""

    segments: list[Segment] = field(default_factory=list)
    next_s: float = 0.0


class Output(Protocol):
    """Takes segments in order, recording after recording."""

    def begin(self, recording: Recording) -> EarlierWork | None:
        """What an earlier job has of a recording; None if that is all of it."""
        ...

    def take(self, recording: Recording, segment: Segment, next_s: float) -> None:
        """Take a segment, perhaps without text, and the position from which to go on."""
        ...

    def complete(self, recording: Recording, end_s: float) -> None:
        """All segments of a recording are taken; `end_s` is its end in its file."""
        ...

    def close(self) -> tuple[Path, ...]:
        """Finish; returns the files that were written."""
        ...


class StandardOutput:
    """Writes each segment as it comes.

    Args:
        emit: takes lines with their ends.
        is_single: whether there is only one recording, so that no line needs its name.
    """

    def __init__(
        self, request: OutputRequest, emit: Callable[[str], None], *, is_single: bool
    ) -> None:
        self._request, self._emit, self._is_single = request, emit, is_single
        # Reading is ahead of writing: several recordings may have begun.
        self._segments: dict[str, list[Segment]] = {}
        (self._format,) = request.formats

    def begin(self, recording: Recording) -> EarlierWork | None:
        """Nothing is known of any recording."""
        self._segments[recording.name] = []
        return EarlierWork()

    def take(self, recording: Recording, segment: Segment, next_s: float) -> None:
        """Write a segment now, where the form allows it."""
        if not segment.text:
            return
        segments = self._segments[recording.name]
        segments.append(segment)
        if self._format == "text":
            name = "" if self._is_single else f"{recording.name}\t"
            self._emit(f"{name}{segment.text}\n")
        elif self._format == "jsonl":
            number, with_words = len(segments), self._request.with_words
            record = manifest_record(recording.utterance, number, segment, with_words=with_words)
            self._emit(json.dumps(record, ensure_ascii=False) + "\n")

    def complete(self, recording: Recording, end_s: float) -> None:
        """Write a form that is one document."""
        segments = tuple(self._segments.pop(recording.name))
        if self._format not in ("text", "jsonl"):
            document = Document(recording.utterance, end_s, segments, self._request.with_words)
            self._emit(FORMATS[self._format].render(document))

    def close(self) -> tuple[Path, ...]:
        """Nothing is left."""
        return ()


class FileOutput:
    """Writes files: a set for each recording into a folder, or one file of all recordings.

    Args:
        identity: what makes transcripts comparable; those of another one are not continued.

    Raises:
        RequestError: the output exists; or a journal, or what is complete, of another model, other
            settings or other recordings.
    """

    def __init__(
        self,
        request: OutputRequest,
        recordings: Sequence[Recording],
        identity: Mapping[str, Any],
    ) -> None:
        out = request.out
        if out is None:
            raise ValueError("standard output is no file")
        self._request, self._out, self._recordings = request, out, recordings
        self._identity = dict(identity)
        self._contents = FileContents()
        self._texts: dict[str, str] = {}
        self._segments: dict[str, list[Segment]] = {}
        self._written: list[Path] = []
        journal = journal_of(request)
        # One file exists as a result of an earlier job only where no journal is left.
        is_done = request.resume and (request.is_folder or not journal.exists())
        self._journal = _Journal(journal, identity, keep=request.resume)
        try:
            self._complete = self._complete_already() if is_done else set()
        except RequestError:
            if not self._journal.entries:
                self._journal.remove()
            raise

    def _complete_already(self) -> set[str]:
        """Names of the recordings whose files an earlier job has made of the same content.

        Raises:
            RequestError: files of other content, another model or other settings, which only the
                user can replace.
        """
        request = self._request
        made = MadeRecord.of(self._out)
        # What the journal has is written once more.
        existing = [
            recording
            for recording in self._recordings
            if recording.name not in self._journal.entries
            and all(path.is_file() for path in files_of(request, recording))
        ]
        reasons: dict[str, str] = {}
        for recording in existing:
            reason = made.difference(recording, self._identity, self._contents)
            if reason is not None:
                reasons.setdefault(reason, str(recording))
        if not request.is_folder and existing and len(made.entries) > len(existing):
            reasons.setdefault("of more recordings", str(self._out))
        if reasons:
            differences = "; ".join(f"{reason} ({example})" for reason, example in reasons.items())
            raise RequestError(
                f"complete transcripts are not those of this command: {differences}",
                where=self._out,
                hint="name another --out, remove these files to make them again with --resume, "
                "or replace all of them with --overwrite",
            )
        return {recording.name for recording in existing}

    def begin(self, recording: Recording) -> EarlierWork | None:
        """What the journal or the files have of a recording."""
        if recording.name in self._complete:
            return None
        content = self._contents.of(recording.path)
        entry = self._journal.entries.get(recording.name)
        if entry is None or entry.content != content:
            entry = _Entry(content)
            self._journal.add({"recording": recording.name, "content": content})
        self._segments[recording.name] = list(entry.segments)
        if entry.end_s is not None:
            self._render(recording, entry.end_s)
            return None
        return EarlierWork(list(entry.segments), entry.next_s)

    def take(self, recording: Recording, segment: Segment, next_s: float) -> None:
        """Add a segment to the journal."""
        self._segments[recording.name].append(segment)
        line = {"recording": recording.name, "next": next_s}
        self._journal.add(line | segment.to_record(with_words=True))

    def complete(self, recording: Recording, end_s: float) -> None:
        """Write the files of a recording."""
        self._journal.add({"recording": recording.name, "complete": end_s})
        self._render(recording, end_s)

    def _render(self, recording: Recording, end_s: float) -> None:
        segments = tuple(item for item in self._segments.pop(recording.name) if item.text)
        request = self._request
        document = Document(recording.utterance, end_s, segments, request.with_words)
        if not request.is_folder:
            self._texts[recording.name] = FORMATS[request.formats[0]].render(document)
            return
        for name, path in zip(request.formats, files_of(request, recording), strict=True):
            write_text_atomic(path, FORMATS[name].render(document))
            self._written.append(path)
        add_made(self._out, self._made(recording))

    def _made(self, recording: Recording) -> dict[str, Any]:
        return made_line(recording, self._identity, self._contents)

    def close(self) -> tuple[Path, ...]:
        """Write the file of all recordings, if there is any, and remove the journal."""
        if self._texts:
            texts = [self._texts.get(recording.name, "") for recording in self._recordings]
            write_text_atomic(self._out, "".join(texts))
            self._written.append(self._out)
            made = [self._made(item) for item in self._recordings if item.name in self._texts]
            write_made(self._out, made)
        self._journal.remove()
        return tuple(self._written)


def files_of(request: OutputRequest, recording: Recording) -> list[Path]:
    """Files of a recording in a folder, one for each form; else the one file."""
    out = request.out or Path()
    if not request.is_folder:
        return [out]
    return [out / f"{recording.name}{FORMATS[name].ending}" for name in request.formats]


def journal_of(request: OutputRequest) -> Path:
    """Where the journal is while a job works."""
    out = request.out or Path()
    return out / _JOURNAL_OF_FOLDER if request.is_folder else out.with_name(f"{out.name}.partial")


def check_output(request: OutputRequest, recordings: Sequence[Recording]) -> None:
    """Refuse an output that exists, and several recordings in a file that takes one.

    Raises:
        RequestError: one of these.
    """
    if not request.is_folder and len(recordings) > 1:
        (name,) = request.formats
        if not FORMATS[name].is_joinable:
            raise RequestError(
                f"{len(recordings):,} recordings cannot be in one {name} file",
                hint="name a folder, where each gets its own: --out transcripts",
            )
    if request.out is None or request.resume or request.overwrite:
        return
    journal = journal_of(request)
    if journal.exists():
        raise RequestError(
            "a transcription that was stopped is here",
            where=journal,
            hint="add --resume to continue it, or --overwrite to start anew",
        )
    paths = list(
        dict.fromkeys(path for recording in recordings for path in files_of(request, recording))
    )
    existing = [path for path in paths if path.exists()]
    if existing:
        raise RequestError(
            f"{len(existing):,} of {len(paths):,} transcripts exist already",
            where=existing[0],
            hint="add --resume to make the missing ones only, or --overwrite to replace them",
        )


@dataclass
class _Entry:
    """A recording in the journal.

    Attributes:
        content: SHA-256 of its file, which must not change in between.
        end_s: None until it is complete.
    """

    content: str
    segments: list[Segment] = field(default_factory=list)
    next_s: float = 0.0
    end_s: float | None = None


class _Journal:
    """Lines of JSON: what makes transcripts comparable, then recordings and their segments."""

    def __init__(self, path: Path, identity: Mapping[str, Any], *, keep: bool) -> None:
        self.path = path
        self.entries: dict[str, _Entry] = {}
        kept = self._read(identity) if keep and path.exists() else []
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            # Without the half of a line at which the job was killed.
            write_text_atomic(path, "".join(f"{line}\n" for line in kept))
            self._file: IO[str] = path.open("a", encoding="utf-8")
        if not kept:
            self.add({"identity": dict(identity)})

    def _read(self, identity: Mapping[str, Any]) -> list[str]:
        kept: list[str] = []
        for line in read_lines(self.path, lenient=True)[:-1]:
            try:
                record = parse_json_object(line)
                if not kept:
                    self._check_identity(record.get("identity"), dict(identity))
                else:
                    self._take(record)
            except (JsonError, KeyError, TypeError, ValueError):
                break
            kept.append(line)
        return kept

    def _check_identity(self, before: Any, now: Mapping[str, Any]) -> None:
        if before == now:
            return
        before = before if isinstance(before, dict) else {}
        changed = [name for name in now if before.get(name) != now[name]] or ["settings"]
        raise RequestError(
            f"it was begun with other settings ({', '.join(changed)})",
            where=self.path,
            hint="use the same ones again, or start anew with --overwrite",
        )

    def _take(self, record: dict[str, Any]) -> None:
        name = record["recording"]
        if "content" in record:
            self.entries[name] = _Entry(str(record["content"]))
        elif "complete" in record:
            self.entries[name].end_s = float(record["complete"])
        else:
            self.entries[name].segments.append(Segment.from_record(record))
            self.entries[name].next_s = float(record["next"])

    def add(self, record: Mapping[str, Any]) -> None:
        """Append a line; it is on its way to the disk when this returns."""
        with disk_errors(self.path):
            self._file.write(json.dumps(record, ensure_ascii=False) + "\n")
            self._file.flush()

    def remove(self) -> None:
        """The job is done."""
        self._file.close()
        self.path.unlink(missing_ok=True)
