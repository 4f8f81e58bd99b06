"""Whatever ends a run, what was saved last is whole, and the run goes on as if nothing had been."""

import json
import multiprocessing
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from moonshine_tune.config.resolve import ResolvedSettings
from moonshine_tune.core.errors import MachineError, RequestError
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.training import resume as state_module
from moonshine_tune.training import trainer as trainer_module
from moonshine_tune.training.run import train

pytestmark = pytest.mark.usefixtures("one_thread")

# What safetensors raises on a full disk: an error of its own, with the system's number as text.
_FULL = "Error while serializing: I/O error: No space left on device (os error 28)"


class _KilledError(BaseException):
    """Ends a run as a kill would: nothing in it is run any more."""


def _die() -> None:
    raise _KilledError


@pytest.fixture(scope="module")
def whole(
    training: Any, tmp_path_factory: pytest.TempPathFactory, one_thread: None
) -> tuple[Path, ResolvedSettings]:
    """A run that nothing disturbed, with canary and replay. Read only."""
    settings = training.settings("canary", "replay")
    out = tmp_path_factory.mktemp("whole") / "run"
    train(settings, out, SilentProgress())
    return out, settings


@pytest.fixture
def killed(whole: tuple[Path, ResolvedSettings], training: Any, tmp_path: Path) -> Path:
    """A run that was killed in step 10: its newest state is of step 8, the one before of 4."""
    _, settings = whole
    with pytest.raises(_KilledError):
        train(settings, tmp_path / "run", training.Watcher(10, _die))
    return tmp_path / "run"


# --- kill -9


@pytest.fixture(scope="module")
def start(
    tmp_path_factory: pytest.TempPathFactory, one_thread: None
) -> Callable[..., multiprocessing.Process]:
    """`start(settings, out, resume=False)`: the run in a process of its own that can be killed."""
    context = multiprocessing.get_context("forkserver")
    # Imported once; each process is then a fork that starts at once.
    context.set_forkserver_preload(
        ["moonshine_tune.training.run", "peft", "accelerate", "transformers"]
    )
    cache = tmp_path_factory.mktemp("killed-cache")
    patch = pytest.MonkeyPatch()
    patch.setenv("OMP_NUM_THREADS", "1")
    patch.setenv("MOONSHINE_TUNE_CACHE", str(cache))

    def started(settings: ResolvedSettings, out: Path, *, resume: bool = False) -> Any:
        process = context.Process(
            target=train, args=(settings, out, SilentProgress()), kwargs={"resume": resume}
        )
        process.start()
        return process

    yield started
    patch.undo()


def _lines(out: Path) -> int:
    path = out / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.is_file() else 0


@pytest.mark.parametrize("sites", ["decoder", "all"])
def test_kill_9_at_random_moments_changes_nothing(
    training: Any, tmp_path: Path, start: Callable[..., Any], sites: str
) -> None:
    """The state is saved after every step, so that kills often come while it is written."""
    settings = training.settings(
        "canary", "replay", train__steps=24, select__every_steps=6, select__patience=99,
        train__save_every_minutes=1e-6, device__state_storage="disk", adapter__sites=sites,
    )  # fmt: skip
    first = start(settings, tmp_path / "warm")
    first.join()
    assert first.exitcode == 0
    unbroken = start(settings, tmp_path / "unbroken")
    unbroken.join()
    chance = random.Random(20_07)
    out = tmp_path / "killed"
    seen = []
    # How far it has come says when, and not the clock: a busy machine is slow to start.
    for least in (chance.randint(2, 8), chance.randint(12, 20)):
        process = start(settings, out, resume=(out / "run.json").is_file())
        while process.is_alive() and _lines(out) < least:
            process.join(0.005)
        process.join(chance.uniform(0, 0.05))
        process.kill()
        process.join()
        seen.append(_lines(out))
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        if not (out / "run.json").is_file():
            shutil.rmtree(out, ignore_errors=True)
    last = start(settings, out, resume=(out / "run.json").is_file())
    last.join()
    assert last.exitcode == 0
    assert any(1 < count < 28 for count in seen), f"no kill came during the steps: {seen}"
    assert training.is_same(out, tmp_path / "unbroken")
    # Nothing half-written stays behind.
    assert {path.name for path in out.iterdir()} == {
        path.name for path in (tmp_path / "unbroken").iterdir()
    }


