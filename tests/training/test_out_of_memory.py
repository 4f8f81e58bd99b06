"""Running out of memory now and then costs time, and changes nothing else."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor

from moonshine_tune.core.errors import MachineError
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.inference import scored_set as scored_set_module
from moonshine_tune.inference.batching import run_with_oom_backoff
from moonshine_tune.models.base import SpeechModel
from moonshine_tune.models.input_covariance import InputCovariance
from moonshine_tune.models.v1 import V1SpeechModel
from moonshine_tune.training import teacher as teacher_module
from moonshine_tune.training.run import train

pytestmark = pytest.mark.usefixtures("one_thread")

ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("MPS backend out of memory (MPS allocated: 9.00 GB, other allocations: 1 GB)"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you "
        "tried to allocate 8 bytes. Error code 12 (Cannot allocate memory)"
    ),
    # Python's own has no text.
    MemoryError(),
]
NAMES = ["cuda", "mps", "cpu", "python"]


def _settings(training: Any, *names: str, **changes: Any) -> Any:
    """Without dropout, whose masks depend on how a step is divided."""
    return training.settings(*names, adapter__dropout=0.0, **changes)


def _check_same_steps(training: Any, expected: Path, out: Path) -> None:
    """Every step of two runs is equal to the precision of the sums."""
    pairs = list(zip(training.steps(expected), training.steps(out), strict=True))
    assert len(pairs) == 12
    for first, second in pairs:
        assert second[0] == first[0]
        assert second[1] == pytest.approx(first[1], rel=1e-4)
        assert second[2] == pytest.approx(first[2], rel=1e-2, abs=1e-5)
        assert second[4] == pytest.approx(first[4], rel=1e-3)
    assert [s[0] for s in training.scores(expected)] == [s[0] for s in training.scores(out)]


@pytest.fixture(scope="module")
def plain(training: Any, tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    """The run that never runs out. Read only."""
    out = tmp_path_factory.mktemp("plain") / "run"
    train(_settings(training, "replay"), out, SilentProgress())
    return out


def _failing(
    real: Callable[..., Any], fails: Callable[[int], bool], error: BaseException
) -> Callable[..., Any]:
    """`real`, but the calls that `fails` selects by number raise `error`."""
    calls = 0

    def called(*given: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if fails(calls):
            raise error
        return real(*given, **named)

    return called


def _fail_in_training(
    monkeypatch: pytest.MonkeyPatch, fails: Callable[[int], bool], error: BaseException
) -> None:
    """Let some of the decoder's passes with gradients fail, by their number."""
    real = SpeechModel.decoder_hidden
    failing = _failing(real, fails, error)

    def hidden(*given: Any, **named: Any) -> Any:
        return (failing if torch.is_grad_enabled() else real)(*given, **named)

    monkeypatch.setattr(SpeechModel, "decoder_hidden", hidden)


@pytest.mark.parametrize("error", ERRORS, ids=NAMES)
def test_out_of_memory_in_a_forward_pass(
    training: Any,
    plain: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
) -> None:
    # The 10th call with gradients is the replay part of step 5: those of its first part must go.
    _fail_in_training(monkeypatch, lambda n: n == 10, error)
    watcher = training.Watcher()
    result = train(_settings(training, "replay"), tmp_path / "run", watcher)
    assert (result.stopped, result.steps, result.skipped_steps) == ("finished", 12, 0)
    assert sum("out of memory at step" in line for line in watcher.messages) == 1
    assert sum("out_of_memory" in line for line in training.lines(tmp_path / "run")) == 1
    _check_same_steps(training, plain, tmp_path / "run")


