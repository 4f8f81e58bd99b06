"""Where a person is in files of this program: lines of manifests and scores, pages, caches.

Only files are read here. `forget` changes them.
"""

import fnmatch
import html
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from moonshine_tune.core.bounded_files import read_bounded
from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import MAX_LINES_BYTES, sha256_of
from moonshine_tune.core.hardware import cache_root
from moonshine_tune.core.json_text import JsonError, parse_json_object
from moonshine_tune.corpus.manifest import Utterance, scan_manifest
from moonshine_tune.corpus.speaker_names import clean_name

_AUDIO_KEYS = ("audio", "audio_filepath")
# Results of the base model are named by a hash of all clips, which does not say whose they are.
_TEXT_CACHES = ("base-transcripts", "base-losses", "replay-texts", "piece-hypotheses",
                "parity-texts")  # fmt: skip
_STATE_CACHE = "encoder-states"
# A word may be in any page; a sentence is somebody's.
_LEAST_WORDS = 3
_LEAST_ID = 6
# In every page that this program writes.
_MARK = "moonshine-tune"


@dataclass(frozen=True)
class LinesFile:
    """A JSON Lines file with lines of a person.

    Attributes:
        kept: its content without them.
        removed: how many lines they are.
        is_manifest: whether it names recordings; else it has scored utterances.
        sha256: of the file as it is.
        utterances: those lines of a manifest, read; `everyone` are all of it.
    """

    path: Path
    kept: bytes
    removed: int
    is_manifest: bool
    sha256: str
    utterances: tuple[Utterance, ...] = ()
    everyone: tuple[Utterance, ...] = ()

    @property
    def others(self) -> set[Path]:
        """Recordings that lines of other people name."""
        own = {item.line for item in self.utterances}
        return {item.audio for item in self.everyone if item.line not in own}


@dataclass(frozen=True)
class Person:
    """Whom to look for.

    Attributes:
        names: as `clean_name` reads them.
        ids, texts: of their utterances, as far as they are known.
    """

    names: frozenset[str]
    ids: frozenset[str] = frozenset()
    texts: frozenset[str] = frozenset()

    @classmethod
    def of(cls, names: frozenset[str], files: Iterable[LinesFile]) -> "Person":
        """The person of these names with all that manifests have of them."""
        own = [item for file in files for item in file.utterances]
        return cls(
            names,
            frozenset(item.id for item in own),
            frozenset(item.text for item in own if item.text),
        )

    def is_named_in(self, record: dict[str, Any]) -> bool:
        """Whether a line is theirs: by its speaker, or without one by its id and text."""
        name = record.get("speaker")
        if isinstance(name, str) and (cleaned := clean_name(name)):
            return cleaned in self.names
        text = record.get("reference", record.get("text"))
        return record.get("id") in self.ids and text in self.texts

    def is_in_page(self, content: str) -> bool:
        """Whether a page shows an id or a sentence of theirs."""
        shown = html.unescape(content)
        long_ids = (name for name in self.ids if len(name) >= _LEAST_ID)
        sentences = (text for text in self.texts if len(text.split()) >= _LEAST_WORDS)
        return any(item in shown for item in (*long_ids, *sentences))


def files_below(folders: Iterable[Path], pattern: str) -> list[Path]:
    """Files at or below folders, once each, by a pattern of their name; links are not followed."""
    paths: dict[Path, None] = {}
    for top in folders:
        for folder, names, files in os.walk(top.resolve()):
            names.sort()
            own = (Path(folder) / name for name in fnmatch.filter(sorted(files), pattern))
            paths |= dict.fromkeys(path for path in own if not path.is_symlink())
    return list(paths)


def lines_of(path: Path, person: Person, speakers: set[str]) -> LinesFile | None:
    """The lines of a person in a JSON Lines file; None where there are none.

    Lines that cannot be read stay. Where an utterance has no id, a removed line leaves an empty
    one behind: such utterances are named by the number of their line.

    Args:
        speakers: gets all names of the file.
    """
    raw = read_bounded(path, MAX_LINES_BYTES)
    kept: list[bytes] = []
    own: set[int] = set()
    has_ids, is_manifest = True, False
    for number, line in enumerate(raw.split(b"\n"), start=1):
        kept.append(line)
        try:
            record = parse_json_object(line.decode("utf-8-sig"))
        except (JsonError, UnicodeDecodeError):
            continue
        names_audio = any(key in record for key in _AUDIO_KEYS)
        is_manifest = is_manifest or names_audio
        has_ids = has_ids and bool(record.get("id"))
        if isinstance(record.get("speaker"), str):
            speakers.add(clean_name(record["speaker"]) or "")
        if person.is_named_in(record):
            own.add(number)
            kept[-1] = b""
    if not own:
        return None
    lines = [line for n, line in enumerate(kept, start=1) if n not in own or not has_ids]
    everyone = recordings_in(path) if is_manifest else ()
    utterances = tuple(item for item in everyone if item.line in own)
    return LinesFile(
        path, b"\n".join(lines), len(own), is_manifest, sha256_of(path), utterances, everyone
    )


def recordings_in(path: Path) -> tuple[Utterance, ...]:
    """The utterances of a file if it is a manifest; no recording is opened."""
    with suppress(RequestError):
        return scan_manifest(path, require_text=False, check_files=False).utterances
    return ()


def without_person(value: Any, person: Person, key: str = "") -> Any:
    """A JSON value without the name, the scores and the examples of a person.

    Args:
        key: under which the value is.
    """
    if isinstance(value, dict):
        has_names = key in ("by_speaker", "speakers")
        return {
            name: without_person(item, person, name)
            for name, item in value.items()
            if not (has_names and clean_name(name) in person.names)
        }
    if isinstance(value, list):
        return [
            without_person(item, person)
            for item in value
            if not (isinstance(item, dict) and person.is_named_in(item))
            and not (key == "names" and isinstance(item, str) and clean_name(item) in person.names)
        ]
    return value


def cached_files(recordings: Sequence[Path]) -> list[Path]:
    """Files of the cache that have, or may have, something of these recordings."""
    digests = {sha256_of(path) for path in recordings if path.is_file()}
    root = cache_root()
    shards = sorted((root / _STATE_CACHE).glob("*/*.safetensors"))
    files = [path for path in shards if digests & _digests_in(path)]
    if recordings:
        files += [path for kind in _TEXT_CACHES for path in sorted((root / kind).glob("*.json"))]
    return files


def _digests_in(shard: Path) -> set[str]:
    """The checksums of the recordings whose states are in a file of the cache."""
    try:
        with safe_open(shard, framework="np") as file:
            return {key.partition(":")[0] for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError):
        # A damaged file is removed by the next run that meets it.
        return set()


def pages_of(pages: Iterable[Path], person: Person, folders: Iterable[Path]) -> Iterator[Path]:
    """This program's pages that show a person, or are of a folder in which they were found."""
    own = set(folders)
    for path in pages:
        with suppress(RequestError, OSError):
            content = read_bounded(path, MAX_LINES_BYTES).decode("utf-8", "replace")
            if _MARK in content and (path.parent in own or person.is_in_page(content)):
                yield path
