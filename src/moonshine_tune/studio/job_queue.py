"""Long jobs: this program's own commands, each a process of its own, one after the other."""

import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moonshine_tune.core.errors import MachineError, RequestError, TuneError
from moonshine_tune.core.json_text import JsonError, parse_json_object
from moonshine_tune.core.machine_errors import machine_error
from moonshine_tune.core.progress_file import VARIABLE
from moonshine_tune.core.text import first_line
from moonshine_tune.studio.model_worker import ending_of

RUNNING, PAUSED, DONE, FAILED, STOPPED = "running", "paused", "done", "failed", "stopped"
INTERRUPTED = 130
_WAIT_S = 0.1
# For a training to end its step and save.
_PATIENCE_S = 60.0
_MAX_JOBS = 200
_MAX_SHOWN = 12


@dataclass
class Job:
    """One job as the page shows it.

    Attributes:
        run: name of the run that it is about, where it is about one.
        progress: `done`, `total`, `eta_s` and `text`.
        steps: of training, the transcripts of some dev clips at each score, by reference.
        wanted: `pause` or `stop`, from when it is asked for until it has happened.
    """

    kind: str
    run: str | None = None
    id: str = field(default_factory=lambda: secrets.token_hex(4))
    state: str = RUNNING
    progress: dict[str, Any] = field(
        default_factory=lambda: {"done": 0, "total": 0, "eta_s": None, "text": "waiting"}
    )
    result: Any = None
    error: dict[str, str] | None = None
    steps: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    wanted: str = ""
    process: "subprocess.Popen[bytes] | None" = None

    def to_json(self) -> dict[str, Any]:
        """The job for the page."""
        names = ("id", "kind", "run", "state", "progress", "result", "error")
        return {name: getattr(self, name) for name in names}


Work = Callable[[Job], Any]


class JobStoppedError(Exception):
    """A job was asked to stop or to pause, and did."""


class Jobs:
    """Starts jobs and keeps what became of them.

    Jobs of the same lane wait for each other: two trainings at once take the memory of both.

    Args:
        scratch: folder for what the commands print.
        publish: takes each change of a job.
    """

    def __init__(self, scratch: Path, publish: Callable[[dict[str, Any]], None]) -> None:
        self._scratch, self._publish = scratch, publish
        self._jobs: dict[str, Job] = {}
        self._work: dict[str, Work] = {}
        self._lanes: dict[str, deque[Job]] = {}
        self._threads: dict[str, threading.Thread] = {}
        self._lock = threading.RLock()
        self._is_closed = False

    def start(self, job: Job, work: Work, *, lane: str) -> Job:
        """Run some work when the jobs before it in its lane have ended."""
        with self._lock:
            if self._is_closed:
                raise RequestError("the studio is ending", hint="start it again")
            self._jobs[job.id] = job
            self._work[job.id] = work
            self._forget_old()
            queue = self._lanes.setdefault(lane, deque())
            queue.append(job)
            if lane not in self._threads:
                self._threads[lane] = threading.Thread(
                    target=self._run_lane, args=(lane,), name=lane, daemon=True
                )
                self._threads[lane].start()
        self.changed(job)
        return job

    def listed(self) -> list[Job]:
        """All jobs, the newest first."""
        with self._lock:
            return list(reversed(self._jobs.values()))

    def get(self, identifier: str) -> Job | None:
        """A job by its id."""
        return self._jobs.get(identifier)

    def take_waiting(self, lane: str, kind: str, count: int) -> list[Job]:
        """Take some jobs of a kind that wait in a lane out of it: another job does their work."""
        with self._lock:
            queue = self._lanes.get(lane, deque())
            taken = [job for job in queue if job.kind == kind][:count]
            for job in taken:
                queue.remove(job)
            return taken

    def settle(self, job: Job, result: Any) -> None:
        """End a job that another one did, with its result or its error."""
        if isinstance(result, JobStoppedError):
            self._end(job, STOPPED)
        elif isinstance(result, Exception):
            self.fail(job, result)
        else:
            job.result = result
            self._end(job, DONE)

    @property
    def are_running(self) -> bool:
        """Whether any command runs."""
        with self._lock:
            return any(job.process is not None for job in self._jobs.values())

    def interrupt(self, job: Job, wanted: str) -> None:
        """Ask a job to save and end; it ends as `paused` or `stopped`.

        Asked again, a command ends at once, without saving.

        Args:
            wanted: `pause` or `stop`.
        """
        with self._lock:
            job.wanted = wanted
            for queue in self._lanes.values():
                if job in queue:
                    queue.remove(job)
                    self._end(job, PAUSED if wanted == "pause" else STOPPED)
                    return
            if job.process is not None:
                _interrupt(job.process)

    def abandon(self, job: Job) -> None:
        """Stop a job that is paused."""
        self._end(job, STOPPED)

    def changed(self, job: Job) -> None:
        """Tell the page."""
        self._publish({"job": job.to_json()})

    def fail(self, job: Job, error: BaseException) -> None:
        """End a job with what went wrong."""
        known: TuneError | None = machine_error(error)
        if known is None and isinstance(error, TuneError):
            known = error
        if known is None:
            known = TuneError(f"unexpected {type(error).__name__}: {first_line(error)}")
        job.error = {"message": str(known), "next": known.hint or ""}
        self._end(job, FAILED)

    def close(self) -> None:
        """Ask every running job to save and end, and wait for them for a while.

        A training that scores a long dev set saves later, by itself: it is never killed.
        """
        with self._lock:
            self._is_closed = True
            for queue in self._lanes.values():
                queue.clear()
            running = [job for job in self._jobs.values() if job.process is not None]
            threads = list(self._threads.values())
        for job in running:
            self.interrupt(job, "stop")
        for thread in threads:
            thread.join(_PATIENCE_S)

    # --- commands

    def command(self, job: Job, arguments: Sequence[str | Path], text: str) -> dict[str, Any]:
        """Run one command of this program; the document that it prints.

        Args:
            text: what it does, for people; replaced by its own words.

        Raises:
            TuneError: it failed, in its own words.
            JobStoppedError: it was asked to stop.
        """
        words = [str(word) for word in arguments]
        if job.wanted or self._is_closed:
            raise JobStoppedError
        job.progress = {"done": 0, "total": 0, "eta_s": None, "text": text}
        self.changed(job)
        files = {
            name: self._scratch / f"{job.id}.{name}" for name in ("stdout", "stderr", "progress")
        }
        files["progress"].unlink(missing_ok=True)
        environment = os.environ | {VARIABLE: str(files["progress"])}
        with files["stdout"].open("wb") as out, files["stderr"].open("wb") as messages:
            job.process = subprocess.Popen(
                [sys.executable, "-m", "moonshine_tune", *words, "--json"],
                stdin=subprocess.DEVNULL, stdout=out, stderr=messages, env=environment,
                start_new_session=True,
            )  # fmt: skip
        try:
            if job.wanted:
                _interrupt(job.process)
            code = self._watch(job, job.process, files["progress"])
        finally:
            job.process = None
        document = _document(files["stdout"])
        if code == INTERRUPTED or (job.wanted and code):
            raise JobStoppedError
        if error := document.get("error"):
            where = f"{error['where']}: " if error.get("where") else ""
            kind = MachineError if code == MachineError.exit_code else RequestError
            raise kind(f"{where}{error['message']}", hint=error.get("hint"))
        if code not in (0, 1):
            raise MachineError(
                f"moonshine-tune {words[0]} ended ({ending_of(code)})"
                f"{_last_message(files['stderr'])}",
                hint="close other programs and try again",
            )
        for path in files.values():
            path.unlink(missing_ok=True)
        return document | {"exit_code": code}

    def _watch(self, job: Job, process: "subprocess.Popen[bytes]", file: Path) -> int:
        """Follow the progress file until the process ends; its exit code."""
        reader = _ProgressReader(job, file)
        while process.poll() is None:
            time.sleep(_WAIT_S)
            if reader.read():
                self.changed(job)
        reader.read()
        return process.wait()

    # --- lanes

    def _run_lane(self, lane: str) -> None:
        while True:
            with self._lock:
                queue = self._lanes[lane]
                if not queue:
                    del self._threads[lane]
                    return
                job = queue.popleft()
                work = self._work[job.id]
            try:
                job.result = work(job)
            except JobStoppedError:
                self._end(job, PAUSED if job.wanted == "pause" else STOPPED)
            except Exception as error:
                self.fail(job, error)
            else:
                self._end(job, DONE)

    def _end(self, job: Job, state: str) -> None:
        job.state, job.wanted = state, ""
        job.progress = job.progress | {"eta_s": None}
        self.changed(job)

    def _forget_old(self) -> None:
        ended = [item.id for item in self._jobs.values() if item.state not in (RUNNING, PAUSED)]
        for identifier in ended[: max(len(self._jobs) - _MAX_JOBS, 0)]:
            del self._jobs[identifier]
            self._work.pop(identifier, None)


