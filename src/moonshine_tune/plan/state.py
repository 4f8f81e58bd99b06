"""The folder of a plan: what was done with which inputs, in `plan.json`, and who works on it.

Beside it are `phases/NAME/` with the results of each phase, `prints.json` (fingerprints of files
by size and time, so that no file is hashed twice) and `plan.lock`.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import disk_errors, read_json, sha256_of, write_json_atomic
from moonshine_tune.corpus.manifest import scan_manifest
from moonshine_tune.runs.records import PlanRecord

PLAN_FILE = "plan.json"
_OWN_FILES = {PLAN_FILE, "phases", "prints.json", "plan.lock", "plan.lock.json"}
RUNNING, DONE, FAILED = "running", "done", "failed"


class PlanFolder:
    """Paths, record and lock of one plan."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.record_path = path / PLAN_FILE
        self._lock = FileLock(path / "plan.lock")
        self._holder_path = path / "plan.lock.json"

    def phase_dir(self, name: str) -> Path:
        """The folder with the results of a phase."""
        return self.path / "phases" / name

    def read(self) -> PlanRecord:
        """What was done here; an empty record where nothing was.

        Raises:
            RequestError: plan.json cannot be read.
        """
        if not self.record_path.is_file():
            return PlanRecord(created=_now())
        hint = "move it away: everything that was done is then done again"
        return PlanRecord.read(self.record_path, hint=hint)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder: one `plan run` at a time.

        Raises:
            RequestError: another process holds it (names it and since when), or the folder holds
                something else.
        """
        with disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        strangers = sorted({item.name for item in self.path.iterdir()} - _OWN_FILES)
        if strangers and not self.record_path.is_file():
            raise RequestError(
                f"the folder is not empty and holds no plan ({strangers[0]})",
                where=self.path,
                hint="choose another --out",
            )
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise RequestError(
                f"another `plan run` is working in this folder: {self._holder()}",
                where=self.path,
                hint="wait for it, or choose another --out; follow it with: "
                "moonshine-tune plan status",
            ) from error
        try:
            write_json_atomic(self._holder_path, {"pid": os.getpid(), "since": _now()})
            yield
        finally:
            self._holder_path.unlink(missing_ok=True)
            self._lock.release()

    def holder(self) -> str | None:
        """The process that holds the folder, in words; None where none does."""
        if not Path(self._lock.lock_file).is_file():
            return None
        with suppress(Timeout), self._lock.acquire(timeout=0):
            return None
        return self._holder()

    def _holder(self) -> str:
        try:
            holder = read_json(self._holder_path)
            return f"process {holder['pid']}, since {holder['since']}"
        except (RequestError, KeyError):
            return "a process that has just started"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class Fingerprints:
    """Content hashes of files, cached by size and modification time."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self._known: dict[str, Any] = {}
        self._has_new = False
        with suppress(RequestError):
            self._known = read_json(store)

    def file(self, path: Path) -> str:
        """sha256 of a file; `missing` where there is none."""
        try:
            stat = path.stat()
        except OSError:
            return "missing"
        mark = [stat.st_size, stat.st_mtime_ns]
        match self._known.get(str(path)):
            case [size, time, str(digest)] if [size, time] == mark:
                return digest
        digest = sha256_of(path)
        self._known[str(path)] = [*mark, digest]
        self._has_new = True
        return digest

    def manifest(self, path: Path) -> str:
        """Fingerprint of a manifest and of every recording that it names."""
        if not path.is_file():
            return "missing"
        scan = scan_manifest(path, require_text=False, check_files=False)
        recordings = {self.file(audio) for audio in {item.audio for item in scan.utterances}}
        return of_value([self.file(path), sorted(recordings)])

    def folder(self, path: Path, names: tuple[str, ...] = ("**/*",)) -> str:
        """Fingerprint of the files of a folder that match: their names and contents."""
        files = sorted({file for name in names for file in path.glob(name) if file.is_file()})
        return of_value([[str(file.relative_to(path)), self.file(file)] for file in files])

    def save(self) -> None:
        """Write new hashes to the store."""
        if self._has_new:
            write_json_atomic(self._store, self._known)
            self._has_new = False


def of_value(value: Any) -> str:
    """Fingerprint of JSON-ready data."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def changed_inputs(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Names of inputs that differ, in order."""
    return [
        name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)
    ]
