"""Manifests: JSON Lines, one utterance per line. No audio is opened here."""

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from moonshine_tune.core.bounded_files import utf8_text
from moonshine_tune.core.errors import ProblemsError, RequestError
from moonshine_tune.core.files import write_jsonl_atomic
from moonshine_tune.core.json_text import JsonError, parse_json_object
from moonshine_tune.core.text import first_line, quoted
from moonshine_tune.corpus.speaker_names import clean_name, mean_nobody
from moonshine_tune.corpus.transcript_form import clean_text

# Keys that this program uses; every other key is kept in `Utterance.extra`.
RESERVED_KEYS = ("id", "audio", "audio_filepath", "text", "speaker", "duration", "start", "end",
                 "offset", "language", "split", "session")  # fmt: skip
# What a recognizer wrote, in a manifest of corrections. A key like any other but for its readers.
HYPOTHESIS = "hypothesis"
# Name of the set that an utterance belongs to, for people.
SET_KEY = "set"
# Whether a clip of replay audio is held out to be watched; without any, some are chosen.
HELD_OUT_KEY = "held_out"
# Whether a synthesizer speaks instead of a person. A key like any other but for training.
SYNTHETIC = "synthetic"
# Whether a model wrote the text, and nobody has changed it since.
PSEUDO_LABEL = "pseudo_label"
_NUMBERS = ("duration", "start", "end", "offset")
_STRINGS = ("text", "speaker", "language", "split", "session")
_MAKE_ONE = "make one with: moonshine-tune data import FOLDER --out train.jsonl"


@dataclass(frozen=True)
class Utterance:
    """One spoken utterance. Records are immutable: `replace` makes a new one.

    Attributes:
        id: unique within its manifest; derived utterances extend their parent's id.
        audio: absolute path of the recording.
        text: reference transcript, if known; in NFC with single spaces, whatever the file has.
        speaker, session: in NFC with single spaces; None where the file says `unknown` or the like.
        duration: seconds of the utterance, if the manifest has it.
        start, end: seconds, if the utterance is a span of a longer recording.
        extra: keys that this program does not use, unchanged.
        line: line number in its manifest, 1-based; 0 if it is from no manifest.
    """

    id: str
    audio: Path
    text: str | None = None
    speaker: str | None = None
    duration: float | None = None
    start: float | None = None
    end: float | None = None
    language: str | None = None
    split: str | None = None
    session: str | None = None
    extra: dict[str, Any] = field(default_factory=dict, hash=False)
    line: int = 0

    def with_text(self, text: str) -> "Utterance":
        """The same utterance with another transcript."""
        return replace(self, text=text)

    @property
    def known_seconds(self) -> float | None:
        """Length in seconds, if the manifest has it: the span, else `duration`."""
        if self.end is not None:
            return self.end - (self.start or 0.0)
        return self.duration

    @property
    def span(self) -> tuple[Path, float | None, float | None]:
        """Which part of which file it is."""
        return self.audio, self.start, self.end

    @property
    def is_synthetic(self) -> bool:
        """Whether a synthesizer speaks: `"synthetic": true`, or what a table writes for it."""
        return str(self.extra.get(SYNTHETIC, "")).strip().lower() in ("true", "yes", "1")

    @property
    def is_pseudo_labelled(self) -> bool:
        """Whether a model wrote the text: `"pseudo_label": true`, and no person has changed it.

        A text that differs from the hypothesis beside it is a person's.
        """
        is_marked = str(self.extra.get(PSEUDO_LABEL, "")).strip().lower() in ("true", "yes", "1")
        return is_marked and self.extra.get(HYPOTHESIS, self.text) == self.text

    @property
    def is_real(self) -> bool:
        """Whether a person speaks, and a person wrote the text."""
        return not self.is_synthetic and not self.is_pseudo_labelled

    @property
    def reference(self) -> str:
        """The transcript; an error if there is none."""
        if self.text is None:
            raise RequestError(f"utterance {self.id} has no text", where=self.audio)
        return self.text


@dataclass(frozen=True)
class Manifest:
    """Utterances of one manifest file, with its fingerprint and remarks on its content."""

    path: Path
    utterances: tuple[Utterance, ...]
    sha256: str
    remarks: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.utterances)

    @property
    def title(self) -> str:
        """The name of the set, for people: `set` of its lines, where they have that key.

        Else that of the file, or of its folder where the file is only called `manifest`.
        """
        named = self.utterances[0].extra.get(SET_KEY) if self.utterances else None
        if isinstance(named, str) and named.strip():
            return first_line(named, 60)
        is_plain = self.path.stem == "manifest"
        return (self.path.absolute().parent.name if is_plain else self.path.stem) or "manifest"


