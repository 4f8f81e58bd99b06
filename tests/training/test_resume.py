"""However a run ends, its last saved state is complete, and a resume changes nothing."""

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
from tests.training_runs import StopsAt, resolve

from moonshine_tune.config.resolve import ResolvedSettings
from moonshine_tune.core.errors import MachineError, RequestError
from moonshine_tune.core.progress import Progress, SilentProgress
from moonshine_tune.runs.kept_adapter import adapter_checksums
from moonshine_tune.training import loggers as loggers_module
from moonshine_tune.training import objective as objective_module
from moonshine_tune.training import resume as resume_module
from moonshine_tune.training import trainer as trainer_module
from moonshine_tune.training.run import train

pytestmark = pytest.mark.usefixtures("one_thread")

# The message of safetensors on a full disk: an error class of its own, the number as text.
_FULL = "Error while serializing: I/O error: No space left on device (os error 28)"


Run = tuple[Path, ResolvedSettings]


class _KilledError(BaseException):
    """Ends a run as a kill does: none of its handlers run."""


def _die() -> None:
    raise _KilledError


@pytest.fixture(scope="module")
def uninterrupted(training: Any, tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Run:
    """An uninterrupted run, with canary and replay. Read only."""
    settings = training.settings("canary", "replay")
    out = tmp_path_factory.mktemp("uninterrupted") / "run"
    train(settings, out, SilentProgress())
    return out, settings


@pytest.fixture
def killed(uninterrupted: Run, training: Any, tmp_path: Path) -> Path:
    """A run that was killed in step 10: its newest state is of step 8, the one before of 4."""
    _, settings = uninterrupted
    with pytest.raises(_KilledError):
        train(settings, tmp_path / "run", training.Watcher(10, _die))
    return tmp_path / "run"


# --- kill -9


@pytest.fixture(scope="module")
def start(
    tmp_path_factory: pytest.TempPathFactory, one_thread: None
) -> Callable[..., multiprocessing.Process]:
    """`start(settings, out, progress, resume=False)`: the run in a process that can be killed."""
    context = multiprocessing.get_context("forkserver")
    # Imported once; each process is then a fork that starts at once.
    context.set_forkserver_preload(
        ["moonshine_tune.training.run", "peft", "accelerate", "transformers", "tests.training_runs"]
    )
    cache = tmp_path_factory.mktemp("killed-cache")
    patch = pytest.MonkeyPatch()
    patch.setenv("OMP_NUM_THREADS", "1")
    patch.setenv("MOONSHINE_TUNE_CACHE", str(cache))

    def start_run(
        settings: ResolvedSettings,
        out: Path,
        progress: Progress | None = None,
        *,
        resume: bool = False,
    ) -> Any:
        process = context.Process(
            target=train,
            args=(settings, out, progress or SilentProgress()),
            kwargs={"resume": resume},
        )
        process.start()
        return process

    yield start_run
    patch.undo()


def _last_step(out: Path) -> int:
    """The last step in the log; a line that is being written does not count."""
    path = out / "metrics.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
    return json.loads(lines[-1])["step"] if lines else -1


@pytest.mark.parametrize("sites", ["decoder", "all"])
def test_kill_9_at_random_moments_changes_nothing(
    training: Any, tmp_path: Path, start: Callable[..., Any], sites: str
) -> None:
    """The state is saved after every step, so that kills often come while it is written."""
    settings = training.settings(
        "canary", "replay", train__steps=24, select__every_steps=6, select__patience=99,
        train__save_every_minutes=1e-6, device__state_storage="disk", adapter__sites=sites,
    )  # fmt: skip
    for name in ("warm", "uninterrupted"):
        process = start(settings, tmp_path / name)
        process.join()
        assert process.exitcode == 0
    rng = random.Random(20_07)
    out = tmp_path / "killed"
    for step in (rng.randint(2, 8), rng.randint(12, 20)):
        # The run waits two steps later at the latest: no kill can come too late.
        process = start(settings, out, StopsAt(step + 2), resume=out.exists())
        while _last_step(out) < step:
            assert process.is_alive()
            process.join(0.005)
        process.join(rng.uniform(0, 0.05))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert step <= _last_step(out) <= step + 2
    last = start(settings, out, resume=True)
    last.join()
    assert last.exitcode == 0
    assert training.is_same(out, tmp_path / "uninterrupted")
    # Nothing half-written stays behind.
    assert {path.name for path in out.iterdir()} == {
        path.name for path in (tmp_path / "uninterrupted").iterdir()
    }


# --- a damaged state


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip(path: Path) -> None:
    """One bit: safetensors reads such a file without an error."""
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
def test_a_damaged_state_is_detected_and_the_one_before_is_used(
    uninterrupted: Run,
    killed: Path,
    training: Any,
    name: str,
    damage: Any,
) -> None:
    out, settings = uninterrupted
    path = killed / "state" / name
    # The previous state shares no file with this one: it must survive.
    damage(path)
    watcher = training.Watcher()
    train(settings, killed, watcher, resume=True)
    assert "the newest saved state is damaged: resuming from step 4 instead" in watcher.messages
    assert training.is_same(killed, out)


def test_a_complete_state_is_used_without_a_message(
    uninterrupted: Run, killed: Path, training: Any
) -> None:
    out, settings = uninterrupted
    counters = json.loads((killed / "state" / "state.json").read_text())["counters"]
    # From other drafts the next score might round otherwise.
    assert set(counters["drafts"]) == {"dev", "canary"}
    assert len(counters["drafts"]["dev"]) == len((training.speech / "dev.jsonl").open().readlines())
    watcher = training.Watcher()
    train(settings, killed, watcher, resume=True)
    assert not [line for line in watcher.messages if "damaged" in line]
    time = json.loads((killed / "run.json").read_text())["result"]["time"]
    assert time["baseline"] >= round(counters["time"]["baseline"], 1)
    assert training.is_same(killed, out)


def test_two_damaged_states_are_one_plain_error(uninterrupted: Run, killed: Path) -> None:
    _, settings = uninterrupted
    _cut(killed / "state" / "state.safetensors")
    _flip(killed / "state" / "previous" / "state.safetensors")
    log = (killed / "metrics.jsonl").read_bytes()
    with pytest.raises(RequestError, match="no earlier one is complete") as caught:
        train(settings, killed, SilentProgress(), resume=True)
    assert "--out" in (caught.value.hint or "")
    assert (killed / "metrics.jsonl").read_bytes() == log


@pytest.mark.parametrize("mark", ["partial", "old"])
def test_a_kill_between_the_renames_of_a_save_loses_nothing(
    uninterrupted: Run, killed: Path, training: Any, mark: str
) -> None:
    out, settings = uninterrupted
    (killed / "state").rename(killed / f".state.{mark}-abc12345")
    train(settings, killed, SilentProgress(), resume=True)
    assert training.is_same(killed, out)
    assert not list(killed.glob(".state*"))


def test_an_adapter_folder_that_was_lost_in_its_swap_is_restored(
    uninterrupted: Run, killed: Path, training: Any
) -> None:
    out, settings = uninterrupted
    shutil.rmtree(killed / "adapter")
    # At step 11 nothing is scored again yet: the adapter is the one that the state restored.
    train(settings, killed, training.Watcher.interrupting(11), resume=True)
    state = json.loads((killed / "state" / "state.json").read_text())
    chosen = json.loads((killed / "adapter" / "selection.json").read_text())
    # The scores of the state, and what they are of.
    assert chosen.pop("sha256") == adapter_checksums(killed / "adapter")
    assert chosen == state["counters"]["best"]
    train(settings, killed, SilentProgress(), resume=True)
    assert training.is_same(killed, out)


def test_a_run_that_was_killed_before_it_saved_anything_starts_anew(
    uninterrupted: Run, killed: Path, training: Any
) -> None:
    out, settings = uninterrupted
    shutil.rmtree(killed / "state")
    watcher = training.Watcher()
    train(settings, killed, watcher, resume=True)
    assert any("nothing was saved yet" in line for line in watcher.messages)
    assert training.is_same(killed, out)


def test_the_state_does_not_grow_with_the_steps(training: Any, tmp_path: Path) -> None:
    settings = training.settings(train__steps=60, select__every_steps=60)
    sizes = []
    for step in (10, 50):
        watcher = training.Watcher.interrupting(step if not sizes else step - 10)
        train(settings, tmp_path / "run", watcher, resume=bool(sizes))
        sizes.append((tmp_path / "run" / "state" / "state.json").stat().st_size)
    assert abs(sizes[1] - sizes[0]) < 200


# --- other ends


def test_sigterm_is_a_clean_stop(uninterrupted: Run, training: Any, tmp_path: Path) -> None:
    out, settings = uninterrupted
    part = tmp_path / "run"
    result = train(settings, part, training.Watcher(6, lambda: signal.raise_signal(signal.SIGTERM)))
    assert (result.stopped, result.steps) == ("interrupted", 6)
    assert json.loads((part / "state" / "state.json").read_text())["step"] == 6
    train(settings, part, SilentProgress(), resume=True)
    assert training.is_same(part, out)


def test_a_second_interrupt_while_the_state_is_written_leaves_the_last_one(
    uninterrupted: Run,
    training: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, settings = uninterrupted
    real = resume_module.save_file

    def interrupted(tensors: Any, path: Path) -> None:
        real(tensors, path)
        if len(list((part / "state").glob("*"))) == 3:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    part = tmp_path / "run"
    monkeypatch.setattr(resume_module, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(settings, part, SilentProgress())
    monkeypatch.undo()
    assert not list(part.glob(".state*"))
    assert json.loads((part / "state" / "state.json").read_text())["step"] == 4
    train(settings, part, SilentProgress(), resume=True)
    assert training.is_same(part, out)


@pytest.mark.parametrize("where", ["state", "adapter", "log"])
def test_a_full_disk_is_a_plain_error_and_the_last_state_loads(
    uninterrupted: Run,
    training: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    out, settings = uninterrupted
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

    if where == "state":
        monkeypatch.setattr(
            resume_module, "save_file", full_later(resume_module.save_file, SafetensorError(_FULL))
        )
    elif where == "adapter":
        # Only the best adapter so far is written: every score is a new best.
        monkeypatch.setattr(trainer_module.SelectionRule, "is_better", lambda *_: True)
        real = trainer_module.save_adapter
        monkeypatch.setattr(
            trainer_module, "save_adapter", full_later(real, SafetensorError(_FULL))
        )
    else:
        logger = loggers_module.TensorBoardLogger
        monkeypatch.setattr(
            logger, "_write", full_later(logger._write, MachineError("the disk is full"))
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
    real = objective_module.head_cross_entropy_sum
    monkeypatch.setattr(
        objective_module, "head_cross_entropy_sum", lambda *given: real(*given) * float("nan")
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


def test_random_numbers_do_not_depend_on_earlier_draws(
    uninterrupted: Run, training: Any, tmp_path: Path
) -> None:
    """The dropout masks of a step depend on the seed and the step alone."""
    out, settings = uninterrupted
    torch.manual_seed(99)
    train(settings, tmp_path / "run", SilentProgress())
    assert training.is_same(tmp_path / "run", out)


# --- refusals, and states of the version before


def test_the_hypotheses_of_an_older_state_are_read(
    uninterrupted: Run, killed: Path, training: Any
) -> None:
    """Their key was `first_heard`; without them the canary would get other references."""
    out, settings = uninterrupted
    path = killed / "state" / "state.json"
    document = json.loads(path.read_text())
    hypotheses = document["counters"].pop("baseline_hypotheses")
    assert set(hypotheses) == {"canary-0", "canary-1", "canary-2"}
    document["counters"]["first_heard"] = hypotheses
    path.write_text(json.dumps(document))
    train(settings, killed, SilentProgress(), resume=True)
    assert training.is_same(killed, out)


@pytest.mark.parametrize("record", [{"command": ["evaluate"]}, {"job": "evaluate", "settings": {}}])
def test_the_folder_of_another_command_is_refused(
    training: Any, tmp_path: Path, record: dict[str, Any]
) -> None:
    (tmp_path / "run.json").write_text(json.dumps(record))
    with pytest.raises(RequestError, match="not made by `moonshine-tune train`"):
        train(training.settings(), tmp_path, SilentProgress(), resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


# --- the base


def test_a_resume_finds_a_relative_base_from_another_folder(
    training: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, out = tmp_path / "work", tmp_path / "work" / "runs" / "a"
    shutil.copytree(training.model, work / "models" / "small")
    monkeypatch.chdir(work)
    content = training.content() | {"model": "models/small"}
    train(resolve(content, train__steps=2), out, SilentProgress())
    monkeypatch.chdir(tmp_path)
    train(resolve(content, train__steps=4), out, SilentProgress(), resume=True)
    assert training.lines(out)[-1]["step"] == 4
    # A record of an earlier version has the hash of the file alone.
    record = json.loads((out / "run.json").read_text())
    for key in ("content_sha256", "sign_sha256", "precision", "path"):
        del record["base"][key]
    (out / "run.json").write_text(json.dumps(record))
    train(resolve(content, train__steps=6), out, SilentProgress(), resume=True)
    assert training.lines(out)[-1]["step"] == 6
