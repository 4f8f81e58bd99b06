"""The training job on small random models: its folder, its stop and resume, its refusals."""

import json
import math
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from moonshine_tune.config.resolve import ResolvedSettings, resolve_settings
from moonshine_tune.core.errors import MachineError, RequestError
from moonshine_tune.core.progress import SilentProgress, Stage
from moonshine_tune.models.checkpoint import load_checkpoint
from moonshine_tune.models.files import ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE
from moonshine_tune.models.lora import load_adapter
from moonshine_tune.models.losses import head_cross_entropy_sum
from moonshine_tune.training import trainer as trainer_module
from moonshine_tune.training.finish import TrainResult
from moonshine_tune.training.run import train

pytestmark = pytest.mark.usefixtures("one_thread")

Content = dict[str, Any]


class _Watcher(SilentProgress):
    """Progress that keeps what was said and acts when a given training step is done."""

    def __init__(self, *, step: int = 0, act: Callable[[], None] | None = None) -> None:
        self.said: list[str] = []
        self._step, self._act = step, act

    def say(self, text: str) -> None:
        self.said.append(text)

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Stage]:
        yield _Counting(self._step, self._act if name == "training" else None)


class _Counting:
    def __init__(self, step: int, act: Callable[[], None] | None) -> None:
        self._left, self._act = step, act

    def advance(self, steps: int = 1, note: str = "") -> None:
        self._left -= steps
        if steps and self._left == 0 and self._act:
            self._act()


def _interrupted(step: int) -> _Watcher:
    """Ctrl-C while step `step` is under way: a real signal, caught by the real handler."""
    return _Watcher(step=step, act=lambda: signal.raise_signal(signal.SIGINT))


