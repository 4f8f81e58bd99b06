"""The training job on small random models: its folder, stop and resume, its refusals."""

import json
import math
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from safetensors.torch import load_file
from tests.training_runs import Training, Watcher, resolve

from moonshine_tune.core.errors import MachineError, ProblemsError, RequestError
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.inference.scored_set import ScoredSet
from moonshine_tune.models.checkpoint import load_checkpoint
from moonshine_tune.models.files import ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE
from moonshine_tune.models.lora import load_adapter
from moonshine_tune.models.losses import head_cross_entropy_sum
from moonshine_tune.runs.folder import RunFolder
from moonshine_tune.runs.kept_adapter import altered_adapter
from moonshine_tune.training import objective as objective_module
from moonshine_tune.training.result import TrainResult
from moonshine_tune.training.run import train

pytestmark = pytest.mark.usefixtures("one_thread")

Content = dict[str, Any]


@pytest.fixture(params=["streaming", "v1"])
def both(request: pytest.FixtureRequest) -> Training:
    """The test runs twice: with the small model of each family."""
    name = "training" if request.param == "v1" else "streaming_training"
    runs: Training = request.getfixturevalue(name)
    return runs


def _shown(out: Path, name: str) -> list[int]:
    """The steps at which TensorBoard shows a number."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    return [item.step for item in events.Scalars(name)]


def _weights(out: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(out / "adapter" / ADAPTER_WEIGHTS_FILE))


# --- a complete run


@pytest.fixture(scope="module", params=["streaming", "v1"])
def finished(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    one_thread: None,
) -> tuple[Path, TrainResult, Content]:
    """A complete run with canary and replay; the others are compared with it. Read only."""
    name = "training" if request.param == "v1" else "streaming_training"
    content = request.getfixturevalue(name).content("canary", "replay")
    out = tmp_path_factory.mktemp("runs") / request.param
    return out, train(resolve(content), out, SilentProgress()), content


Finished = tuple[Path, TrainResult, Content]


def test_the_run_folder_is_complete(finished: Finished) -> None:
    out, result, content = finished
    assert {path.name for path in out.iterdir()} == {
        "run.json", "metrics.jsonl", "recordings.jsonl", "tensorboard", "adapter", "state", "eval"
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
    training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "planted-machine")
    monkeypatch.setattr("platform.node", lambda: "planted-machine")
    for name in ("HF_TOKEN", "USER", "LOGNAME", "HOSTNAME"):
        monkeypatch.setenv(name, "planted-secret")
    train(training.settings("replay"), tmp_path / "run", SilentProgress())
    for path in (tmp_path / "run").rglob("*"):
        assert "planted" not in path.name
        if path.is_file():
            assert b"planted" not in path.read_bytes(), path


def test_every_step_is_logged(finished: Finished) -> None:
    out, _, _ = finished
    steps = [line for line in Training.lines(out) if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 13))
    for line in steps:
        assert {"loss", "replay_kl", "gradient_norm", "learning_rate", "step_seconds",
                "skipped_steps", "memory_resident_mb", "memory_device_mb"} <= set(line)  # fmt: skip
        assert line["loss"] > 0
        assert line["replay_kl"] >= -1e-6
    rates = [line["learning_rate"] for line in steps]
    assert max(rates) == pytest.approx(5e-3, rel=0.01)
    assert rates[0] < max(rates) > rates[-1] > 0
    assert [step for step, _, _ in Training.scores(out)] == [0, 4, 8, 12]


def test_the_loss_falls_and_the_first_step_equals_the_teacher(finished: Finished) -> None:
    out, result, _ = finished
    assert result.last_loss < result.first_loss
    # B is zero before the first step: the adapted model is the teacher, up to dropout of nothing.
    assert Training.steps(out)[0][2] == pytest.approx(0, abs=1e-4)


def test_the_tensorboard_file_holds_the_same_numbers(finished: Finished) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out, _, _ = finished
    assert _shown(out, "dev/wer") == [0, 4, 8, 12]
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    shown = [(item.step, item.value) for item in events.Scalars("loss")]
    assert [step for step, _ in shown] == list(range(1, 13))
    for (_, value), step in zip(shown, Training.steps(out), strict=True):
        assert value == pytest.approx(step[1], rel=1e-5)


def test_the_adapter_on_disk_is_the_chosen_one(finished: Finished) -> None:
    out, result, content = finished
    chosen = json.loads((out / "adapter" / "selection.json").read_text())
    assert chosen == result.best.to_json()
    assert chosen["strength"] in (1.0, 0.8, 0.6)
    config = json.loads((out / "adapter" / ADAPTER_CONFIG_FILE).read_text())
    assert config["lora_alpha"] == pytest.approx(16 * chosen["strength"])
    scored = [json.loads(line) for line in (out / "eval" / "dev.jsonl").read_text().splitlines()]
    assert [line["id"] for line in scored] == ["dev-0", "dev-1", "dev-2"]
    errors = sum(
        line[key] for line in scored for key in ("substitutions", "deletions", "insertions")
    )
    words = sum(line["reference_words"] for line in scored)
    assert 100 * errors / words == pytest.approx(chosen["dev_wer"])
    model = load_checkpoint(Path(content["model"]))
    assert load_adapter(model, out) == out / "adapter"


def test_the_references_of_the_canary_are_the_hypotheses_of_the_base(finished: Finished) -> None:
    """Its lines have no text: the base is right by definition."""
    out, result, _ = finished
    assert result.baseline.canary_wer == 0.0
    assert Training.scores(out)[0] == (0, result.baseline.dev_wer, 0.0)
    # The rate is high enough that some adapter of the run gives another transcript.
    assert max(score[2] or 0.0 for score in Training.scores(out)) > 0


def test_the_same_seed_gives_the_same_run(finished: Finished, tmp_path: Path) -> None:
    out, _, content = finished
    # A run may not depend on what else this process has drawn before.
    torch.manual_seed(1234)
    train(resolve(content), tmp_path / "again", SilentProgress())
    assert Training.is_same(tmp_path / "again", out)


def test_another_seed_gives_another_run(finished: Finished, tmp_path: Path) -> None:
    out, _, content = finished
    train(resolve(content, train__seed=4), tmp_path / "other", SilentProgress())
    assert Training.steps(tmp_path / "other") != Training.steps(out)


# --- stop and resume


@pytest.mark.parametrize("stop_at", [6, 2])
def test_a_stopped_run_continues_as_if_it_had_not_stopped(
    finished: Finished, tmp_path: Path, stop_at: int
) -> None:
    """Once after the first dev score, once before it."""
    out, expected, content = finished
    settings = resolve(content)
    part = tmp_path / "part"
    stopped = train(settings, part, Watcher.interrupting(stop_at))
    assert (stopped.stopped, stopped.steps) == ("interrupted", stop_at)
    assert json.loads((part / "run.json").read_text())["status"] == "interrupted"
    assert (part / "adapter" / ADAPTER_WEIGHTS_FILE).is_file()
    assert [line[0] for line in Training.steps(part)] == list(range(1, stop_at + 1))

    torch.manual_seed(77)
    result = train(settings, part, SilentProgress(), resume=True)
    assert result.stopped == "finished"
    assert Training.is_same(part, out)
    assert result.best == expected.best
    assert result.baseline == expected.baseline
    assert (result.first_loss, result.last_loss) == (expected.first_loss, expected.last_loss)


class _KilledError(Exception):
    """Stands in for the end of the process."""


def _die() -> None:
    raise _KilledError


def test_a_killed_run_continues_from_its_last_saved_state(
    finished: Finished, tmp_path: Path
) -> None:
    """Its log has steps that its state has not, and its last line may be cut off."""
    out, expected, content = finished
    part = tmp_path / "part"
    settings = resolve(content)
    with pytest.raises(_KilledError):
        train(settings, part, Watcher(7, _die))
    assert json.loads((part / "state" / "state.json").read_text())["step"] == 4
    assert [line[0] for line in Training.steps(part)] == list(range(1, 8))
    with (part / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "lo')
    assert _shown(part, "loss") == list(range(1, 8))
    result = train(settings, part, SilentProgress(), resume=True)
    assert Training.is_same(part, out)
    assert result.best == expected.best
    assert _shown(part, "loss") == list(range(1, 13))


def test_a_finished_run_can_be_resumed_and_stays_as_it_is(
    finished: Finished, tmp_path: Path
) -> None:
    out, expected, content = finished
    copied = tmp_path / "copy"
    shutil.copytree(out, copied)
    settings = resolve(content)
    result = train(settings, copied, SilentProgress(), resume=True)
    assert (result.stopped, result.steps, result.best) == ("finished", 12, expected.best)
    assert Training.is_same(copied, out)


def test_tensorboard_shows_each_step_of_a_resumed_run_once(
    finished: Finished, tmp_path: Path
) -> None:
    _, _, content = finished
    settings = resolve(content)
    train(settings, tmp_path / "part", Watcher.interrupting(6))
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
        train(resolve(content), tmp_path / "part", Watcher(3, twice))
    assert signal.getsignal(signal.SIGINT) is before


# --- stopping by itself


def test_scores_without_a_new_best_end_the_run(training: Training, tmp_path: Path) -> None:
    settings = training.settings(
        select__every_steps=1, select__patience=2, train__steps=50, train__learning_rate=1e-9
    )  # fmt: skip
    result = train(settings, tmp_path / "run", SilentProgress())
    # The first score is the best so far by definition; two that are not better follow.
    assert (result.stopped, result.steps) == ("early stop", 3)
    assert result.best.step == 1


def test_single_steps_that_are_not_finite_are_skipped_and_counted(
    training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = head_cross_entropy_sum, []

    def sometimes_nan(*given: Any) -> torch.Tensor:
        calls.append(1)
        return real(*given) * (float("nan") if len(calls) in (3, 4, 7) else 1.0)

    monkeypatch.setattr(objective_module, "head_cross_entropy_sum", sometimes_nan)
    settings = training.settings(train__max_skipped_steps=3)
    result = train(settings, tmp_path / "run", SilentProgress())
    assert (result.stopped, result.steps, result.skipped_steps) == ("finished", 12, 3)
    steps = [line for line in Training.lines(tmp_path / "run") if "loss" in line]
    assert [line["skipped_steps"] for line in steps] == [
        0, 0, 1, 2, 2, 2, 3, 3, 3, 3, 3, 3
    ]  # fmt: skip
    assert all(value.isfinite().all() for value in _weights(tmp_path / "run").values())
    assert math.isfinite(result.last_loss)


def test_many_of_them_in_a_row_end_the_run_with_everything_saved(
    training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = head_cross_entropy_sum, []

    def nan_from_the_sixth(*given: Any) -> torch.Tensor:
        calls.append(1)
        return real(*given) * (float("nan") if len(calls) > 5 else 1.0)

    monkeypatch.setattr(objective_module, "head_cross_entropy_sum", nan_from_the_sixth)
    out = tmp_path / "run"
    settings = training.settings(train__max_skipped_steps=4)
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


def test_a_training_that_diverged_keeps_the_adapter_and_state_before(
    training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, scores = ScoredSet.word_loss, []

    def nan_at_the_third(*given: Any) -> float:
        scores.append(real(*given))
        return scores[-1] if len(scores) < 3 else float("nan")

    monkeypatch.setattr(ScoredSet, "word_loss", nan_at_the_third)
    out = tmp_path / "run"
    settings = training.settings(select__every_steps=4)
    with pytest.raises(MachineError, match="loss on dev is not finite after step 8") as caught:
        train(settings, out, SilentProgress())
    assert "train.learning_rate" in (caught.value.hint or "")
    assert json.loads((out / "adapter" / "selection.json").read_text())["step"] == 4
    assert json.loads((out / "state" / "state.json").read_text())["step"] == 4


# --- other errors


def test_another_runtime_error_is_not_taken_for_memory(
    training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_given: Any) -> torch.Tensor:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(objective_module, "head_cross_entropy_sum", broken)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        train(training.settings(), tmp_path / "run", SilentProgress())


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
def test_settings_of_the_loop_train(both: Training, tmp_path: Path, changes: Content) -> None:
    content = both.content("replay")
    # A low rate: half precision and the encoder's sites are in it too.
    settings = resolve(content, train__steps=8, train__learning_rate=3e-3, **changes)
    result = train(settings, tmp_path / "run", SilentProgress())
    assert (result.steps, result.skipped_steps) == (8, 0)
    losses = [step[1] for step in Training.steps(tmp_path / "run")]
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
    both: Training, tmp_path: Path, changes: Content
) -> None:
    content = both.content("replay")
    content["adapter"]["dropout"] = 0.0
    content["train"]["steps"] = 4
    train(resolve(content), tmp_path / "one", SilentProgress())
    train(resolve(content, **changes), tmp_path / "two", SilentProgress())
    pairs = zip(Training.steps(tmp_path / "one"), Training.steps(tmp_path / "two"), strict=True)
    for first, second in pairs:
        assert second[1] == pytest.approx(first[1], rel=1e-4)
        assert second[4] == pytest.approx(first[4], rel=1e-3)


def test_without_a_dev_manifest_speakers_are_held_out(training: Training, tmp_path: Path) -> None:
    content = training.content()
    del content["data"]["dev"]
    content["data"]["dev_share"] = 0.25
    result = train(resolve(content, train__steps=2), tmp_path / "run", SilentProgress())
    assert any("held 2 of 8 utterances out" in remark for remark in result.remarks)
    assert any("train: kept 6 of 6" in remark for remark in result.remarks)


def test_clips_that_are_left_out_are_counted(training: Training, tmp_path: Path) -> None:
    settings = training.settings(data__max_clip_s=1.0, train__steps=2)
    result = train(settings, tmp_path / "run", SilentProgress())
    remark = next(remark for remark in result.remarks if remark.startswith("train:"))
    kept = int(remark.split()[2])
    assert remark.startswith(f"train: kept {kept} of 8: {8 - kept} longer than 1 s")
    assert "data align AUDIO TEXT" in remark
    assert 0 < kept < 8


# --- refusals


def test_a_folder_with_something_in_it_is_refused(
    training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Before anything is read or spoken: replay audio may take minutes.
    monkeypatch.setattr("moonshine_tune.training.run.start_of_run", None)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(RequestError, match="not empty") as caught:
        train(training.settings(), tmp_path / "run", SilentProgress())
    assert "--resume" in (caught.value.hint or "")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes.txt"]


def test_there_is_nothing_to_resume(training: Training, tmp_path: Path) -> None:
    settings = training.settings()
    with pytest.raises(RequestError, match=r"run\.json is missing"):
        train(settings, tmp_path / "run", SilentProgress(), resume=True)
    assert not (tmp_path / "run").exists()


@pytest.fixture
def stopped(training: Training, tmp_path: Path) -> tuple[Path, Content]:
    """A run that was stopped after step 4, on manifests and a model that may be changed."""
    speech, model = tmp_path / "speech", tmp_path / "model"
    shutil.copytree(training.speech, speech)
    shutil.copytree(training.model, model)
    content = Training(model, speech).content()
    train(resolve(content), tmp_path / "run", Watcher.interrupting(4))
    return tmp_path / "run", content


def test_changed_manifests_are_refused_at_a_resume(stopped: tuple[Path, Content]) -> None:
    out, content = stopped
    manifest = Path(content["data"]["train"])
    manifest.write_text(manifest.read_text().replace("two cities", "two towns"))
    before = (out / "metrics.jsonl").read_bytes()
    with pytest.raises(RequestError, match=r"since this run started: train$"):
        train(resolve(content), out, SilentProgress(), resume=True)
    assert (out / "metrics.jsonl").read_bytes() == before


def test_changed_sound_is_refused_at_a_resume(stopped: tuple[Path, Content]) -> None:
    out, content = stopped
    path = Path(content["data"]["dev"]).parent / "dev-1.wav"
    samples, rate = soundfile.read(path)
    soundfile.write(path, samples[::-1], rate)
    before = (out / "metrics.jsonl").read_bytes()
    with pytest.raises(ProblemsError, match="1 of 11 recordings are not the ones") as caught:
        train(resolve(content), out, SilentProgress(), resume=True)
    assert f"dev: dev-1 ({path})" in str(caught.value)
    assert (out / "metrics.jsonl").read_bytes() == before


def test_an_adapter_that_was_edited_is_not_overwritten(stopped: tuple[Path, Content]) -> None:
    out, content = stopped
    config = out / "adapter" / ADAPTER_CONFIG_FILE
    changed = json.loads(config.read_text()) | {"lora_alpha": 1}
    config.write_text(json.dumps(changed))
    with pytest.raises(RequestError, match=r"adapter_config\.json changed after") as caught:
        train(resolve(content), out, SilentProgress(), resume=True)
    assert json.loads(config.read_text()) == changed
    # The command of the hint keeps it.
    assert (caught.value.hint or "").startswith("move it first: mv ")
    _, _, source, target = (caught.value.hint or "").rsplit(" ", 3)
    shutil.move(source, target)
    train(resolve(content), out, SilentProgress(), resume=True)
    assert json.loads((Path(target) / ADAPTER_CONFIG_FILE).read_text()) == changed
    assert altered_adapter(out / "adapter") == ""


def test_copies_of_a_run_go_on_apart(stopped: tuple[Path, Content]) -> None:
    out, content = stopped
    copy = out.with_name("copy")
    shutil.copytree(out, copy)
    train(resolve(content), copy, SilentProgress(), resume=True)
    assert json.loads((out / "run.json").read_text())["status"] == "interrupted"
    train(resolve(content), out, SilentProgress(), resume=True)
    assert _weights(out).keys() == _weights(copy).keys()
    assert all(torch.equal(value, _weights(copy)[name]) for name, value in _weights(out).items())
    first, second = (
        [line for line in RunFolder(path).read_metrics() if "loss" in line] for path in (out, copy)
    )
    assert [line["loss"] for line in first] == [line["loss"] for line in second]


def test_a_manifest_that_is_left_out_is_refused_at_a_resume(stopped: tuple[Path, Content]) -> None:
    out, content = stopped
    content["data"]["dev"] = None
    with pytest.raises(RequestError, match=r"since this run started: dev$"):
        train(resolve(content), out, SilentProgress(), resume=True)


def test_a_manifest_that_is_new_is_refused_at_a_resume(stopped: tuple[Path, Content]) -> None:
    out, content = stopped
    content["data"]["canary"] = str(Path(content["data"]["dev"]).parent / "canary.jsonl")
    with pytest.raises(RequestError, match=r"since this run started: canary$"):
        train(resolve(content), out, SilentProgress(), resume=True)


def test_another_base_model_is_refused_at_a_resume(
    stopped: tuple[Path, Content], build_model: Any, save_model: Any
) -> None:
    out, content = stopped
    shutil.rmtree(content["model"])
    save_model(build_model("v1", seed=9), Path(content["model"]))
    with pytest.raises(RequestError, match="another base model"):
        train(resolve(content), out, SilentProgress(), resume=True)


def test_another_rank_is_refused_at_a_resume(stopped: tuple[Path, Content]) -> None:
    out, content = stopped
    with pytest.raises(RequestError, match=r"adapter\.rank: 4 in this run, 8 by --set"):
        train(resolve(content, adapter__rank=8), out, SilentProgress(), resume=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__train": None}, "no training manifest"),
        ({"data__train": "nowhere.jsonl"}, "no such manifest"),
        ({"data__max_clip_s": 0.01}, "nothing is left to use"),
        ({"data__normalizer": "english-9"}, "no normalizer"),
        ({"train__stages": [{"steps": 2, "max_clip_s": 0.01}]}, "no clip is as short"),
    ],
)
def test_wrong_requests_leave_no_run_behind(
    training: Training, tmp_path: Path, changes: Content, message: str
) -> None:
    """The same --out can be used once the request is corrected."""
    settings = training.settings(**changes)
    with pytest.raises(RequestError, match=message):
        train(settings, tmp_path / "run", SilentProgress())
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").iterdir())
