"""What the tests of training runs share: settings, progress that acts, reading a run folder."""

import json
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from moonshine_tune.config.resolve import ResolvedSettings, resolve_settings
from moonshine_tune.core.progress import SilentProgress, Stage


class Watcher(SilentProgress):
    """Keeps the messages, and calls `act` when training step `step` is done."""

    def __init__(self, step: int = 0, act: Callable[[], object] | None = None) -> None:
        self.messages: list[str] = []
        self._step, self._act = step, act

    @classmethod
    def interrupting(cls, step: int) -> "Watcher":
        """Ctrl-C while step `step` is running: a real signal, caught by the real handler."""
        return cls(step, lambda: signal.raise_signal(signal.SIGINT))

    def say(self, text: str) -> None:
        self.messages.append(text)

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Stage]:
        yield _Counting(self._step, self._act if name == "training" else None)


class _Counting:
    def __init__(self, step: int, act: Callable[[], object] | None) -> None:
        self._left, self._act = step, act

    def advance(self, steps: int = 1, note: str = "") -> None:
        self._left -= steps
        if steps and self._left == 0 and self._act:
            self._act()


class StopsAt(SilentProgress):
    """Waits forever once step `step` of a run is logged, so that a signal finds the run there.

    A class of a module, so that a process of its own can be given one.
    """

    def __init__(self, step: int) -> None:
        self._step = step

    def figures(self, step: int, values: Any) -> None:
        if step == self._step:
            threading.Event().wait()


class Training:
    """Settings for a short run on small random models, and what a run wrote."""

    Watcher = Watcher

    def __init__(self, model: Path, speech: Path) -> None:
        self.model, self.speech = model, speech

    def content(self, *names: str) -> dict[str, Any]:
        """Twelve steps with dropout, so that the random generators matter. `names`: manifests."""
        return {
            "model": str(self.model),
            "data": {name: str(self.speech / f"{name}.jsonl") for name in ("train", "dev", *names)},
            "adapter": {"rank": 4, "dropout": 0.1},
            "train": {"steps": 12, "batch_size": 4, "learning_rate": 5e-3, "seed": 3},
            "select": {"every_steps": 4},
            "device": {"name": "cpu"},
        }

    def settings(self, *names: str, **changes: Any) -> ResolvedSettings:
        """That content with changes, such as `train__steps=3`."""
        return resolve(self.content(*names), **changes)

    @staticmethod
    def lines(out: Path) -> list[dict[str, Any]]:
        """All records of the log."""
        return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]

    @classmethod
    def steps(cls, out: Path) -> list[tuple[Any, ...]]:
        """Step, losses and gradient norm of every step: equal in equal runs, bit by bit."""
        names = ("step", "loss", "replay_kl", "replay_loss", "gradient_norm", "learning_rate")
        return [tuple(line.get(n) for n in names) for line in cls.lines(out) if "loss" in line]

    @classmethod
    def scores(cls, out: Path) -> list[tuple[Any, ...]]:
        """Step, dev and canary WER of every score."""
        names = ("step", "dev_wer", "canary_wer")
        return [tuple(line.get(n) for n in names) for line in cls.lines(out) if "dev_wer" in line]

    @staticmethod
    def adapter(out: Path) -> bytes:
        """The best adapter's weights."""
        return (out / "adapter" / "adapter_model.safetensors").read_bytes()

    @classmethod
    def is_same(cls, first: Path, second: Path) -> bool:
        """Whether two runs computed the same, bit by bit."""
        return (
            cls.steps(first) == cls.steps(second)
            and cls.scores(first) == cls.scores(second)
            and cls.adapter(first) == cls.adapter(second)
        )


def resolve(content: dict[str, Any], **changes: Any) -> ResolvedSettings:
    """Settings of a content with changes, such as `train__steps=3`."""
    nested: dict[str, Any] = {}
    for key, value in changes.items():
        section, _, name = key.partition("__")
        nested.setdefault(section, {})[name] = value
    return resolve_settings([("test", content), ("--set", nested)])


@pytest.fixture(scope="session")
def training(saved_v1: Path, speech_folder: Path) -> Training:
    """Runs of the small v1 model."""
    return Training(saved_v1, speech_folder)


@pytest.fixture(scope="session")
def streaming_training(saved_streaming: Path, speech_folder: Path) -> Training:
    """Runs of the small streaming model."""
    return Training(saved_streaming, speech_folder)
