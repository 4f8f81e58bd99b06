"""Progress as lines of JSON in a file, for a program that started the command.

The variable `MOONSHINE_TUNE_PROGRESS` names the file. Each line is one of
`{"stage", "done", "total"}`, `{"message"}`, `{"step", "values"}` and `{"step", "transcripts"}`.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from moonshine_tune.core.progress import Progress, Stage

VARIABLE = "MOONSHINE_TUNE_PROGRESS"
_EVERY_S = 0.25


class ProgressFile(Progress):
    """Appends what a job reports; a file that cannot be written loses it, and nothing else."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._step = 0

    @classmethod
    def of_environment(cls) -> Progress:
        """The file that the environment names; without one, what is reported is ignored."""
        name = os.environ.get(VARIABLE)
        return cls(Path(name)) if name else Progress()

    def say(self, text: str) -> None:
        """Append a message."""
        self.append({"message": text})

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Stage]:
        """Append the start of a stage, its steps a few times a second, and its end."""
        stage = _FileStage(name, total, self)
        stage.write()
        try:
            yield stage
        finally:
            stage.write()

    def figures(self, step: int, values: Mapping[str, float]) -> None:
        """Append the metrics of a step."""
        self._step = step
        self.append({"step": step, "values": dict(values)})

    def transcripts(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Append transcripts of the step whose metrics follow."""
        self.append({"step": self._step, "transcripts": [list(pair) for pair in pairs]})

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one line."""
        with suppress(OSError), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


class _FileStage(Stage):
    def __init__(self, name: str, total: int, file: ProgressFile) -> None:
        self._name, self._total, self._file = name, total, file
        self._done = 0
        self._written = time.monotonic()

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Count the steps, and write them if it is time."""
        self._done += steps
        if time.monotonic() - self._written >= _EVERY_S:
            self.write()

    def write(self) -> None:
        """Append how far the stage is."""
        self._written = time.monotonic()
        self._file.append({"stage": self._name, "done": self._done, "total": self._total})
