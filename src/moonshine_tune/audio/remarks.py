"""What was decided about recordings as they were read, gathered until a job reports it."""

from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Literal, NamedTuple

_MAX_PATHS = 100_000


class Remark(NamedTuple):
    """One decision about a recording, and its kind."""

    kind: Literal["joined", "tracks", "channels", "scale"]
    text: str


class RemarkBook:
    """Remarks about recordings; each recording counts once for each remark."""

    def __init__(self) -> None:
        self._paths: dict[str, list[Path]] = {}
        self._noted: set[tuple[str, Path]] = set()
        self._lock = Lock()

    def add(self, path: Path, remarks: Sequence[Remark]) -> None:
        """Note what was decided about a recording."""
        if not remarks:
            return
        with self._lock:
            for remark in remarks:
                if (remark.text, path) not in self._noted and len(self._noted) < _MAX_PATHS:
                    self._noted.add((remark.text, path))
                    self._paths.setdefault(remark.text, []).append(path)

    def take(self) -> list[str]:
        """One line for each remark that was not taken before."""
        with self._lock:
            noted, self._paths = self._paths, {}
        return [
            f"{paths[0].name}: {text}"
            if len(paths) == 1
            else f"{len(paths):,} recordings, such as {paths[0].name}: {text}"
            for text, paths in noted.items()
        ]


READING_REMARKS = RemarkBook()
