"""Trackers: a fake one that Accelerate knows, TensorBoard, and their errors."""

from pathlib import Path
from typing import Any

import accelerate.tracking
import pytest

from moonshine_tune.core.errors import MachineError, RequestError
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.training import loggers as loggers_module
from moonshine_tune.training.run import train

pytestmark = pytest.mark.usefixtures("one_thread")


class _Fake:
    """Keeps what it is called with, as Accelerate calls it."""

    made: "list[_Fake]" = []  # noqa: RUF012 - emptied by the fixture

    def __init__(self, run_name: str, **words: Any) -> None:
        self.run_name, self.words = run_name, words
        self.config: dict[str, Any] = {}
        self.points: list[tuple[int, dict[str, float]]] = []
        self.finished = False
        _Fake.made.append(self)

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.config = values

    def log(self, values: dict[str, float], step: int) -> None:
        self.points.append((step, values))

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[_Fake]:
    _Fake.made = []
    monkeypatch.setitem(accelerate.tracking.LOGGER_TYPE_TO_CLASS, "trackio", _Fake)
    monkeypatch.setattr(loggers_module.importlib.util, "find_spec", lambda name: name)
    return _Fake


def test_a_tracker_gets_every_point_and_the_settings(
    training: Any, tmp_path: Path, fake: type[_Fake]
) -> None:
    settings = training.settings(train__steps=4, select__every_steps=2)
    tracked = settings.settings.model_copy(update={"tracker": "trackio"})
    train(type(settings)(tracked, settings.sources), tmp_path / "a", SilentProgress())
    (tracker,) = fake.made
    assert tracker.run_name == "moonshine-tune"
    assert tracker.config["train.steps"] == 4
    assert tracker.config["tracker"] == "trackio"
    losses = [step for step, values in tracker.points if "loss" in values]
    assert losses == [1, 2, 3, 4]
    assert [step for step, values in tracker.points if "dev_wer" in values] == [0, 2, 4]
    assert tracker.finished


def test_a_tracker_that_fails_does_not_stop_the_run(
    training: Any, tmp_path: Path, fake: type[_Fake], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: _Fake, values: dict[str, float], step: int) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(_Fake, "log", fail)
    settings = training.settings(train__steps=2)
    tracked = settings.settings.model_copy(update={"tracker": "trackio"})
    watcher = training.Watcher()
    result = train(type(settings)(tracked, settings.sources), tmp_path / "a", watcher)
    assert result.stopped == "finished"
    assert sum("the tracker trackio failed" in line for line in watcher.messages) == 1


def test_tensorboard_is_one_of_them(tmp_path: Path) -> None:
    tracker = loggers_module.Tracker("tensorboard", tmp_path, {"a.b": 1}, SilentProgress())
    tracker.log(1, {"loss": 2.0})
    tracker.close()
    assert list((tmp_path / "tracker").rglob("events.out.tfevents*"))


def test_an_unknown_or_missing_tracker_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RequestError, match="no tracker is called 'wanda'") as raised:
        loggers_module.Tracker("wanda", tmp_path, {}, SilentProgress())
    assert "wandb" in str(raised.value.hint)
    monkeypatch.setattr(loggers_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MachineError, match="wandb is not installed") as missing:
        loggers_module.Tracker("wandb", tmp_path, {}, SilentProgress())
    assert missing.value.hint == "pip install wandb"


def test_a_tracker_that_does_not_start_is_an_error(
    tmp_path: Path, fake: type[_Fake], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: _Fake, values: Any) -> None:
        raise ValueError("who are you")

    monkeypatch.setattr(_Fake, "store_init_configuration", refuse)
    with pytest.raises(MachineError, match="does not start: ValueError: who are you"):
        loggers_module.Tracker("trackio", tmp_path, {}, SilentProgress())
