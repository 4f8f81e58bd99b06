"""What complete transcripts were made of: the content of the recording, the model, the settings.

A hidden file beside the transcripts has a line of JSON for each recording. A file of the same name
is not the same recording, so names alone never decide what `--resume` skips.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moonshine_tune.core.errors import disk_errors
from moonshine_tune.core.files import read_lines, sha256_of, write_text_atomic
from moonshine_tune.core.json_text import JsonError, parse_json_object
from moonshine_tune.transcription.recordings import Recording


class FileContents:
    """The SHA-256 of files, each read once."""

    def __init__(self) -> None:
        self._known: dict[Path, str] = {}

    def of(self, path: Path) -> str:
        """Of one file.

        Raises:
            RequestError: not a regular file.
        """
        if path not in self._known:
            self._known[path] = sha256_of(path)
        return self._known[path]


def made_line(
    recording: Recording, identity: Mapping[str, Any], contents: FileContents
) -> dict[str, Any]:
    """The line of a recording.

    Args:
        identity: model and settings.
    """
    utterance = recording.utterance
    return {
        "recording": recording.name,
        "content": contents.of(recording.path),
        "span": [utterance.start, utterance.end],
        "identity": dict(identity),
    }


@dataclass(frozen=True)
class MadeRecord:
    """The lines beside an output, by the name of the recording; the last of a name counts."""

    entries: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, out: Path) -> "MadeRecord":
        """Read the lines beside an output; none where an earlier version wrote none."""
        path = made_path(out)
        entries: dict[str, dict[str, Any]] = {}
        for line in read_lines(path, lenient=True) if path.exists() else ():
            try:
                record = parse_json_object(line)
                entries[str(record["recording"])] = record
            except (JsonError, KeyError):
                continue  # empty, or the half of a line at which a job was killed
        return cls(entries)

    def difference(
        self, recording: Recording, identity: Mapping[str, Any], contents: FileContents
    ) -> str | None:
        """How a recording and its settings differ from its line; None if they do not."""
        made = self.entries.get(recording.name)
        if made is None:
            return "made without it" if self.entries else "of unknown origin"
        now = made_line(recording, identity, contents)
        before = made.get("identity")
        before = before if isinstance(before, dict) else {}
        changed = [name for name in identity if before.get(name) != identity[name]]
        if changed:
            return f"of another {' and '.join(changed)}"
        return None if made == now else "of another recording of the same name"


def made_path(out: Path) -> Path:
    """Where the lines are: in the folder of transcripts, or beside the one file."""
    return out / ".transcripts.made" if out.is_dir() else out.with_name(f".{out.name}.made")


def add_made(out: Path, line: Mapping[str, Any]) -> None:
    """Append the line of a recording whose files are complete."""
    path = made_path(out)
    with disk_errors(path), path.open("a", encoding="utf-8") as file:
        # In front, as a killed job may have left half of a line.
        file.write("\n" + json.dumps(line, ensure_ascii=False))


def write_made(out: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Replace the lines of a file."""
    text = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    write_text_atomic(made_path(out), text)