# --- a torn checkpoint


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip(path: Path) -> None:
    """One bit: safetensors reads such a file without a word."""
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("state.safetensors", _cut),
        ("state.safetensors", _flip),
        ("state.safetensors", Path.unlink),
        ("state.json", _cut),
        ("state.json", Path.unlink),
    ],
    ids=["cut", "flipped", "gone", "json-cut", "json-gone"],
)
def test_a_torn_state_is_noticed_and_the_one_before_is_used(
    whole: tuple[Path, ResolvedSettings], killed: Path, training: Any, name: str, damage: Any
) -> None:
    out, settings = whole
    path = killed / "state" / name
    # The previous state shares no file with this one: it must survive.
    damage(path)
    watcher = training.Watcher()
    train(settings, killed, watcher, resume=True)
    assert "the newest saved state is damaged: going on from step 4 instead" in watcher.said
    assert training.is_same(killed, out)


def test_a_whole_state_is_used_without_a_word(
    whole: tuple[Path, ResolvedSettings], killed: Path, training: Any
) -> None:
    out, settings = whole
    watcher = training.Watcher()
    train(settings, killed, watcher, resume=True)
    assert not [said for said in watcher.said if "damaged" in said]
    assert training.is_same(killed, out)


def test_two_torn_states_are_one_plain_error(
    whole: tuple[Path, ResolvedSettings], killed: Path
) -> None:
    _, settings = whole
    _cut(killed / "state" / "state.safetensors")
    _flip(killed / "state" / "previous" / "state.safetensors")
    log = (killed / "metrics.jsonl").read_bytes()
    with pytest.raises(RequestError, match="no earlier one is whole") as caught:
        train(settings, killed, SilentProgress(), resume=True)
    assert "--out" in (caught.value.hint or "")
    assert (killed / "metrics.jsonl").read_bytes() == log


@pytest.mark.parametrize("mark", ["partial", "old"])
def test_a_kill_between_the_renames_of_a_save_loses_nothing(
    whole: tuple[Path, ResolvedSettings], killed: Path, training: Any, mark: str
) -> None:
    out, settings = whole
    (killed / "state").rename(killed / f".state.{mark}-abc123")
    train(settings, killed, SilentProgress(), resume=True)
    assert training.is_same(killed, out)
    assert not list(killed.glob(".state*"))


def test_an_adapter_folder_that_was_lost_in_its_swap_comes_back(
    whole: tuple[Path, ResolvedSettings], killed: Path, training: Any
) -> None:
    out, settings = whole
    shutil.rmtree(killed / "adapter")
    # At step 11 nothing was scored again yet: what is there then is what the state restored.
    train(settings, killed, training.Watcher(11, lambda: signal.raise_signal(signal.SIGINT)),
          resume=True)  # fmt: skip
    state = json.loads((killed / "state" / "state.json").read_text())
    chosen = json.loads((killed / "adapter" / "selection.json").read_text())
    assert chosen == state["counters"]["best"]
    train(settings, killed, SilentProgress(), resume=True)
    assert training.is_same(killed, out)


def test_a_run_that_was_killed_before_it_saved_anything_begins_anew(
    whole: tuple[Path, ResolvedSettings], killed: Path, training: Any
) -> None:
    out, settings = whole
    shutil.rmtree(killed / "state")
    watcher = training.Watcher()
    train(settings, killed, watcher, resume=True)
    assert any("nothing was saved yet" in said for said in watcher.said)
    assert training.is_same(killed, out)


def test_the_state_does_not_grow_with_the_steps(training: Any, tmp_path: Path) -> None:
    settings = training.settings(train__steps=60, select__every_steps=60)
    sizes = []
    for step in (10, 50):
        train(settings, tmp_path / "run",
              training.Watcher(step if not sizes else step - 10,
                               lambda: signal.raise_signal(signal.SIGINT)),
              resume=bool(sizes))  # fmt: skip
        sizes.append((tmp_path / "run" / "state" / "state.json").stat().st_size)
    assert abs(sizes[1] - sizes[0]) < 200


# --- other ends


def test_sigterm_is_a_clean_stop(
    whole: tuple[Path, ResolvedSettings], training: Any, tmp_path: Path
) -> None:
    out, settings = whole
    part = tmp_path / "run"
    result = train(settings, part, training.Watcher(6, lambda: signal.raise_signal(signal.SIGTERM)))
    assert (result.stopped, result.steps) == ("interrupted", 6)
    assert json.loads((part / "state" / "state.json").read_text())["step"] == 6
    train(settings, part, SilentProgress(), resume=True)
    assert training.is_same(part, out)