class _ProgressReader:
    """Reads new lines of a progress file into a job."""

    def __init__(self, job: Job, file: Path) -> None:
        self._job, self._file = job, file
        self._offset = 0
        self._stage, self._since = "", 0.0

    def read(self) -> bool:
        """Take what is new; whether there was anything."""
        try:
            with self._file.open("rb") as file:
                file.seek(self._offset)
                content = file.read()
        except OSError:
            return False
        complete = content[: content.rfind(b"\n") + 1]
        self._offset += len(complete)
        for line in complete.decode("utf-8", "replace").splitlines():
            with suppress(JsonError):
                self._take(parse_json_object(line, lenient=True))
        return bool(complete)

    def _take(self, record: dict[str, Any]) -> None:
        job = self._job
        if "stage" in record:
            done, total = int(record["done"]), int(record["total"])
            now = time.monotonic()
            if record["stage"] != self._stage or not done:
                self._stage, self._since = record["stage"], now
            spent = now - self._since
            eta = spent / done * (total - done) if done and total >= done else None
            job.progress = {
                "done": done,
                "total": total,
                "eta_s": None if eta is None else round(eta, 1),
                "text": record["stage"],
            }
        elif "transcripts" in record:
            for reference, hypothesis in record["transcripts"][:_MAX_SHOWN]:
                steps = job.steps.setdefault(reference, [])
                steps.append({"step": record["step"], "text": hypothesis})
        elif "message" in record:
            job.progress = job.progress | {"message": record["message"]}


def _document(stdout: Path) -> dict[str, Any]:
    """The last line of a command's output."""
    lines = stdout.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    if not lines:
        return {}
    try:
        document = json.loads(lines[-1])
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _last_message(stderr: Path) -> str:
    lines = stderr.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f": {lines[-1][:300]}" if lines else ""


def _interrupt(process: "subprocess.Popen[bytes]") -> None:
    with suppress(ProcessLookupError, PermissionError):
        process.send_signal(signal.SIGINT)
