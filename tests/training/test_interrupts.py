"""A run that is stopped outside its steps says so, and one writer works in its folder."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.other_process import other_process
from tests.training_runs import Training, Watcher

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.core.signals import interrupt_on_signals
from moonshine_tune.training.run import train

pytestmark = pytest.mark.usefixtures("one_thread")


class _SignalAt(SilentProgress):
    """Sends a signal when a message begins with some words."""

    def __init__(self, start: str, number: int) -> None:
        self._start, self._number = start, number

    def say(self, text: str) -> None:
        if text.startswith(self._start):
            signal.raise_signal(self._number)


@pytest.fixture(autouse=True)
def _hangup() -> Iterator[None]:
    before = signal.getsignal(signal.SIGHUP)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_run_stopped_in_its_preparation_is_interrupted_and_goes_on(
    streaming_training: Training, tmp_path: Path, number: int
) -> None:
    training, out = streaming_training, tmp_path / "run"
    settings = training.settings(train__steps=2, select__every_steps=2)
    with pytest.raises(KeyboardInterrupt), interrupt_on_signals():
        train(settings, out, _SignalAt("baseline", number))
    assert json.loads((out / "run.json").read_text())["status"] == "interrupted"
    result = train(settings, out, SilentProgress(), resume=True)
    assert (result.stopped, result.steps) == ("finished", 2)


def test_a_run_stopped_before_it_has_a_record_leaves_nothing(
    streaming_training: Training, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt), interrupt_on_signals():
        train(streaming_training.settings(), tmp_path / "run", _SignalAt("model", signal.SIGTERM))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_every_signal_saves_the_step(
    streaming_training: Training, tmp_path: Path, number: int
) -> None:
    """SIGHUP twice: the system and the shell each send one."""

    def stop() -> None:
        signal.raise_signal(number)
        if number == signal.SIGHUP:
            signal.raise_signal(number)

    settings = streaming_training.settings(train__steps=4, select__every_steps=4)
    result = train(settings, tmp_path / "run", Watcher(3, stop))
    assert (result.stopped, result.steps) == ("interrupted", 3)
    state = json.loads((tmp_path / "run" / "state" / "state.json").read_text())
    assert state["step"] == 3


def test_a_second_process_in_a_run_folder_is_refused_also_to_resume(
    streaming_training: Training, tmp_path: Path
) -> None:
    settings, out = streaming_training.settings(train__steps=1), tmp_path / "run"
    train(settings, out, SilentProgress())
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with other_process(f"with one_writer(Path({str(out)!r})):\n    wait()\n") as process:
        for resume in (False, True):
            with pytest.raises(RequestError, match=f"pid {process.pid}"):
                train(settings, out, SilentProgress(), resume=resume)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_only_the_first_process_of_a_launch_holds_the_folder(
    streaming_training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others write nothing, and would refuse each other."""
    from moonshine_tune.training import run as run_module

    monkeypatch.setattr(run_module, "_train", lambda *_args, **_options: "trained")
    out = tmp_path / "run"
    with other_process(f"with one_writer(Path({str(out)!r})):\n    wait()\n"):
        monkeypatch.setenv("RANK", "1")
        assert train(streaming_training.settings(), out, SilentProgress()) == "trained"
        monkeypatch.setenv("RANK", "0")
        with pytest.raises(RequestError, match="another process"):
            train(streaming_training.settings(), out, SilentProgress())
