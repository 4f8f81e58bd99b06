"""The identity of a recording: its content, wherever the file is and whatever it is called."""

import hashlib
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import sha256_of
from moonshine_tune.corpus.manifest import Utterance

# Many utterances may be spans of one file, and several parts of a command ask for the same files.
_MOST_FILES = 1 << 16
# A file that changes within one tick of the file system's clock keeps its times.
_SETTLED_NS = 2_000_000_000


@dataclass(frozen=True)
class FileMark:
    """What a look at a file tells without reading it: the same mark means the same content.

    The time of change cannot be set by a program, so a file that was edited and given its old time
    of modification has another mark. A copy of the file has another mark too, and is read.
    """

    size: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, path: Path) -> "FileMark":
        """The mark of a file.

        Raises:
            OSError: there is no such file.
        """
        stat = path.stat()
        return cls(stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)

    @property
    def is_settled(self) -> bool:
        """Whether a later change of the file is sure to change the mark."""
        return time.time_ns() - max(self.modified_ns, self.changed_ns) > _SETTLED_NS


def content_hash(path: Path) -> str:
    """SHA-256 of a recording; read once for each mark.

    Raises:
        OSError: there is no such file.
        RequestError: not a regular file.
    """
    return _hash_of(path, FileMark.of(path))


def content_key(utterance: Utterance) -> str:
    """Identifies an utterance by the content of its file and its span, not by its path.

    Raises:
        OSError, RequestError: as of `content_hash`.
    """
    # Twelve digits: with six, spans of a long recording that start 0.05 s apart are one.
    start = f"{utterance.start or 0.0:.12g}"
    return f"{content_hash(utterance.audio)}:{start}:{utterance.end}"


def recording_fingerprint(utterance: Utterance) -> str:
    """Sixteen digits of `content_key`, for records.

    Raises:
        OSError, RequestError: as of `content_hash`.
    """
    return hashlib.sha256(content_key(utterance).encode()).hexdigest()[:16]


def known_fingerprints(utterances: Iterable[Utterance]) -> dict[str, str]:
    """`recording_fingerprint` by id, of the recordings that can be read."""
    known: dict[str, str] = {}
    for utterance in utterances:
        with suppress(OSError, RequestError):
            known[utterance.id] = recording_fingerprint(utterance)
    return known


@lru_cache(maxsize=_MOST_FILES)
def _hash_of(path: Path, mark: FileMark) -> str:
    return sha256_of(path)