def mixed_splits(utterances: Sequence[Utterance]) -> str | None:
    """A remark where the `split` fields name several sets, such as train and test of a corpus."""
    counts = Counter(item.split for item in utterances if item.split)
    if len(counts) < 2:
        return None
    named = ", ".join(f"{name} ({count})" for name, count in counts.most_common(4))
    return (
        f"its split field has {named}, and all clips are used together; keep the sets apart with: "
        "moonshine-tune data split MANIFEST --out FOLDER --by-field"
    )


def without_region(language: str) -> str:
    """A language of a manifest in small letters: of `en-US` and `en_GB` it is `en`."""
    return language.lower().replace("_", "-").partition("-")[0]


def mixed_languages(utterances: Sequence[Utterance]) -> str | None:
    """A remark where the `language` fields name several, whose texts no normalizer treats alike."""
    counts = Counter(item.language.lower() for item in utterances if item.language)
    # Regions of a language share its normalizer.
    if len(set(map(without_region, counts))) < 2:
        return None
    named = ", ".join(f"{name} ({count})" for name, count in counts.most_common(4))
    return f"its language field has {named}: all are scored with the normalizer of one language"


@dataclass(frozen=True)
class LineProblem:
    """One line of a manifest that is not a usable utterance.

    Attributes:
        line: its number, 1-based.
        kind: "bad_line", "no_text", "duplicate_id" or "missing_recording".
        message: one plain sentence, with the offending value.
        id: of the utterance, if the line could be read that far.
    """

    line: int
    kind: str
    message: str
    id: str | None = None


