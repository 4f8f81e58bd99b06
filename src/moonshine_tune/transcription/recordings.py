"""Which recordings to transcribe: from files, folders, manifests and paths on standard input."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from moonshine_tune.audio.io import AUDIO_ENDINGS
from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.names import home_expanded, is_device_name, real_path, short_label
from moonshine_tune.core.text import quoted
from moonshine_tune.corpus.manifest import Utterance, read_manifest
from moonshine_tune.importers.base import files_below

STDIN = "-"
# Their sound is read by ffmpeg. Folders of recordings for training rarely hold them.
_VIDEO_ENDINGS = frozenset((".mkv", ".mov", ".avi", ".m4v", ".mpg", ".mpeg"))

# Bytes of an id in a file's name, which file systems limit to 255 with its endings.
_LONGEST_NAME = 200


@dataclass(frozen=True)
class Recording:
    """A recording, or a span of one that a manifest names.

    Attributes:
        name: unique among the recordings of a job; a relative path without ending, for outputs.
        utterance: file, span and fields; its text, if any, is not looked at.
    """

    name: str
    utterance: Utterance

    @property
    def path(self) -> Path:
        """The file."""
        return self.utterance.audio

    @property
    def start_s(self) -> float:
        """Where it starts in its file."""
        return self.utterance.start or 0.0

    def __str__(self) -> str:
        utterance = self.utterance
        if utterance.start is None and utterance.end is None:
            return str(self.path)
        end = "" if utterance.end is None else f"{utterance.end:g}"
        return f"{self.path} ({self.start_s:g} to {end} s)"


@dataclass(frozen=True)
class _Input:
    """A recording with the folder that its name is relative to."""

    root: Path
    relative: Path
    utterance: Utterance
    is_file: bool = True


def find_recordings(inputs: Sequence[str], stdin: Iterable[str]) -> tuple[Recording, ...]:
    """The recordings of all inputs in their order, each once.

    Args:
        inputs: audio files, folders, manifests (`.jsonl`), or `-` for the lines of `stdin`.

    Raises:
        RequestError: an input does not exist, or a folder or the whole holds no recording.
        ProblemsError: invalid lines of a manifest.
    """
    sources: dict[tuple[Path, float | None, float | None], _Input] = {}
    for name in inputs:
        lines = [line.rstrip("\r\n") for line in stdin] if name == STDIN else [name]
        for line in lines:
            if line.strip():
                for source in _inputs_of(home_expanded(line)):
                    utterance = source.utterance
                    key = utterance.span
                    sources.setdefault(key, source)
    if not sources:
        raise RequestError(
            "no recording is named",
            hint="name files or folders: moonshine-tune transcribe talk.wav",
        )
    return _named(list(sources.values()))


def _inputs_of(path: Path) -> Iterator[_Input]:
    if path.is_dir():
        yield from _folder(path)
    elif not path.exists():
        raise RequestError("no such file or folder", where=path, hint="check the path")
    elif path.suffix.lower() == ".jsonl":
        for utterance in read_manifest(path, require_text=False).utterances:
            yield _Input(Path(), Path(_file_name(utterance.id)), utterance, is_file=False)
    else:
        yield _Input(path.parent, Path(path.name), _plain(path))


def _folder(folder: Path) -> Iterator[_Input]:
    endings = AUDIO_ENDINGS | _VIDEO_ENDINGS
    paths = [Path(parent) / name for parent, name in files_below(folder)]
    recordings = sorted(path for path in paths if path.suffix.lower() in endings)
    if not recordings:
        raise RequestError(
            f"no recording is in this folder ({len(paths):,} other files)",
            where=folder,
            hint=f"its files would end in {', '.join(sorted(AUDIO_ENDINGS))}; name a file of "
            f"another ending itself: moonshine-tune transcribe {quoted(folder / 'FILE')}",
        )
    for path in recordings:
        yield _Input(folder, path.relative_to(folder), _plain(path))


def _plain(path: Path) -> Utterance:
    return Utterance(path.stem, real_path(path))


def _file_name(identifier: str) -> str:
    """An id as a name of a file: ids may hold anything, and be of any length."""
    name = "".join(
        "_" if character in '/\\:*?"<>|' or not character.isprintable() else character
        for character in identifier
    ).strip(". ")
    if name and (len(name.encode()) > _LONGEST_NAME or is_device_name(name)):
        # Too long, or reserved on some systems: a hash tells two of one beginning apart.
        digest = hashlib.sha256(identifier.encode("utf-8", "surrogatepass")).hexdigest()
        name = f"{short_label(name, 'utterance')}-{digest[:8]}"
    return name or "utterance"


def _named(sources: Sequence[_Input]) -> tuple[Recording, ...]:
    """Names that are unique, also where letters of another case are the same.

    A name is the path below the folder that was given, without its ending; with the ending where
    two files differ in it alone; else with the folders above it.
    """
    names = [item.relative.with_suffix("") if item.is_file else item.relative for item in sources]
    for longer in ([item.relative for item in sources], _below_common(sources)):
        counts = Counter(str(name).casefold() for name in names)
        names = [
            long if counts[str(name).casefold()] > 1 else name
            for name, long in zip(names, longer, strict=True)
        ]
    taken: set[str] = set()
    recordings = []
    for name, source in zip(names, sources, strict=True):
        unique, number = name, 2
        while str(unique).casefold() in taken:
            unique, number = name.with_name(f"{name.name}-{number}"), number + 1
        taken.add(str(unique).casefold())
        utterance = source.utterance
        if source.is_file:
            utterance = replace(utterance, id=unique.as_posix())
        recordings.append(Recording(unique.as_posix(), utterance))
    return tuple(recordings)


def _below_common(sources: Sequence[_Input]) -> list[Path]:
    """Paths of files below the deepest folder that holds them all; names of spans as they are."""
    folders = [str(item.utterance.audio.parent) for item in sources if item.is_file]
    common = Path(os.path.commonpath(folders)) if folders else Path()
    return [
        item.utterance.audio.relative_to(common) if item.is_file else item.relative
        for item in sources
    ]
