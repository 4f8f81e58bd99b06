"""The folder of a plan: what was done with which inputs, in `plan.json`, and who works on it.

Beside it lie `phases/NAME/` with the results of each phase, `prints.json` (hashes of files by size
and time, so that nothing is hashed twice) and `plan.lock`.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import disk_errors, sha256_of, write_json_atomic
from moonshine_tune.core.provenance import command_line, git_state, platform_summary, versions
from moonshine_tune.core.text import first_line
from moonshine_tune.corpus.manifest import scan_manifest

SCHEMA_VERSION = 1
PLAN_FILE = "plan.json"
RUNNING, DONE, FAILED = "running", "done", "failed"


@dataclass
class StepRecord:
    """One step of a phase, as far as it came.

    Attributes:
        state: `running` (or killed), `done` or `failed`.
        inputs: fingerprint of each thing that the step depends on.
        output: fingerprint of what it made, for the steps that depend on it.
        result: its figures.
        starts: how often it was begun with these inputs.
    """

    state: str
    inputs: dict[str, str]
    output: str = ""
    result: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    starts: int = 1
    error: str = ""
    hint: str = ""
    exit_code: int = 0


@dataclass
class PhaseRecord:
    """The steps of a phase by name, in order; `forced` names what was not waited for."""

    steps: dict[str, StepRecord] = field(default_factory=dict)
    forced: list[str] = field(default_factory=list)


@dataclass
class PlanRecord:
    """Everything that was done in a folder."""

    created: str
    phases: dict[str, PhaseRecord] = field(default_factory=dict)
    peak_memory_mb: int = 0

    def phase(self, name: str) -> PhaseRecord:
        """The record of a phase, made where there is none."""
        return self.phases.setdefault(name, PhaseRecord())


class PlanFolder:
    """Paths and records of one plan."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.record_path = path / PLAN_FILE

    def phase_dir(self, name: str) -> Path:
        """Where the results of a phase lie."""
        return self.path / "phases" / name

    def read(self) -> PlanRecord | None:
        """What was done here; None where nothing was.

        Raises:
            RequestError: plan.json cannot be read.
        """
        if not self.record_path.is_file():
            return None
        try:
            content = json.loads(self.record_path.read_text(encoding="utf-8"))
            phases = {
                name: PhaseRecord(
                    {step: StepRecord(**body) for step, body in phase["steps"].items()},
                    list(phase["forced"]),
                )
                for name, phase in content["record"].items()
            }
            return PlanRecord(content["created"], phases, int(content["peak_memory_mb"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RequestError(
                f"cannot be read: {type(error).__name__}: {first_line(error)}",
                where=self.record_path,
                hint="move it away: what is done already is then done again",
            ) from error

    def write(self, record: PlanRecord, **summary: Any) -> None:
        """Write plan.json: the record, and a summary for people and the report."""
        write_json_atomic(
            self.record_path,
            {
                "schema_version": SCHEMA_VERSION,
                "kind": "plan",
                "created": record.created,
                "command": command_line(),
                **summary,
                "peak_memory_mb": record.peak_memory_mb,
                "versions": versions(),
                "platform": platform_summary(),
                "git": git_state(Path(__file__).parent),
                "record": {
                    name: {
                        "steps": {step: asdict(body) for step, body in phase.steps.items()},
                        "forced": phase.forced,
                    }
                    for name, phase in record.phases.items()
                },
            },
        )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder: one `plan run` at a time.

        Raises:
            RequestError: another process holds it; says which, and since when.
        """
        with disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        strangers = [
            item.name
            for item in self.path.iterdir()
            if item.name not in (PLAN_FILE, "phases", "prints.json", "plan.lock", "plan.lock.json")
        ]
        if strangers and not self.record_path.is_file():
            raise RequestError(
                f"the folder is not empty and holds no plan ({strangers[0]})",
                where=self.path,
                hint="choose another --out",
            )
        lock = FileLock(self.path / "plan.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise RequestError(
                f"another `plan run` works in this folder: {self.holder() or 'it just began'}",
                where=self.path,
                hint="wait for it, or choose another --out; look on with: "
                "moonshine-tune plan status",
            ) from error
        told = self.path / "plan.lock.json"
        try:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            write_json_atomic(told, {"pid": os.getpid(), "since": now})
            yield
        finally:
            told.unlink(missing_ok=True)
            lock.release()

    def holder(self) -> str | None:
        """Who holds the folder now, in words; None where nobody does."""
        file = self.path / "plan.lock"
        if not file.is_file():
            return None
        lock = FileLock(file)
        with suppress(Timeout):
            lock.acquire(timeout=0)
            lock.release()
            return None
        try:
            told = json.loads((self.path / "plan.lock.json").read_text(encoding="utf-8"))
            return f"process {told['pid']}, since {told['since']}"
        except (OSError, ValueError, KeyError):
            return "a process that just began"


def new_record() -> PlanRecord:
    """A record of nothing done yet."""
    return PlanRecord(datetime.now(UTC).isoformat(timespec="seconds"))


class Fingerprints:
    """Content hashes of files, remembered by size and time as version control does."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self._known: dict[str, list[Any]] = {}
        self._grown = False
        with suppress(OSError, ValueError):
            content = json.loads(store.read_text(encoding="utf-8"))
            self._known = content if isinstance(content, dict) else {}

    def file(self, path: Path) -> str:
        """sha256 of a file; `missing` where there is none."""
        try:
            stat = path.stat()
        except OSError:
            return "missing"
        mark = [stat.st_size, stat.st_mtime_ns]
        known = self._known.get(str(path))
        if isinstance(known, list) and known[:2] == mark and len(known) == 3:
            return str(known[2])
        digest = sha256_of(path)
        self._known[str(path)] = [*mark, digest]
        self._grown = True
        return digest

    def manifest(self, path: Path) -> str:
        """Of a manifest and of every recording that it names."""
        if not path.is_file():
            return "missing"
        scan = scan_manifest(path, require_text=False, check_files=False)
        recordings = {str(item.audio): self.file(item.audio) for item in scan.utterances}
        return of_value([self.file(path), sorted(set(recordings.values()))])

    def folder(self, path: Path, names: tuple[str, ...] = ("**/*",)) -> str:
        """Of the files of a folder: their names and contents."""
        files = sorted({file for name in names for file in path.glob(name) if file.is_file()})
        return of_value([[str(file.relative_to(path)), self.file(file)] for file in files])

    def save(self) -> None:
        """Keep what was hashed for the next time."""
        if self._grown:
            write_json_atomic(self._store, self._known)
            self._grown = False


def of_value(value: Any) -> str:
    """Fingerprint of JSON-ready data."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def changed_inputs(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Names of inputs that differ, in order."""
    return [
        name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)
    ]