@dataclass(frozen=True)
class ManifestScan:
    """The utterances and the problems of a manifest: every line that is not blank is in one.

    Attributes:
        written_texts: id → text as the file has it, where `clean_text` changes it.
        nameless: id → what the file has as the speaker, where it names nobody.
    """

    path: Path
    utterances: tuple[Utterance, ...]
    problems: tuple[LineProblem, ...]
    sha256: str
    written_texts: dict[str, str] = field(default_factory=dict, hash=False)
    nameless: dict[str, str] = field(default_factory=dict, hash=False)

    @property
    def num_lines(self) -> int:
        """Lines that are not blank."""
        return len(self.utterances) + len(self.problems)

    @property
    def num_outside(self) -> int:
        """Recordings outside the manifest's folder."""
        folder = self.path.parent.resolve()
        return sum(not item.audio.is_relative_to(folder) for item in self.utterances)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What is unusual in its lines, and how it was read."""
        count, remarks = len(self.utterances), []
        if self.num_outside:
            outside = f"{self.num_outside} of {count} recordings"
            remarks.append(f"{outside} are outside the manifest's folder")
        if self.written_texts:
            read = f"{len(self.written_texts)} of {count} texts are read"
            remarks.append(f"{read} with single spaces and composed characters (NFC)")
        if self.nameless:
            values = ", ".join(map(repr, dict.fromkeys(self.nameless.values())))
            remarks.append(f"{len(self.nameless)} of {count} speakers name nobody ({values})")
        remarks += filter(None, (mixed_splits(self.utterances), mixed_languages(self.utterances)))
        return tuple(remarks)


def scan_manifest(
    path: Path, *, require_text: bool = True, check_files: bool = True
) -> ManifestScan:
    """Read a manifest and collect its invalid lines instead of refusing them.

    Args:
        path: the `.jsonl` file; audio paths in it are relative to its folder.
        require_text: whether an utterance without `text` is a problem.
        check_files: whether a recording that does not exist is a problem.

    Raises:
        RequestError: the file is missing or not UTF-8 text.
    """
    if not path.is_file():
        raise RequestError(
            "a folder, not a manifest" if path.is_dir() else "no such manifest",
            where=path,
            hint=_MAKE_ONE,
        )
    raw = path.read_bytes()
    content = utf8_text(raw, path, what="not a manifest: ", hint=_MAKE_ONE)
    paths = _PathResolver(path.parent)
    utterances: list[Utterance] = []
    problems: list[LineProblem] = []
    fields = _FieldCleaner()
    first_lines: dict[str, int] = {}
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        parsed = _parse_line(line, number, paths, fields)
        if isinstance(parsed, str):
            problems.append(LineProblem(number, "bad_line", parsed))
        elif require_text and parsed.text is None:
            problems.append(LineProblem(number, "no_text", 'no "text"', parsed.id))
        elif parsed.id in first_lines:
            message = f"line {first_lines[parsed.id]} also has the id {_short(parsed.id)}"
            problems.append(LineProblem(number, "duplicate_id", message, parsed.id))
        else:
            first_lines[parsed.id] = number
            if check_files and not paths.exists(parsed.audio):
                message = f"no such recording: {parsed.audio}"
                problems.append(LineProblem(number, "missing_recording", message, parsed.id))
            else:
                utterances.append(parsed)
    if problems and all(problem.kind == "bad_line" for problem in problems) and not utterances:
        _refuse_other_json(path, content, problems[0])
    nobody = mean_nobody(fields.names)
    if nobody:
        utterances = [
            replace(item, speaker=None) if item.speaker in nobody else item for item in utterances
        ]
    return ManifestScan(
        path,
        tuple(utterances),
        tuple(problems),
        hashlib.sha256(raw).hexdigest(),
        *fields.changes_of(utterances),
    )


def _refuse_other_json(path: Path, content: str, problem: LineProblem) -> None:
    """Refuse a file that has no line of a manifest, because it is JSON of another form."""
    if path.suffix.lower() == ".jsonl" and not content.lstrip().startswith("["):
        return
    out = path.with_name(f"{path.stem}-imported.jsonl")
    raise RequestError(
        f"not a manifest (line {problem.line}: {problem.message})",
        where=path,
        hint=f"make one of it with: moonshine-tune data import {quoted(path)} --out {quoted(out)}",
    )


def read_manifest(path: Path, *, require_text: bool = True, check_files: bool = True) -> Manifest:
    """Read a manifest; all invalid lines are reported together.

    Args: as of `scan_manifest`.

    Raises:
        RequestError: the file is missing, unreadable or empty.
        ProblemsError: one or more lines are invalid.
    """
    scan = scan_manifest(path, require_text=require_text, check_files=check_files)
    if scan.problems:
        raise ProblemsError(
            f"{path}: {len(scan.problems)} of {scan.num_lines} lines are invalid",
            [f"{path}:{problem.line}: {problem.message}" for problem in scan.problems],
            hint=_next_step(path, scan),
        )
    if not scan.utterances:
        raise RequestError("the manifest has no utterances", where=path, hint=_MAKE_ONE)
    return Manifest(path, scan.utterances, scan.sha256, scan.remarks)


def _next_step(path: Path, scan: ManifestScan) -> str:
    """What to do about invalid lines; where all are, another program may have written them."""
    if not scan.utterances and all(problem.kind == "bad_line" for problem in scan.problems):
        out = path.with_name(f"{path.stem}-imported.jsonl")
        named = f"{quoted(path)} --out {quoted(out)}"
        return f"fix these lines; if another program wrote them: moonshine-tune data import {named}"
    return f"fix or remove these lines, then run: moonshine-tune data check {quoted(path)}"


class _FieldCleaner:
    """Texts and names as they are meant; what the file has instead is kept for remarks.

    Attributes:
        names: what each name of the manifest is read as.
    """

    def __init__(self) -> None:
        self.names: dict[str, str | None] = {}
        self._texts: dict[int, str] = {}
        self._speakers: dict[int, str] = {}

    def text(self, text: str | None, line: int) -> str | None:
        """The transcript of a line."""
        if text is None:
            return None
        cleaned = clean_text(text)
        if cleaned != text:
            self._texts[line] = text
        return cleaned

    def speaker(self, name: str | None, line: int) -> str | None:
        """The speaker of a line."""
        cleaned = self.session(name)
        if name and (cleaned is None or cleaned == "NA"):
            self._speakers[line] = name
        return cleaned

    def session(self, name: str | None) -> str | None:
        """The session of a line."""
        if not name:
            return None
        if name not in self.names:
            self.names[name] = clean_name(name)
        return self.names[name]

    def changes_of(self, utterances: Sequence[Utterance]) -> tuple[dict[str, str], dict[str, str]]:
        """Texts as written, and speakers that name nobody, by id."""
        if not self._texts and not self._speakers:
            return {}, {}
        texts = {item.id: self._texts[item.line] for item in utterances if item.line in self._texts}
        speakers = {
            item.id: self._speakers[item.line]
            for item in utterances
            if item.speaker is None and item.line in self._speakers
        }
        return texts, speakers


class _PathResolver:
    """Absolute paths of a manifest's recordings.

    A manifest has thousands of files in a few folders, or thousands of spans of a few files. Each
    folder is resolved once, and each file is looked up once: resolving the path of every line took
    two thirds of the time of opening a large manifest.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._folders: dict[str, str] = {}
        self._paths: dict[str, Path] = {}
        self._is_file: dict[Path, bool] = {}

    def resolve(self, audio: str) -> Path:
        """The absolute path of a recording, links followed.

        Raises:
            OSError, ValueError, RuntimeError: not a path.
        """
        if audio not in self._paths:
            self._paths[audio] = self._resolve(audio)
        return self._paths[audio]

    def _resolve(self, audio: str) -> Path:
        # Texts, not paths: a path takes ten times as long to join and to compare.
        named = os.path.join(self._folder, os.path.expanduser(audio))  # noqa: PTH111, PTH118
        folder, name = os.path.split(named)
        if name in ("", ".", ".."):
            return Path(named).resolve()
        if folder not in self._folders:
            self._folders[folder] = str(Path(folder).resolve())
        path = Path(self._folders[folder], name)
        try:
            mode = path.lstat().st_mode
        except OSError:
            mode = 0
        if stat.S_ISLNK(mode):
            return path.resolve()
        self._is_file[path] = stat.S_ISREG(mode)
        return path

    def exists(self, path: Path) -> bool:
        """Whether the file exists; a name that is too long for the disk does not."""
        if path not in self._is_file:
            try:
                self._is_file[path] = path.is_file()
            except OSError:
                self._is_file[path] = False
        return self._is_file[path]


