"""What the tests of whole training runs share: settings, progress that acts, reading a run."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from moonshine_tune.config.resolve import ResolvedSettings, resolve_settings
from moonshine_tune.core.progress import SilentProgress, Stage


class Watcher(SilentProgress):
    """Keeps what was said, and acts when training step `step` is done."""

    def __init__(self, step: int = 0, act: Callable[[], object] | None = None) -> None:
        self.said: list[str] = []
        self._step, self._act = step, act

    def say(self, text: str) -> None:
        self.said.append(text)

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


class Training:
    """Settings for a short run on small random models, and what a run wrote."""

    Watcher = Watcher

    def __init__(self, model: Path, speech: Path) -> None:
        self.model, self.speech = model, speech

    def settings(self, *names: str, **changes: Any) -> ResolvedSettings:
        """Twelve steps with dropout. `names`: further manifests; `changes`: train__steps=3."""
        content: dict[str, Any] = {
            "model": str(self.model),
            "data": {name: str(self.speech / f"{name}.jsonl") for name in ("train", "dev", *names)},
            "adapter": {"rank": 4, "dropout": 0.1},
            "train": {"steps": 12, "batch_size": 4, "learning_rate": 5e-3, "seed": 3},
            "select": {"every_steps": 4},
            "device": {"name": "cpu"},
        }
        for key, value in changes.items():
            section, _, name = key.partition("__")
            content[section][name] = value
        return resolve_settings([("test", content)])

    @staticmethod
    def lines(out: Path) -> list[dict[str, Any]]:
        """The whole log."""
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
    def is_same(cls, one: Path, other: Path) -> bool:
        """Whether two runs did the same, bit by bit."""
        return (
            cls.steps(one) == cls.steps(other)
            and cls.scores(one) == cls.scores(other)
            and cls.adapter(one) == cls.adapter(other)
        )


@pytest.fixture(scope="session")
def training(saved_v1: Path, speech_folder: Path) -> Training:
    """Runs of the small v1 model."""
    return Training(saved_v1, speech_folder)


@pytest.fixture(scope="session")
def streaming_training(saved_streaming: Path, speech_folder: Path) -> Training:
    """Runs of the small streaming model."""
    return Training(saved_streaming, speech_folder)
