"""The process that holds the models: it judges takes and lets two models write on speech.

`python -m moonshine_tune.studio.worker` reads a request a line from standard input and answers each
with a line of JSON: `{"result": …}` or `{"error": {"message", "next"}}`, after any number of
`{"message": …}`. It ends with its standard input.
"""

import json
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from moonshine_tune.core.errors import TuneError
from moonshine_tune.core.machine_errors import machine_error
from moonshine_tune.core.progress import Progress
from moonshine_tune.core.text import first_line


class _Messages(Progress):
    """Sends the messages of a job on."""

    def __init__(self, channel: TextIO) -> None:
        self._channel = channel

    def say(self, text: str) -> None:
        """Send a line."""
        _send(self._channel, {"message": text})


class Worker:
    """Models in memory, one for takes and one pair to try; each is opened when it is needed."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._models: dict[str, Any] = {}
        self._pairs: dict[tuple[str, float], Any] = {}
        self._stack = ExitStack()

    def judge(self, path: str, prompt: str, earlier: list[Any], model: str, out: str) -> Any:
        """Judge a recording; see `judge_take`."""
        from moonshine_tune.data.checks.checked_manifest import ModelTranscript
        from moonshine_tune.studio.judgment import judge_take

        judgment = judge_take(
            Path(path),
            prompt,
            [ModelTranscript(**item) for item in earlier],
            lambda: self._model_or_reason(model),
            Path(out),
        )
        return asdict(judgment) | {
            "confidence": judgment.transcript.confidence if judgment.transcript else None
        }

    def warm_up(self, model: str) -> Any:
        """Open the model before the first recording; its device, and why there is none."""
        opened = self._model_or_reason(model)
        if isinstance(opened, str):
            return {"device": None, "remark": opened}
        return {"device": str(opened.device.device), "remark": ""}

    def try_models(self, run: str, path: str) -> Any:
        """What the base and the adapted model of a run write on a recording, piece by piece."""
        from moonshine_tune.audio.blocks import BlockReader
        from moonshine_tune.transcription.pieces import speech_pieces

        pair = self._pair(Path(run))
        pieces = [
            pair.transcribe(piece.samples, path, piece.start_s)
            for piece in speech_pieces(BlockReader.of_file(Path(path)))
        ]
        return {
            side: " ".join(getattr(piece, side).text for piece in pieces)
            for side in ("base", "adapted")
        } | {
            f"{side}_s": round(sum(getattr(piece, side).latency_ms for piece in pieces) / 1000, 3)
            for side in ("base", "adapted")
        }

    def _model_or_reason(self, name: str) -> Any:
        """The model, or in a sentence why it cannot be opened."""
        from moonshine_tune.registry.open import open_model

        if name not in self._models:
            # One at a time: a machine that trains beside it has little memory.
            self._models.clear()
            try:
                self._models[name] = open_model(name, dtype="float32", progress=self._progress)
            except TuneError as error:
                return "; ".join(filter(None, [str(error), error.hint]))
        return self._models[name]

    def _pair(self, run: Path) -> Any:
        from moonshine_tune.models.files import ADAPTER_WEIGHTS_FILE
        from moonshine_tune.models.lora import find_adapter
        from moonshine_tune.transcription.model_pair import open_pair

        # A run that trains on has a better adapter later.
        key = str(run), (find_adapter(run) / ADAPTER_WEIGHTS_FILE).stat().st_mtime
        if key not in self._pairs:
            self._pairs.clear()
            self._stack.close()
            self._pairs[key] = open_pair(run, self._stack, self._progress)
        return self._pairs[key]


def _send(channel: TextIO, answer: Any) -> None:
    channel.write(json.dumps(answer) + "\n")
    channel.flush()


def _error(error: Exception) -> dict[str, Any]:
    known: TuneError | None = machine_error(error)
    if known is None and isinstance(error, TuneError):
        known = error
    if known is None:
        message = f"unexpected {type(error).__name__}: {first_line(error)}"
        return {"message": message, "next": "report what the terminal of the studio shows"}
    return {"message": str(known), "next": known.hint or ""}


def main() -> None:
    """Answer requests until standard input ends."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    # What a library prints must not reach the channel.
    os.dup2(2, 1)
    worker = Worker(_Messages(channel))
    operations: dict[str, Callable[..., Any]] = {
        "judge": worker.judge, "warm_up": worker.warm_up, "try_models": worker.try_models
    }  # fmt: skip
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"result": operations[request.pop("operation")](**request)}
        except Exception as error:
            if not isinstance(error, TuneError):
                sys.excepthook(type(error), error, error.__traceback__)
            answer = {"error": _error(error)}
        _send(channel, answer)


if __name__ == "__main__":
    main()
