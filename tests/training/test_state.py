"""Saving and loading the training state: steps after a load equal steps without one."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from moonshine_tune.core.errors import MachineError, RequestError
from moonshine_tune.models.base import SpeechModel
from moonshine_tune.models.lora import adapter_parameters, adapter_state, inject_lora
from moonshine_tune.training.resume import Counters, TrainingState, load_state, save_state

pytestmark = pytest.mark.usefixtures("one_thread")

Build = Callable[..., SpeechModel]


def _new(build: Build, rank: int = 4) -> tuple[SpeechModel, torch.optim.AdamW]:
    model = build("v1")
    inject_lora(model, rank=rank)
    parameters = [value for _, value in adapter_parameters(model.module)]
    return model, torch.optim.AdamW([{"params": parameters, "lr": 1e-2}])


def _steps(model: SpeechModel, optimizer: torch.optim.AdamW, count: int) -> None:
    """Steps on random gradients, which depend on the generator's state alone."""
    for _ in range(count):
        for _name, value in adapter_parameters(model.module):
            value.grad = torch.randn_like(value)
        optimizer.step()


def test_steps_after_a_load_equal_steps_without_one(build_model: Build, tmp_path: Path) -> None:
    model, optimizer = _new(build_model)
    torch.manual_seed(1)
    _steps(model, optimizer, 3)
    save_state(tmp_path / "state", model, optimizer, TrainingState(3, Counters(skipped=1)))
    _steps(model, optimizer, 3)
    expected = adapter_state(model)

    torch.manual_seed(99)
    model, optimizer = _new(build_model)
    loaded = load_state(tmp_path / "state", model, optimizer)
    assert loaded == TrainingState(3, Counters(skipped=1))
    _steps(model, optimizer, 3)
    assert all(torch.equal(adapter_state(model)[name], value) for name, value in expected.items())


def test_the_moments_are_loaded(build_model: Build, tmp_path: Path) -> None:
    """Without the optimizer's moments the next step is another one: the test above is not empty."""
    model, optimizer = _new(build_model)
    torch.manual_seed(1)
    _steps(model, optimizer, 3)
    save_state(tmp_path / "state", model, optimizer, TrainingState(3, Counters()))
    again, fresh = _new(build_model)
    load_state(tmp_path / "state", again, fresh)
    for (_, mine), (_, theirs) in zip(
        adapter_parameters(model.module), adapter_parameters(again.module), strict=True
    ):
        assert set(fresh.state[theirs]) == {"step", "exp_avg", "exp_avg_sq"}
        for key, value in optimizer.state[mine].items():
            assert torch.equal(fresh.state[theirs][key], value)


def test_a_state_before_the_first_step_can_be_loaded(build_model: Build, tmp_path: Path) -> None:
    model, optimizer = _new(build_model)
    save_state(tmp_path / "state", model, optimizer, TrainingState(0, Counters()))
    assert load_state(tmp_path / "state", *_new(build_model)).step == 0


def test_the_state_is_made_of_safetensors_and_json(build_model: Build, tmp_path: Path) -> None:
    model, optimizer = _new(build_model)
    _steps(model, optimizer, 1)
    save_state(tmp_path / "state", model, optimizer, TrainingState(1, Counters(train_seconds=1.5)))
    names = {path.name for path in (tmp_path / "state").iterdir()}
    assert names == {"state.safetensors", "state.json"}
    document = json.loads((tmp_path / "state" / "state.json").read_text())
    assert (document["step"], document["counters"]["train_seconds"]) == (1, 1.5)


def test_an_older_state_stays_when_the_new_one_fails(
    build_model: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, optimizer = _new(build_model)
    save_state(tmp_path / "state", model, optimizer, TrainingState(1, Counters()))

    def full(*_rest: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("moonshine_tune.training.resume.save_file", full)
    with pytest.raises(MachineError, match="disk is full"):
        save_state(tmp_path / "state", model, optimizer, TrainingState(2, Counters()))
    assert load_state(tmp_path / "state", *_new(build_model)).step == 1
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_no_state_is_refused(build_model: Build, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no saved state") as caught:
        load_state(tmp_path / "state", *_new(build_model))
    assert caught.value.where == str(tmp_path / "state")


def test_the_state_of_another_rank_is_refused(build_model: Build, tmp_path: Path) -> None:
    model, optimizer = _new(build_model)
    save_state(tmp_path / "state", model, optimizer, TrainingState(1, Counters()))
    with pytest.raises(RequestError, match="another shape"):
        load_state(tmp_path / "state", *_new(build_model, rank=2))


@pytest.mark.parametrize("file", ["state.json", "state.safetensors"])
def test_a_damaged_state_is_one_plain_error(build_model: Build, tmp_path: Path, file: str) -> None:
    model, optimizer = _new(build_model)
    save_state(tmp_path / "state", model, optimizer, TrainingState(1, Counters()))
    path = tmp_path / "state" / file
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(RequestError):
        load_state(tmp_path / "state", *_new(build_model))
