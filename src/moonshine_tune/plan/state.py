"""The folder of a plan: what was done with which inputs, in `plan.json`, and who works on it.

Beside it are `phases/NAME/` with the results of each phase, `prints.json` (fingerprints of files
by size and time, so that no file is hashed twice).
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import disk_errors, read_json, sha256_of, write_json_atomic
from moonshine_tune.core.locks import FOLDER_LOCK, one_writer, writer_of
from moonshine_tune.core.scratch import remove_leftovers
from moonshine_tune.corpus.manifest import scan_manifest
from moonshine_tune.runs.records import PlanRecord

PLAN_FILE = "plan.json"
# `plan.lock` is of earlier versions.
_OWN_FILES = {PLAN_FILE, "phases", "prints.json", FOLDER_LOCK, "plan.lock", "plan.lock.json"}
RUNNING, DONE, FAILED = "running", "done", "failed"


class PlanFolder:
    """Paths, record and lock of one plan."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.record_path = path / PLAN_FILE

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
            RequestError: another process holds it, or the folder holds something else.
        """
        with one_writer(self.path):
            with disk_errors(self.path):
                self.path.mkdir(parents=True, exist_ok=True)
            for folder in (self.path, *self.path.glob("phases/*/")):
                remove_leftovers(folder)
            strangers = sorted({item.name for item in self.path.iterdir()} - _OWN_FILES)
            if strangers and not self.record_path.is_file():
                raise RequestError(
                    f"the folder is not empty and holds no plan ({strangers[0]})",
                    where=self.path,
                    hint="choose another --out",
                )
            yield

    def holder(self) -> str | None:
        """The process that holds the folder, in words; None where none does."""
        writer = writer_of(self.path)
        return None if writer is None else str(writer)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class Fingerprints:
    """Content hashes of files, cached by size and times."""

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
        # A program can set the time of modification, not that of change.
        mark = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
        match self._known.get(str(path)):
            case [*known, str(digest)] if known == mark:
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
        # In the order of their lines: two recordings that change places are other ones.
        recordings = [self.file(audio) for audio in dict.fromkeys(u.audio for u in scan.utterances)]
        return of_value([self.file(path), recordings])

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