@pytest.fixture(params=["streaming", "v1"])
def model_folder(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(f"saved_{request.param}")
    return found


def _content(model: Path, speech: Path, *names: str) -> Content:
    """Twelve steps with dropout, so that the random generators matter too."""
    return {
        "model": str(model),
        "data": {name: str(speech / f"{name}.jsonl") for name in ("train", "dev", *names)},
        "adapter": {"rank": 4, "dropout": 0.1},
        "train": {"steps": 12, "batch_size": 4, "learning_rate": 5e-3, "seed": 3},
        "select": {"every_steps": 4},
        "device": {"name": "cpu"},
    }


def _with(content: Content, **changes: Any) -> ResolvedSettings:
    nested: Content = {}
    for key, value in changes.items():
        section, _, name = key.partition("__")
        nested.setdefault(section, {})[name] = value
    return resolve_settings([("test", content), ("--set", nested)])


def _lines(out: Path) -> list[Content]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def _steps(out: Path) -> list[tuple[int, float, float, float]]:
    return [
        (line["step"], line["loss"], line.get("replay_kl", 0.0), line["gradient_norm"])
        for line in _lines(out)
        if "loss" in line
    ]


def _scores(out: Path) -> list[tuple[int, float, float | None]]:
    return [
        (line["step"], line["dev_wer"], line["canary_wer"])
        for line in _lines(out)
        if "dev_wer" in line
    ]


def _shown(out: Path, name: str) -> list[int]:
    """The steps at which TensorBoard shows a number."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    return [item.step for item in events.Scalars(name)]


def _weights(out: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(out / "adapter" / ADAPTER_WEIGHTS_FILE))


def _same_adapter(first: Path, second: Path) -> bool:
    one, other = _weights(first), _weights(second)
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


# --- a whole run


@pytest.fixture(scope="module", params=["streaming", "v1"])
def finished(
    request: pytest.FixtureRequest,
    speech_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
    one_thread: None,
) -> tuple[Path, TrainResult, Content]:
    """A run to its end with canary and replay; the others are compared with it. Read only."""
    model: Path = request.getfixturevalue(f"saved_{request.param}")
    content = _content(model, speech_folder, "canary", "replay")
    out = tmp_path_factory.mktemp("runs") / request.param
    return out, train(resolve_settings([("test", content)]), out, SilentProgress()), content


Finished = tuple[Path, TrainResult, Content]


def test_the_run_folder_is_complete(finished: Finished) -> None:
    out, result, content = finished
    assert {path.name for path in out.iterdir()} == {
        "run.json", "metrics.jsonl", "tensorboard", "adapter", "state", "eval"
    }  # fmt: skip
    assert {path.name for path in result.adapter.iterdir()} == {
        ADAPTER_WEIGHTS_FILE, ADAPTER_CONFIG_FILE, "base_model.json", "selection.json"
    }  # fmt: skip
    assert list((out / "tensorboard").glob("events.*"))
    assert (result.stopped, result.steps, result.skipped_steps) == ("finished", 12, 0)
    record = json.loads((out / "run.json").read_text())
    assert (record["status"], record["seed"], record["schema_version"]) == ("finished", 3, 1)
    assert record["settings"]["train"]["learning_rate"] == 5e-3
    assert record["sources"]["train.learning_rate"] == "test"
    assert "train.warmup_share" not in record["sources"]
    assert set(record["data"]) == {"train", "dev", "canary", "replay"}
    assert record["base"]["name"] == Path(content["model"]).name
    assert record["adapter"]["modules"] == 20
    assert record["result"]["steps"] == 12
    assert "train: kept 8 of 8" in record["remarks"]


def test_a_run_holds_no_secret_and_nothing_that_names_the_machine(
    saved_v1: Path, speech_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "planted-machine")
    monkeypatch.setattr("platform.node", lambda: "planted-machine")
    for name in ("HF_TOKEN", "USER", "LOGNAME", "HOSTNAME"):
        monkeypatch.setenv(name, "planted-secret")
    train(_with(_content(saved_v1, speech_folder, "replay")), tmp_path / "run", SilentProgress())
    for path in (tmp_path / "run").rglob("*"):
        assert "planted" not in path.name
        if path.is_file():
            assert b"planted" not in path.read_bytes(), path


def test_every_step_is_logged(finished: Finished) -> None:
    out, _, _ = finished
    steps = [line for line in _lines(out) if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 13))
    for line in steps:
        assert {"loss", "replay_kl", "gradient_norm", "learning_rate", "step_seconds",
                "skipped_steps", "memory_resident_mb", "memory_device_mb"} <= set(line)  # fmt: skip
        assert line["loss"] > 0
        assert line["replay_kl"] >= -1e-6
    rates = [line["learning_rate"] for line in steps]
    assert max(rates) == pytest.approx(5e-3, rel=0.01)
    assert rates[0] < max(rates) > rates[-1] > 0
    assert [step for step, _, _ in _scores(out)] == [0, 4, 8, 12]


def test_the_loss_falls_and_the_base_is_not_pulled_at_first(finished: Finished) -> None:
    out, result, _ = finished
    assert result.last_loss < result.first_loss
    # B is zero before the first step: the adapted model is the teacher, up to dropout of nothing.
    assert _steps(out)[0][2] == pytest.approx(0, abs=1e-4)


def test_the_tensorboard_file_holds_the_same_numbers(finished: Finished) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out, _, _ = finished
    assert _shown(out, "dev/wer") == [0, 4, 8, 12]
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    shown = [(item.step, item.value) for item in events.Scalars("loss")]
    assert [step for step, _ in shown] == list(range(1, 13))
    for (_, value), (_, loss, _, _) in zip(shown, _steps(out), strict=True):
        assert value == pytest.approx(loss, rel=1e-5)


def test_the_adapter_on_disk_is_the_chosen_one(finished: Finished) -> None:
    out, result, content = finished
    chosen = json.loads((out / "adapter" / "selection.json").read_text())
    assert chosen == result.best.to_record()
    assert chosen["strength"] in (1.0, 0.8, 0.6)
    config = json.loads((out / "adapter" / ADAPTER_CONFIG_FILE).read_text())
    assert config["lora_alpha"] == pytest.approx(16 * chosen["strength"])
    heard = [json.loads(line) for line in (out / "eval" / "dev.jsonl").read_text().splitlines()]
    assert [line["id"] for line in heard] == ["dev-0", "dev-1", "dev-2"]
    errors = sum(
        line[key] for line in heard for key in ("substitutions", "deletions", "insertions")
    )
    words = sum(line["reference_words"] for line in heard)
    assert 100 * errors / words == pytest.approx(chosen["dev_wer"])
    model = load_checkpoint(Path(content["model"]))
    assert load_adapter(model, out) == out / "adapter"


def test_the_canary_is_scored_against_what_the_base_hears(finished: Finished) -> None:
    """Its lines have no text: the base is right by definition."""
    out, result, _ = finished
    assert result.baseline.canary_wer == 0.0
    assert _scores(out)[0] == (0, result.baseline.dev_wer, 0.0)
    # The rate is high enough that some adapter of the run hears something else.
    assert max(score[2] or 0.0 for score in _scores(out)) > 0


def test_the_same_seed_gives_the_same_run(finished: Finished, tmp_path: Path) -> None:
    out, _, content = finished
    # A run may not depend on what else this process has drawn before.
    torch.manual_seed(1234)
    train(resolve_settings([("test", content)]), tmp_path / "again", SilentProgress())
    assert _steps(tmp_path / "again") == _steps(out)
    assert _same_adapter(tmp_path / "again", out)


def test_another_seed_gives_another_run(finished: Finished, tmp_path: Path) -> None:
    out, _, content = finished
    train(_with(content, train__seed=4), tmp_path / "other", SilentProgress())
    assert _steps(tmp_path / "other") != _steps(out)


# --- stop and resume


@pytest.mark.parametrize("stop_at", [6, 2])
def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(
    finished: Finished, tmp_path: Path, stop_at: int
) -> None:
    """Once after the first dev score, once before it."""
    out, whole, content = finished
    settings = resolve_settings([("test", content)])
    part = tmp_path / "part"
    stopped = train(settings, part, _interrupted(stop_at))
    assert (stopped.stopped, stopped.steps) == ("interrupted", stop_at)
    assert json.loads((part / "run.json").read_text())["status"] == "interrupted"
    assert (part / "adapter" / ADAPTER_WEIGHTS_FILE).is_file()
    assert [line[0] for line in _steps(part)] == list(range(1, stop_at + 1))

    torch.manual_seed(77)
    result = train(settings, part, SilentProgress(), resume=True)
    assert result.stopped == "finished"
    assert _steps(part) == _steps(out)
    assert _scores(part) == _scores(out)
    assert result.best == whole.best
    assert result.baseline == whole.baseline
    assert (result.first_loss, result.last_loss) == (whole.first_loss, whole.last_loss)
    assert _same_adapter(part, out)


class _KilledError(Exception):
    """Stands in for the end of the process."""


def _die() -> None:
    raise _KilledError


def test_a_killed_run_goes_on_from_its_last_saved_state(finished: Finished, tmp_path: Path) -> None:
    """Its log knows steps that its state does not, and its last line may be cut off."""
    out, whole, content = finished
    part = tmp_path / "part"
    settings = resolve_settings([("test", content)])
    with pytest.raises(_KilledError):
        train(settings, part, _Watcher(step=7, act=_die))
    assert json.loads((part / "state" / "state.json").read_text())["step"] == 4
    assert [line[0] for line in _steps(part)] == list(range(1, 8))
    with (part / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "lo')
    assert _shown(part, "loss") == list(range(1, 8))
    result = train(settings, part, SilentProgress(), resume=True)
    assert _steps(part) == _steps(out)
    assert _scores(part) == _scores(out)
    assert result.best == whole.best
    assert _same_adapter(part, out)
    assert _shown(part, "loss") == list(range(1, 13))


def test_a_finished_run_can_be_resumed_and_stays_as_it_is(
    finished: Finished, tmp_path: Path
) -> None:
    out, whole, content = finished
    copied = tmp_path / "copy"
    shutil.copytree(out, copied)
    settings = resolve_settings([("test", content)])
    result = train(settings, copied, SilentProgress(), resume=True)
    assert (result.stopped, result.steps, result.best) == ("finished", 12, whole.best)
    assert _same_adapter(copied, out)
    assert _steps(copied) == _steps(out)


def test_the_board_of_a_resumed_run_shows_each_step_once(
    finished: Finished, tmp_path: Path
) -> None:
    _, _, content = finished
    settings = resolve_settings([("test", content)])
    train(settings, tmp_path / "part", _interrupted(6))
    train(settings, tmp_path / "part", SilentProgress(), resume=True)
    assert _shown(tmp_path / "part", "loss") == list(range(1, 13))


def test_the_first_interrupt_saves_and_the_second_one_forces(
    finished: Finished, tmp_path: Path
) -> None:
    _, _, content = finished

    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(resolve_settings([("test", content)]), tmp_path / "part", _Watcher(step=3, act=twice))
    assert signal.getsignal(signal.SIGINT) is before


# --- stopping by itself


def test_scores_without_a_new_best_end_the_run(
    saved_v1: Path, speech_folder: Path, tmp_path: Path
) -> None:
    settings = _with(
        _content(saved_v1, speech_folder),
        select__every_steps=1, select__patience=2, train__steps=50, train__learning_rate=1e-9,
    )  # fmt: skip
    result = train(settings, tmp_path / "run", SilentProgress())
    # The first score is the best so far by definition; two that are not better follow.
    assert (result.stopped, result.steps) == ("early stop", 3)
    assert result.best.step == 1


def test_single_steps_that_are_not_finite_are_left_out_and_counted(
    saved_v1: Path, speech_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = head_cross_entropy_sum, []

    def sometimes_nan(*given: Any) -> torch.Tensor:
        calls.append(1)
        return real(*given) * (float("nan") if len(calls) in (3, 4, 7) else 1.0)

    monkeypatch.setattr(trainer_module, "head_cross_entropy_sum", sometimes_nan)
    settings = _with(_content(saved_v1, speech_folder), train__max_skipped_steps=3)
    result = train(settings, tmp_path / "run", SilentProgress())
    assert (result.stopped, result.steps, result.skipped_steps) == ("finished", 12, 3)
    assert [line["skipped_steps"] for line in _lines(tmp_path / "run") if "loss" in line] == [
        0, 0, 1, 2, 2, 2, 3, 3, 3, 3, 3, 3
    ]  # fmt: skip
    assert all(value.isfinite().all() for value in _weights(tmp_path / "run").values())
    assert math.isfinite(result.last_loss)


def test_many_such_steps_in_a_row_end_the_run_with_everything_saved(
    saved_v1: Path, speech_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = head_cross_entropy_sum, []

    def nan_from_the_sixth(*given: Any) -> torch.Tensor:
        calls.append(1)
        return real(*given) * (float("nan") if len(calls) > 5 else 1.0)

    monkeypatch.setattr(trainer_module, "head_cross_entropy_sum", nan_from_the_sixth)
    out = tmp_path / "run"
    settings = _with(_content(saved_v1, speech_folder), train__max_skipped_steps=4)
    with pytest.raises(MachineError, match="4 steps in a row gave non-finite") as caught:
        train(settings, out, SilentProgress())
    assert caught.value.exit_code == 3
    assert "train.learning_rate" in (caught.value.hint or "")
    # Every line of the log is JSON that any reader takes: NaN is not.
    for line in (out / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} in metrics.jsonl"))
    assert all(value.isfinite().all() for value in _weights(out).values())
    assert json.loads((out / "state" / "state.json").read_text())["step"] == 9
    assert _shown(out, "skipped/steps") == list(range(1, 10))


# --- memory


def test_out_of_memory_halves_the_micro_batch_and_keeps_the_step(
    saved_v1: Path, speech_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = _content(saved_v1, speech_folder, "replay")
    content["adapter"]["dropout"] = 0.0
    settings = resolve_settings([("test", content)])
    train(settings, tmp_path / "plain", SilentProgress())

    real = head_cross_entropy_sum

    def full_above_two(hidden: torch.Tensor, *rest: Any) -> torch.Tensor:
        if len(hidden) > 2:
            raise RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)")
        return real(hidden, *rest)

    monkeypatch.setattr(trainer_module, "head_cross_entropy_sum", full_above_two)
    watcher = _Watcher()
    result = train(settings, tmp_path / "small", watcher)
    assert (result.stopped, result.steps, result.skipped_steps) == ("finished", 12, 0)
    assert any("going on with 2 clips at a time" in said for said in watcher.said)
    for one, other in zip(_steps(tmp_path / "plain"), _steps(tmp_path / "small"), strict=True):
        assert other[0] == one[0]
        assert other[1] == pytest.approx(one[1], rel=1e-3)


def test_one_clip_that_does_not_fit_is_named(
    saved_v1: Path, speech_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_given: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(trainer_module, "head_cross_entropy_sum", full)
    settings = _with(_content(saved_v1, speech_folder))
    with pytest.raises(MachineError, match=r"longest clip of step 1 is train-\d"):
        train(settings, tmp_path / "run", SilentProgress())


def test_another_runtime_error_is_not_taken_for_memory(
    saved_v1: Path, speech_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_given: Any) -> torch.Tensor:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(trainer_module, "head_cross_entropy_sum", broken)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        train(_with(_content(saved_v1, speech_folder)), tmp_path / "run", SilentProgress())


# --- other ways through the loop


@pytest.mark.parametrize(
    "changes",
    [
        {"adapter__sites": "all"},
        {"adapter__sites": "all", "train__gradient_checkpointing": True},
        {"train__gradient_checkpointing": True},
        {"device__state_cache_mb": 0},
        {"device__dtype": "bfloat16"},
        {"device__frozen_weights": "bfloat16"},
        {"device__frozen_weights": "bfloat16", "device__dtype": "bfloat16"},
        {"train__stages": [{"steps": 2, "max_clip_s": 0.8}, {"steps": 2, "max_clip_s": 30}]},
    ],
    ids=lambda changes: "+".join(f"{k.partition('__')[2]}" for k in changes),
)
def test_settings_of_the_loop_train(
    model_folder: Path, speech_folder: Path, tmp_path: Path, changes: Content
) -> None:
    content = _content(model_folder, speech_folder, "replay")
    # A tame rate: half precision and the encoder's sites are in it too.
    settings = _with(content, train__steps=8, train__learning_rate=3e-3, **changes)
    result = train(settings, tmp_path / "run", SilentProgress())
    assert (result.steps, result.skipped_steps) == (8, 0)
    losses = [loss for _, loss, _, _ in _steps(tmp_path / "run")]
    # Both halves see every clip once, so their means can be compared.
    if "train__stages" not in changes:
        assert sum(losses[4:]) < sum(losses[:4])
    moved = [value for name, value in _weights(tmp_path / "run").items() if "lora_B" in name]
    assert all(value.any() for value in moved)
    assert {value.dtype for value in moved} == {torch.float32}


@pytest.mark.parametrize(
    "changes", [{"device__state_cache_mb": 0}, {"train__gradient_checkpointing": True}]
)
def test_how_memory_is_saved_does_not_change_the_run(
    model_folder: Path, speech_folder: Path, tmp_path: Path, changes: Content
) -> None:
    content = _content(model_folder, speech_folder, "replay")
    content["adapter"]["dropout"] = 0.0
    content["train"]["steps"] = 4
    train(_with(content), tmp_path / "one", SilentProgress())
    train(_with(content, **changes), tmp_path / "two", SilentProgress())
    for one, other in zip(_steps(tmp_path / "one"), _steps(tmp_path / "two"), strict=True):
        assert other[1] == pytest.approx(one[1], rel=1e-4)
        assert other[3] == pytest.approx(one[3], rel=1e-3)


def test_without_a_dev_manifest_speakers_are_held_out(
    saved_v1: Path, speech_folder: Path, tmp_path: Path
) -> None:
    content = _content(saved_v1, speech_folder)
    del content["data"]["dev"]
    content["data"]["dev_share"] = 0.25
    result = train(_with(content, train__steps=2), tmp_path / "run", SilentProgress())
    assert any("held 2 of 8 utterances out" in remark for remark in result.remarks)
    assert any("train: kept 6 of 6" in remark for remark in result.remarks)


def test_clips_that_are_left_out_are_counted(
    saved_v1: Path, speech_folder: Path, tmp_path: Path
) -> None:
    settings = _with(_content(saved_v1, speech_folder), data__max_clip_s=1.0, train__steps=2)
    result = train(settings, tmp_path / "run", SilentProgress())
    remark = next(remark for remark in result.remarks if remark.startswith("train:"))
    kept = int(remark.split()[2])
    assert remark == f"train: kept {kept} of 8: {8 - kept} longer than 1 s"
    assert 0 < kept < 8


# --- refusals


def test_a_folder_with_something_in_it_is_refused(
    saved_v1: Path, speech_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(RequestError, match="not empty") as caught:
        train(_with(_content(saved_v1, speech_folder)), tmp_path / "run", SilentProgress())
    assert "--resume" in (caught.value.hint or "")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes.txt"]


def test_there_is_nothing_to_resume(saved_v1: Path, speech_folder: Path, tmp_path: Path) -> None:
    settings = _with(_content(saved_v1, speech_folder))
    with pytest.raises(RequestError, match=r"run\.json is missing"):
        train(settings, tmp_path / "run", SilentProgress(), resume=True)
    assert not (tmp_path / "run").exists()


@pytest.fixture
def stopped(saved_v1: Path, speech_folder: Path, tmp_path: Path) -> tuple[Path, Content]:
    """A run that was stopped after step 4, on manifests and a model that may be changed."""
    speech, model = tmp_path / "speech", tmp_path / "model"
    shutil.copytree(speech_folder, speech)
    shutil.copytree(saved_v1, model)
    content = _content(model, speech)
    train(_with(content), tmp_path / "run", _interrupted(4))
    return tmp_path / "run", content


def test_changed_manifests_are_refused_at_a_resume(stopped: tuple[Path, Content]) -> None:
    out, content = stopped
    manifest = Path(content["data"]["train"])
    manifest.write_text(manifest.read_text().replace("two cities", "two towns"))
    before = (out / "metrics.jsonl").read_bytes()
    with pytest.raises(RequestError, match=r"since this run began: train$"):
        train(_with(content), out, SilentProgress(), resume=True)
    assert (out / "metrics.jsonl").read_bytes() == before


def test_a_manifest_that_is_left_out_is_refused_at_a_resume(stopped: tuple[Path, Content]) -> None:
    out, content = stopped
    content["data"]["dev"] = None
    with pytest.raises(RequestError, match=r"since this run began: dev$"):
        train(_with(content), out, SilentProgress(), resume=True)


def test_a_manifest_that_is_new_is_refused_at_a_resume(stopped: tuple[Path, Content]) -> None:
    out, content = stopped
    content["data"]["canary"] = str(Path(content["data"]["dev"]).parent / "canary.jsonl")
    with pytest.raises(RequestError, match=r"since this run began: canary$"):
        train(_with(content), out, SilentProgress(), resume=True)


def test_another_base_model_is_refused_at_a_resume(
    stopped: tuple[Path, Content], build_model: Any, save_model: Any
) -> None:
    out, content = stopped
    shutil.rmtree(content["model"])
    save_model(build_model("v1", seed=9), Path(content["model"]))
    with pytest.raises(RequestError, match="another base model"):
        train(_with(content), out, SilentProgress(), resume=True)


def test_another_rank_is_refused_at_a_resume(stopped: tuple[Path, Content]) -> None:
    out, content = stopped
    with pytest.raises(RequestError, match="another shape"):
        train(_with(content, adapter__rank=8), out, SilentProgress(), resume=True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data__train": None}, "no training manifest"),
        ({"data__train": "nowhere.jsonl"}, "no such manifest"),
        ({"data__max_clip_s": 0.01}, "nothing is left to use"),
        ({"data__normalizer": "english-9"}, "no normalizer"),
        ({"train__stages": [{"steps": 2, "max_clip_s": 0.01}]}, "no clip is as short"),
    ],
)
def test_wrong_requests_leave_no_run_behind(
    saved_v1: Path, speech_folder: Path, tmp_path: Path, changes: Content, words: str
) -> None:
    """The same --out can be used once the request is mended."""
    settings = _with(_content(saved_v1, speech_folder), **changes)
    with pytest.raises(RequestError, match=words):
        train(settings, tmp_path / "run", SilentProgress())
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").iterdir())