def test_a_second_interrupt_while_the_state_is_written_leaves_the_last_one(
    whole: tuple[Path, ResolvedSettings],
    training: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, settings = whole
    real = state_module.save_file

    def interrupted(tensors: Any, path: Path) -> None:
        real(tensors, path)
        if len(list((part / "state").glob("*"))) == 3:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    part = tmp_path / "run"
    monkeypatch.setattr(state_module, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(settings, part, SilentProgress())
    monkeypatch.undo()
    assert not list(part.glob(".state*"))
    assert json.loads((part / "state" / "state.json").read_text())["step"] == 4
    train(settings, part, SilentProgress(), resume=True)
    assert training.is_same(part, out)


@pytest.mark.parametrize("place", ["state", "adapter", "log"])
def test_a_full_disk_is_a_plain_error_and_the_last_state_loads(
    whole: tuple[Path, ResolvedSettings],
    training: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
) -> None:
    out, settings = whole
    part = tmp_path / "run"

    def is_late() -> bool:
        path = part / "state" / "state.json"
        return path.is_file() and json.loads(path.read_text())["step"] == 4

    def full_later(real: Callable[..., Any], error: Exception) -> Callable[..., Any]:
        def write(*given: Any, **named: Any) -> Any:
            if is_late():
                raise error
            return real(*given, **named)

        return write

    if place == "state":
        monkeypatch.setattr(
            state_module, "save_file", full_later(state_module.save_file, SafetensorError(_FULL))
        )
    elif place == "adapter":
        # What is saved is the best so far: the last score is.
        monkeypatch.setattr(trainer_module.SelectionRule, "is_better", lambda *_: True)
        real = trainer_module.save_adapter
        monkeypatch.setattr(
            trainer_module, "save_adapter", full_later(real, SafetensorError(_FULL))
        )
    else:
        board = trainer_module.TensorBoardLogger
        monkeypatch.setattr(
            board, "_write", full_later(board._write, MachineError("the disk is full"))
        )
    with pytest.raises(MachineError, match="the disk is full") as caught:
        train(settings, part, SilentProgress())
    assert caught.value.exit_code == 3
    monkeypatch.undo()
    assert not list(part.glob(".*"))
    train(settings, part, SilentProgress(), resume=True)
    assert training.is_same(part, out)


def test_nan_from_the_first_step_ends_the_run_with_a_state_that_loads(
    training: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = trainer_module.head_cross_entropy_sum
    monkeypatch.setattr(
        trainer_module, "head_cross_entropy_sum", lambda *given: real(*given) * float("nan")
    )
    out = tmp_path / "run"
    settings = training.settings(train__max_skipped_steps=3)
    with pytest.raises(MachineError, match="3 steps in a row gave non-finite") as caught:
        train(settings, out, SilentProgress())
    assert "train.learning_rate" in (caught.value.hint or "")
    assert not (out / "adapter").exists()
    monkeypatch.undo()
    result = train(
        training.settings(train__max_skipped_steps=3, train__learning_rate=1e-3),
        out, SilentProgress(), resume=True,
    )  # fmt: skip
    assert (result.stopped, result.steps, result.skipped_steps) == ("finished", 12, 3)
    assert result.first_loss > 0


def test_an_early_stop_stays_where_it_stopped(training: Any, tmp_path: Path) -> None:
    settings = training.settings(
        select__every_steps=1, select__patience=2, train__learning_rate=1e-9
    )
    first = train(settings, tmp_path / "run", SilentProgress())
    again = train(settings, tmp_path / "run", SilentProgress(), resume=True)
    assert (again.stopped, again.steps) == (first.stopped, first.steps) == ("early stop", 3)


def test_random_numbers_do_not_hang_on_what_was_drawn_before(
    whole: tuple[Path, ResolvedSettings], training: Any, tmp_path: Path
) -> None:
    """A stop in the middle draws nothing twice: the masks of a step are its own."""
    out, settings = whole
    torch.manual_seed(99)
    train(settings, tmp_path / "run", SilentProgress())
    assert training.is_same(tmp_path / "run", out)


# --- refusals


@pytest.mark.parametrize("record", [{"command": ["evaluate"]}, {"job": "evaluate", "settings": {}}])
def test_the_folder_of_another_command_is_refused(
    training: Any, tmp_path: Path, record: dict[str, Any]
) -> None:
    (tmp_path / "run.json").write_text(json.dumps(record))
    with pytest.raises(RequestError, match="not made by `moonshine-tune train`"):
        train(training.settings(), tmp_path, SilentProgress(), resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
