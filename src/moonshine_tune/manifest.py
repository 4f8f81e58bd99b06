"""Manifests: JSON Lines, one utterance a line. Pure data, no audio is opened here."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from moonshine_tune.errors import ProblemsError, RequestError
from moonshine_tune.files import write_text_atomic

_KNOWN = ("audio", "audio_filepath", "text", "id", "speaker", "duration", "start", "end",
          "language", "split", "session")  # fmt: skip
_NUMBERS = ("duration", "start", "end")
_STRINGS = ("text", "speaker", "language", "split", "session")


@dataclass(frozen=True)
class Utterance:
    """One spoken utterance. Records are never changed: `replace` makes a new one.

    Attributes:
        id: unique within its manifest; derived utterances extend their parent's id.
        audio: absolute path of the recording.
        text: reference transcript; None where none is known.
        duration: seconds of the utterance where the manifest says so.
        start, end: seconds, where the utterance is a span of a longer recording.
        extra: keys that this program does not use, kept as they were.
        line: line number in the manifest it came from, 1-based; 0 for made ones.
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
    def reference(self) -> str:
        """The transcript; an error where there is none."""
        if self.text is None:
            raise RequestError(f"utterance {self.id} has no text", where=self.audio)
        return self.text


@dataclass(frozen=True)
class Manifest:
    """Utterances of one manifest file, with the file's fingerprint and remarks on its content."""

    path: Path
    utterances: tuple[Utterance, ...]
    sha256: str
    remarks: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.utterances)


def read_manifest(path: Path, *, require_text: bool = True, check_files: bool = True) -> Manifest:
    """Read a manifest; all its faults are reported together, each with its line.

    Args:
        path: the `.jsonl` file; audio paths in it are relative to its folder.
        require_text: whether an utterance without `text` is a fault.
        check_files: whether a recording that does not exist is a fault.

    Raises:
        RequestError: the file is missing, unreadable or empty.
        ProblemsError: one or more lines are wrong.
    """
    if not path.is_file():
        raise RequestError(
            "no such manifest",
            where=path,
            hint="make one with: moonshine-tune data import FOLDER --out train.jsonl",
        )
    raw = path.read_bytes()
    try:
        content = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(f"not UTF-8 text (byte {error.start})", where=path) from error
    folder = path.parent.resolve()
    utterances: list[Utterance] = []
    problems: list[str] = []
    first_line: dict[str, int] = {}
    outside = 0
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        parsed = _parse_line(line, number, folder, require_text=require_text)
        if isinstance(parsed, str):
            problems.append(f"{path}:{number}: {parsed}")
            continue
        if parsed.id in first_line:
            problems.append(
                f"{path}:{number}: id {parsed.id!r} was used on line {first_line[parsed.id]} already"
            )
            continue
        first_line[parsed.id] = number
        if check_files and not parsed.audio.is_file():
            problems.append(f"{path}:{number}: no such recording: {parsed.audio}")
            continue
        outside += not parsed.audio.is_relative_to(folder)
        utterances.append(parsed)
    if problems:
        raise ProblemsError(
            f"{path}: {len(problems)} of {len(problems) + len(utterances)} lines are wrong",
            problems,
            hint=f"mend these lines, then look again with: moonshine-tune data check {path}",
        )
    if not utterances:
        raise RequestError("the manifest has no utterances", where=path)
    remarks = (
        (f"{outside} of {len(utterances)} recordings lie outside the manifest's folder",)
        if outside
        else ()
    )
    return Manifest(path, tuple(utterances), hashlib.sha256(raw).hexdigest(), remarks)


def _parse_line(line: str, number: int, folder: Path, *, require_text: bool) -> Utterance | str:
    """An utterance, or a sentence that says what is wrong with the line."""
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        return f"not JSON ({error.msg} at column {error.colno})"
    if not isinstance(record, dict):
        return "not a JSON object"
    audio = record.get("audio", record.get("audio_filepath"))
    if not isinstance(audio, str) or not audio:
        return 'no "audio" path'
    if require_text and record.get("text") is None:
        return 'no "text"'
    for name in _STRINGS:
        if record.get(name) is not None and not isinstance(record[name], str):
            return f'"{name}" is {record[name]!r}, not a string'
    for name in _NUMBERS:
        value = record.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            return f'"{name}" is {value!r}, not a number of seconds'
        if value is not None and not 0 <= value < float("inf"):
            return f'"{name}" is {value!r}, not a number of seconds from 0'
    start, end = record.get("start"), record.get("end")
    if end is not None and end <= (start or 0):
        return f'"end" ({end}) is not after "start" ({start or 0})'
    identifier = record.get("id")
    return Utterance(
        id=str(identifier) if identifier is not None else f"{Path(audio).stem}-{number:05d}",
        audio=(folder / Path(audio).expanduser()).resolve(),
        text=record.get("text"),
        speaker=record.get("speaker") or None,
        duration=record.get("duration"),
        start=start,
        end=end,
        language=record.get("language"),
        split=record.get("split"),
        session=record.get("session"),
        extra={key: value for key, value in record.items() if key not in (*_KNOWN, "id")},
        line=number,
    )


def to_record(utterance: Utterance, folder: Path) -> dict[str, Any]:
    """The JSON object of an utterance in a manifest that lies in `folder`."""
    folder = folder.resolve()
    audio = utterance.audio
    record: dict[str, Any] = {
        "id": utterance.id,
        "audio": str(audio.relative_to(folder) if audio.is_relative_to(folder) else audio),
    }
    for name in ("text", "speaker", "duration", "start", "end", "language", "split", "session"):
        value = getattr(utterance, name)
        if value is not None:
            record[name] = value
    return record | utterance.extra


def write_manifest(path: Path, utterances: Iterable[Utterance]) -> None:
    """Write a manifest, complete or not at all; recordings below its folder get relative paths."""
    lines = [
        json.dumps(to_record(utterance, path.parent), ensure_ascii=False) + "\n"
        for utterance in utterances
    ]
    write_text_atomic(path, "".join(lines))


def seconds_of(utterances: Sequence[Utterance]) -> float:
    """Total of the durations that are known, in seconds."""
    return sum(utterance.duration or 0.0 for utterance in utterances)
