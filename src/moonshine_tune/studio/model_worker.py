"""The worker process seen from the server: it is started when needed, and again when it died."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from moonshine_tune.core.errors import MachineError, RequestError, TuneError


class WorkerError(TuneError):
    """What the worker could not do, in its own words."""


class ModelWorker:
    """Asks one worker process, one request after the other.

    Args:
        log: file for what the process prints.
        on_message: takes what it says while it works, such as a download.
    """

    def __init__(self, log: Path, on_message: Callable[[str], None]) -> None:
        self._log, self._on_message = log, on_message
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._is_closed = False

    @property
    def pid(self) -> int | None:
        """Number of the process; None where there is none."""
        return self._process.pid if self._process is not None else None

    def ask(self, operation: str, **values: Any) -> Any:
        """The result of an operation of `worker.Worker`.

        Raises:
            WorkerError: the worker says no.
            MachineError: its process ended; the next request starts another one.
        """
        with self._lock:
            process = self._running()
            try:
                return self._answer(process, {"operation": operation, **values})
            except (BrokenPipeError, EOFError) as error:
                raise self._ended(process) from error

    def _answer(self, process: subprocess.Popen[str], request: dict[str, Any]) -> Any:
        if process.stdin is None or process.stdout is None:
            raise EOFError
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        while line := process.stdout.readline():
            answer = json.loads(line)
            if "message" in answer:
                self._on_message(answer["message"])
            elif "error" in answer:
                error = answer["error"]
                raise WorkerError(error["message"], hint=error["next"] or None)
            else:
                return answer["result"]
        raise EOFError

    def close(self) -> None:
        """End the process."""
        self._is_closed = True
        process = self._process
        if process is not None:
            process.kill()
            process.wait()

    def _running(self) -> subprocess.Popen[str]:
        if self._is_closed:
            raise RequestError("the studio is ending", hint="start it again: moonshine-tune studio")
        if self._process is None or self._process.poll() is not None:
            with self._log.open("w") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "moonshine_tune.studio.worker"],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                    encoding="utf-8", start_new_session=True,
                )  # fmt: skip
        return self._process

    def _ended(self, process: subprocess.Popen[str]) -> MachineError:
        with suppress(OSError):
            process.kill()
        code = process.wait()
        self._process = None
        return MachineError(
            f"the process that holds the model ended ({ending_of(code)}){last_line(self._log)}",
            hint="try again: it is started anew. If it ends again, close other programs or choose "
            "a smaller model",
        )


def ending_of(code: int) -> str:
    """How a process ended: `killed by SIGKILL, perhaps for lack of memory`, or `exit code 3`."""
    if code >= 0:
        return f"exit code {code}"
    with suppress(ValueError):
        name = signal.Signals(-code).name
        why = ", perhaps for lack of memory" if name == "SIGKILL" else ""
        return f"killed by {name}{why}"
    return f"signal {-code}"


def last_line(log: Path) -> str:
    """`: ` and the last line of a log; empty where there is none."""
    with suppress(OSError):
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f": {lines[-1][:300]}" if lines else ""
    return ""