def test_out_of_memory_in_a_backward_pass(
    training: Any, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the gradients are there already."""
    from accelerate import Accelerator

    real = Accelerator.backward

    def late(self: Any, loss: torch.Tensor) -> None:
        real(self, loss)
        calls.append(1)
        if len(calls) in (4, 9):
            raise ERRORS[0]

    calls: list[int] = []
    monkeypatch.setattr(Accelerator, "backward", late)
    train(_settings(training, "replay"), tmp_path / "run", SilentProgress())
    monkeypatch.undo()
    _check_same_steps(training, plain, tmp_path / "run")


@pytest.mark.parametrize("seed", [1, 2])
def test_out_of_memory_at_random_steps(
    training: Any, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    rng = random.Random(seed)
    # Four clips can be halved twice.
    failing = set(rng.sample(range(3, 25), 2))
    _fail_in_training(monkeypatch, lambda n: n in failing, ERRORS[0])
    watcher = training.Watcher()
    result = train(_settings(training, "replay"), tmp_path / "run", watcher)
    assert (result.steps, result.skipped_steps) == (12, 0)
    sizes = [
        line.split("with ")[1].split(" clips")[0]
        for line in watcher.messages
        if "continuing with" in line
    ]
    assert sizes == ["2", "1"]
    _check_same_steps(training, plain, tmp_path / "run")


def test_a_resumed_run_keeps_the_smaller_size(
    training: Any, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = SpeechModel.decoder_hidden
    monkeypatch.setattr(SpeechModel, "decoder_hidden", _failing(real, lambda n: n == 6, ERRORS[1]))
    settings = _settings(training, "replay")
    out = tmp_path / "run"
    train(settings, out, training.Watcher.interrupting(6))
    monkeypatch.undo()
    sizes: list[int] = []

    def watch(self: SpeechModel, states: Any, input_ids: torch.Tensor) -> Any:
        if torch.is_grad_enabled():
            sizes.append(len(input_ids))
        return real(self, states, input_ids)

    monkeypatch.setattr(SpeechModel, "decoder_hidden", watch)
    train(settings, out, SilentProgress(), resume=True)
    assert max(sizes) == 2
    _check_same_steps(training, plain, out)


def test_a_clip_that_never_fits_is_named_and_the_state_is_saved(
    training: Any, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    _fail_in_training(monkeypatch, lambda n: n > 12, ERRORS[0])
    settings = _settings(training, "replay")
    with pytest.raises(MachineError, match=r"longest clip of step \d+ is train-\d") as caught:
        train(settings, out, SilentProgress())
    assert caught.value.exit_code == 3
    assert "data.max_clip_s" in (caught.value.hint or "")
    step = json.loads((out / "state" / "state.json").read_text())["step"]
    assert step == training.steps(out)[-1][0] > 0
    monkeypatch.undo()
    train(settings, out, SilentProgress(), resume=True)
    _check_same_steps(training, plain, out)


# --- outside of the steps


def test_out_of_memory_while_filtering_is_tried_again(
    training: Any, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = InputCovariance.add
    monkeypatch.setattr(InputCovariance, "add", _failing(real, lambda n: n == 5, ERRORS[0]))
    train(_settings(training, "replay"), tmp_path / "run", SilentProgress())
    _check_same_steps(training, plain, tmp_path / "run")


def test_what_never_fits_is_not_filtered_and_said(
    training: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, watcher = InputCovariance.add, training.Watcher()
    monkeypatch.setattr(InputCovariance, "add", _failing(real, lambda n: True, ERRORS[0]))
    result = train(_settings(training, "replay"), tmp_path / "run", watcher)
    assert (result.stopped, result.best.filter_weight) == ("finished", 0.0)
    assert any("the adapter is not filtered" in line for line in watcher.messages)


def test_out_of_memory_while_decoding_changes_no_transcript(
    training: Any, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (scored_set_module, teacher_module):
        real = module.greedy_tokens
        monkeypatch.setattr(module, "greedy_tokens", _failing(real, lambda n: n == 1, ERRORS[0]))
    train(_settings(training, "replay"), tmp_path / "run", SilentProgress())
    _check_same_steps(training, plain, tmp_path / "run")
    assert training.scores(tmp_path / "run") == training.scores(plain)


@pytest.mark.parametrize("storage", ["memory", "disk"])
def test_out_of_memory_while_encoding(
    training: Any,
    plain: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    storage: str,
) -> None:
    real = V1SpeechModel.encode
    monkeypatch.setattr(V1SpeechModel, "encode", _failing(real, lambda n: n == 3, ERRORS[2]))
    settings = _settings(
        training, "replay", device__state_storage=storage, device__state_format="float32"
    )
    train(settings, tmp_path / "run", SilentProgress())
    _check_same_steps(training, plain, tmp_path / "run")


def test_a_single_clip_that_does_not_fit_the_encoder_is_a_plain_error(
    training: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = V1SpeechModel.encode

    def full(model: Any, audio: Any, counts: Any) -> Any:
        if isinstance(audio, FakeTensor):  # The memory estimate.
            return real(model, audio, counts)
        raise ERRORS[0]

    monkeypatch.setattr(V1SpeechModel, "encode", full)
    with pytest.raises(MachineError, match="out of memory with a single clip") as caught:
        train(_settings(training), tmp_path / "run", SilentProgress())
    assert "max_clip_s" in (caught.value.hint or "")


def test_groups_are_halved_until_they_fit_in_order() -> None:
    done: list[list[int]] = []

    def work(group: Any) -> None:
        if len(group) > 2:
            raise ERRORS[0]
        done.append(list(group))

    run_with_oom_backoff([[1, 2, 3, 4, 5], [6]], work, torch.device("cpu"))
    assert [item for group in done for item in group] == [1, 2, 3, 4, 5, 6]
    assert max(map(len, done)) == 2
    with pytest.raises(ZeroDivisionError):
        run_with_oom_backoff([[1]], lambda group: 1 / 0, torch.device("cpu"))  # type: ignore[arg-type]