def _parse_record(line: str) -> dict[str, Any] | str:
    """The line's JSON object, or the problem in a sentence."""
    try:
        return parse_json_object(line)
    except JsonError as error:
        return str(error)


def _parse_line(
    line: str, number: int, paths: _PathResolver, fields: _FieldCleaner
) -> Utterance | str:
    """The utterance, or the problem of the line in a sentence."""
    record = _parse_record(line)
    if isinstance(record, str):
        return record
    audio = record.get("audio", record.get("audio_filepath"))
    if not isinstance(audio, str) or not audio:
        return 'no "audio" path'
    problem = _field_problem(record)
    if problem:
        return problem
    try:
        path = paths.resolve(audio)
    except (OSError, ValueError, RuntimeError):
        return f'"audio" is {_short(audio)}, not a path'
    start, end, duration = _span(record)
    if end is not None and end <= (start or 0):
        return f'"end" ({end}) is not after "start" ({start or 0})'
    identifier = record.get("id")
    return Utterance(
        id=f"{path.stem}-{number:05d}" if identifier in (None, "") else str(identifier),
        audio=path,
        text=fields.text(record.get("text"), number),
        speaker=fields.speaker(record.get("speaker"), number),
        duration=duration,
        start=start,
        end=end,
        language=record.get("language"),
        split=record.get("split"),
        session=fields.session(record.get("session")),
        extra={key: value for key, value in record.items() if key not in RESERVED_KEYS},
        line=number,
    )


def _field_problem(record: dict[str, Any]) -> str | None:
    """The first known field with a wrong type or value, in a sentence."""
    identifier = record.get("id")
    if isinstance(identifier, bool) or not isinstance(identifier, str | int | None):
        return f'"id" is {_short(identifier)}, not a string'
    for name in _STRINGS:
        if record.get(name) is not None and not isinstance(record[name], str):
            return f'"{name}" is {_short(record[name])}, not a string'
    for name in _NUMBERS:
        value = record.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            return f'"{name}" is {_short(value)}, not a number of seconds'
        if value is not None and not 0 <= value < float("inf"):
            return f'"{name}" is {_short(value)}, not a number of seconds of at least 0'
    return None


def _short(value: object) -> str:
    """A value of any size in a message."""
    return first_line(repr(value), 80)


def _span(record: dict[str, Any]) -> tuple[float | None, float | None, float | None]:
    """Start, end and duration in seconds. A start with a duration has an end (NeMo's offset)."""
    start, end = record.get("start", record.get("offset")), record.get("end")
    duration = record.get("duration")
    if start is not None and end is None and duration:
        end = round(start + duration, 6)
    return start, end, duration


def write_manifest(path: Path, utterances: Iterable[Utterance], *, replace: bool = True) -> None:
    """Write a manifest, complete or not at all; recordings below its folder get relative paths.

    Args:
        replace: replace an existing file; without it, one that exists in the end is an error.
    """
    folder, paths = os.path.join(path.parent.resolve(), ""), _PathResolver(path.parent)  # noqa: PTH118
    records = [_to_record(item, folder, paths) for item in utterances]
    write_jsonl_atomic(path, records, replace=replace)


def _to_record(utterance: Utterance, folder: str, paths: _PathResolver) -> dict[str, Any]:
    """The JSON object of an utterance in a manifest in `folder` (resolved, with a slash behind)."""
    # Resolved like the folder: a path relative to the working directory, or through a link, would
    # be written as it is, and be wrong after a scratch folder gets its final name.
    audio = str(paths.resolve(str(utterance.audio.absolute())))
    record: dict[str, Any] = {"id": utterance.id, "audio": audio.removeprefix(folder)}
    for name in ("text", "speaker", "duration", "start", "end", "language", "split", "session"):
        value = getattr(utterance, name)
        if value is not None:
            record[name] = value
    return record | utterance.extra


def seconds_of(utterances: Sequence[Utterance]) -> float:
    """Total of the known lengths, in seconds."""
    return sum(utterance.known_seconds or 0.0 for utterance in utterances)
