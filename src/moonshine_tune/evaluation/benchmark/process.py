"""A runtime folder loaded in a fresh process, which is measured from outside."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from moonshine_tune.audio.samples import SAMPLE_RATE_HZ
from moonshine_tune.core.errors import MachineError, RequestError
from moonshine_tune.runtime.layout import read_layout
from moonshine_tune.runtime.transcriber import RUNTIME_OPTIONS, arch_name, check_takes_keyterms

_MODULE = "moonshine_tune.evaluation.benchmark.worker"
_PATIENCE_S = 10.0


@dataclass(frozen=True)
class TimedTranscript:
    """One answer: seconds of the call (or from the end of speech), and the text."""

    seconds: float
    text: str


class FreshProcess:
    """A process that holds one loaded runtime folder. Close it, or use it as a context manager.

    Attributes:
        load_s: seconds to load the model, without the start of Python.
        process_mb: peak memory before loading (Python and the binding alone), in MB.
        loaded_mb: peak memory after loading, in MB.

    Raises:
        RequestError: the runtime refuses the files, or crashes while it loads them; or key terms
            for a v1 model.
        MachineError: the runtime does not load here, or the process ended later.
    """

    def __init__(self, runtime_dir: Path, keyterms: Sequence[str] = (), boost: float = 2.0) -> None:
        layout = read_layout(runtime_dir)
        if keyterms:
            check_takes_keyterms(layout)
        self._folder = runtime_dir
        request = {
            "folder": str(runtime_dir.absolute()),
            "arch": arch_name(layout),
            "options": RUNTIME_OPTIONS | {"keyterm_boost": float(boost)},
            "keyterms": list(keyterms),
        }
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        # Any: the types do not say that both pipes are there.
        self._process: Any = subprocess.Popen(
            [sys.executable, "-m", _MODULE, json.dumps(request)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            encoding="utf-8",
        )
        self._loaded = False
        try:
            ready = self._read()
            self._loaded = True
        except BaseException:
            self.close()
            raise
        self.load_s = float(ready["load_s"])
        self.process_mb = float(ready["process_mb"])
        self.loaded_mb = float(ready["loaded_mb"])

    def transcribe(self, clip: Path) -> TimedTranscript:
        """Transcribe a file of float32 samples (mono, 16 kHz) and time the call."""
        return self._transcribe(clip, {"do": "clip"})

    def stream(self, clip: Path, chunk_s: float) -> TimedTranscript:
        """Feed the clip in real time; seconds are from the end of speech to the final text."""
        return self._transcribe(clip, {"do": "stream", "chunk_s": chunk_s})

    def _transcribe(self, clip: Path, request: dict[str, Any]) -> TimedTranscript:
        answer = self._ask(request | {"path": str(clip), "sample_rate_hz": SAMPLE_RATE_HZ})
        return TimedTranscript(float(answer["seconds"]), str(answer["text"]))

    def peak_mb(self) -> float:
        """Peak memory of the process so far, in MB."""
        return float(self._ask({"do": "memory"})["peak_mb"])

    def close(self) -> None:
        """End the process."""
        try:
            # Its input ends, and so does the process.
            self._process.communicate(timeout=_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        self._stderr.close()

    def __enter__(self) -> "FreshProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        with suppress(OSError):  # It ended: `_read` says why.
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            reason = self._exit_reason()
            if not self._loaded:
                raise RequestError(
                    f"the Moonshine runtime crashes on these files ({reason})",
                    where=self._folder,
                    hint="they are damaged: export or fetch them again",
                )
            raise MachineError(
                f"the measured process ended ({reason})",
                where=self._folder,
                hint="close other programs if memory is short, then run again",
            )
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            missing = answer["error"].startswith(("ImportError", "ModuleNotFound", "OSError"))
            if missing:
                raise MachineError(
                    f"the Moonshine runtime does not load here: {answer['error']}",
                    hint="install it with: pip install moonshine-voice",
                )
            raise RequestError(
                f"the Moonshine runtime refuses these files: {answer['error']}",
                where=self._folder,
                hint="they are damaged or of another release: export or fetch them again",
            )
        return answer

    def _exit_reason(self) -> str:
        code = self._process.wait()
        self._stderr.seek(0)
        lines = self._stderr.read().decode("utf-8", "replace").strip().splitlines()
        return f"exit {code}" + (f": {lines[-1]}" if lines else "")
