"""Training on the pretended device: the CPU's numbers, and nothing that MPS would refuse."""

import json
import random
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from tests import conftest
from tests.conftest import clip_of
from tests.pretended_mps.device import PretendedMps

from moonshine_tune.core.device import FROZEN_BFLOAT16
from moonshine_tune.core.errors import MachineError, RequestError
from moonshine_tune.core.precision import record_gradient_check
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.memory import fit
from moonshine_tune.memory.estimate import choose_budget
from moonshine_tune.models.lora import adapter_parameters, inject_lora
from moonshine_tune.training.run import train

pytestmark = pytest.mark.usefixtures("one_thread")

_VARIANTS: dict[str, tuple[str, tuple[str, ...], dict[str, Any]]] = {
    "decoder": ("v1", (), {"augment__share": 0.5, "augment__variants": 1}),
    "all": (
        "v1",
        ("replay", "canary"),
        {"adapter__sites": "all", "retain__domain_weight": 0.3, "train__steps": 2},
    ),
    "streaming": (
        "streaming",
        ("replay",),
        {"adapter__sites": "all", "train__gradient_checkpointing": True, "train__steps": 2},
    ),
}


@pytest.fixture(autouse=True)
def _not_estimated(monkeypatch: pytest.MonkeyPatch) -> None:
    """The estimate takes seconds and does not depend on the device; `on_commands.py` has it."""

    def unknown(model: str) -> None:
        raise RequestError("no estimate in this test")

    monkeypatch.setattr(fit, "model_config", unknown)


def _figures(runs: Any, out: Path) -> list[float]:
    return [value or 0.0 for step in runs.steps(out) for value in step]


def _assert_native(records: dict[str, Any]) -> None:
    """Nothing ran on the CPU instead, and no index lay there. 64 bits and mixed devices raise."""
    assert records["fallbacks"] == {}
    assert records["host_indices"] == {}
    assert records["calls"]["mm.out"] > 100


@pytest.mark.parametrize("name", _VARIANTS)
def test_a_run_computes_what_the_cpu_computes(
    name: str, device: PretendedMps, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    family, names, changes = _VARIANTS[name]
    prefix = "" if family == "v1" else "streaming_"
    runs = request.getfixturevalue(f"{prefix}training")
    # Dropout draws other masks on another device.
    changes = {"adapter__dropout": 0.0, "train__steps": 4, **changes}
    train(runs.settings(*names, **changes), tmp_path / "cpu", SilentProgress())
    device.reset()
    on_mps = request.getfixturevalue(f"{prefix}on_mps")
    train(on_mps.settings(*names, **changes), tmp_path / "mps", SilentProgress())
    _assert_native(device.records())
    assert device.limit == pytest.approx(choose_budget("mps", None).bytes, rel=1e-6)
    expected, result = _figures(runs, tmp_path / "cpu"), _figures(runs, tmp_path / "mps")
    assert result == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert runs.scores(tmp_path / "mps") == runs.scores(tmp_path / "cpu")


_small_config = conftest._small_config


def _deep_config(depth: int, family: str, vocabulary: int) -> Any:
    """The small model's configuration with `depth` layers on each side."""
    config = _small_config(family, vocabulary)
    if family == "v1":
        config.encoder_num_hidden_layers = config.decoder_num_hidden_layers = depth
        return config
    for part in (config, config.encoder_config):
        part.num_hidden_layers = depth
        if getattr(part, "layer_types", None):
            part.layer_types = (part.layer_types * depth)[:depth]
    config.encoder_config.sliding_windows = ((16, 4), (16, 0)) * (depth // 2)
    return config


class _KilledError(BaseException):
    """Ends a run as a kill does: none of its handlers run."""


def _die() -> None:
    raise _KilledError


def test_a_killed_run_is_resumed_exactly(on_mps: Any, tmp_path: Path) -> None:
    """With dropout, whose masks the device draws; the comparisons with the CPU change nothing."""
    settings = on_mps.settings(train__steps=8)
    train(settings, tmp_path / "uninterrupted", SilentProgress())
    silent = on_mps.settings(train__steps=8, device__compare_steps=0)
    with pytest.raises(_KilledError):
        train(silent, tmp_path / "killed", on_mps.Watcher(6, _die))
    train(settings, tmp_path / "killed", SilentProgress(), resume=True)
    assert on_mps.is_same(tmp_path / "uninterrupted", tmp_path / "killed")


def test_running_out_of_memory_halves_the_micro_batch(
    device: PretendedMps, on_mps: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A limit that the user has set is kept.
    monkeypatch.setenv("PYTORCH_MPS_HIGH_WATERMARK_RATIO", "1.0")
    settings = on_mps.settings(
        adapter__dropout=0.0, train__steps=4, train__batch_size=8, device__compare_steps=0
    )
    device.set_limit(0)
    train(settings, tmp_path / "plain", on_mps.Watcher(1, device.reset))
    peak = device.records()["peak"]
    watcher = on_mps.Watcher(1, lambda: device.set_limit(int(0.75 * peak)))
    try:
        train(settings, tmp_path / "tight", watcher)
    finally:
        device.set_limit(0)
    assert any("out of memory at step 2" in line for line in watcher.messages), watcher.messages
    expected, result = (_figures(on_mps, tmp_path / name) for name in ("plain", "tight"))
    assert result == pytest.approx(expected, rel=1e-2, abs=1e-5)


def test_a_run_whose_device_goes_wrong_stops(
    device: PretendedMps, on_mps: Any, tmp_path: Path
) -> None:
    fault = device.planted("nan in masked softmax")
    settings = on_mps.settings(train__steps=8, device__compare_steps=3)
    watcher = on_mps.Watcher(2, fault.__enter__)
    try:
        with pytest.raises(MachineError, match="mps:0 computes wrong at step 4: loss nan") as error:
            train(settings, tmp_path / "run", watcher)
    finally:
        fault.__exit__(None, None, None)
    assert "device.name=cpu" in str(error.value.hint)


def test_frozen_weights_wait_for_the_check(on_mps: Any, tmp_path: Path) -> None:
    settings = on_mps.settings(train__steps=1, device__frozen_weights="bfloat16")

    def format_of(out: Path) -> tuple[str, list[str]]:
        watcher = on_mps.Watcher()
        train(settings, out, watcher)
        record = json.loads((out / "run.json").read_text())
        lines = [line for line in watcher.messages if "frozen weights in float32" in line]
        return record["settings"]["device"]["frozen_weights"], lines

    name, lines = format_of(tmp_path / "before")
    assert (name, len(lines)) == ("float32", 1)
    assert "doctor --device mps" in lines[0]
    record_gradient_check("mps", FROZEN_BFLOAT16, torch.__version__, passed=True)
    assert format_of(tmp_path / "after") == ("bfloat16", [])


def test_an_adapter_starts_equal_on_every_device(device: PretendedMps, build_model: Any) -> None:
    """The draw leaves the random numbers of both as they are."""
    states = []
    for name in ("cpu", "mps"):
        model = build_model("v1")
        model.module.to(name)
        before = torch.get_rng_state(), torch.mps.get_rng_state()
        inject_lora(model, rank=4, sites="all", seed=9)
        assert all(map(torch.equal, before, (torch.get_rng_state(), torch.mps.get_rng_state())))
        states.append([value.to("cpu") for _, value in adapter_parameters(model.module)])
    assert all(torch.equal(here, there) for here, there in zip(*states, strict=True))


@pytest.fixture(scope="module")
def varied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of 40 clips of 0.5 to 4 s, with texts of 3 to 22 letters."""
    folder = tmp_path_factory.mktemp("varied")
    soundfile.write(folder / "all.wav", clip_of(60.0, 1), 16_000)
    draw, lines = random.Random(2), []
    for number in range(40):
        start, seconds = draw.uniform(0, 55), draw.uniform(0.5, 4.0)
        text = " ".join(draw.choices(["a", "one", "two", "seven"], k=max(int(1.5 * seconds), 1)))
        record = {"id": f"u{number}", "audio": "all.wav", "text": text, "speaker": f"s{number % 8}",
                  "start": start, "end": start + seconds}  # fmt: skip
        lines.append(json.dumps(record) + "\n")
    (folder / "train.jsonl").write_text("".join(lines))
    return folder / "train.jsonl"


@dataclass(frozen=True)
class _Counts:
    kernels: int
    shapes: int
    syncs: int


def _counted(
    device: PretendedMps, settings: Any, out: Path, steps: tuple[int, ...]
) -> dict[int, _Counts]:
    """What the device recorded from the start to the end of these training steps."""
    counts: dict[int, _Counts] = {}

    class Recording(SilentProgress):
        def figures(self, step: int, values: Any) -> None:
            if step in steps:
                counts[step] = _Counts(device.kernels(), device.num_shapes(), device.syncs())

    device.reset()
    train(settings, out, Recording())
    _assert_native(device.records())
    return counts


def test_steps_read_once_from_the_device_and_compile_for_few_shapes(
    device: PretendedMps, on_mps: Any, varied: Path, tmp_path: Path
) -> None:
    """Texts of 4 to 24 tokens and clips of 0.5 to 4 s; step 0 is the score of the base model."""
    settings = on_mps.settings(
        data__train=str(varied), adapter__sites="decoder", device__compare_steps=0,
        train__steps=40, select__every_steps=40,
    )  # fmt: skip
    counts = _counted(device, settings, tmp_path / "run", (0, 1, 20, 39))
    # Losses and gradient norm together, of one micro-batch.
    assert counts[39].syncs - counts[1].syncs == 38
    assert counts[39].shapes - counts[0].shapes <= 250
    assert counts[39].shapes == counts[20].shapes
    assert counts[39].shapes <= 620


@pytest.mark.parametrize(("family", "depth", "bound"), [("v1", 6, 1_300), ("streaming", 14, 2_800)])
def test_a_step_of_tiny_and_of_medium_is_few_kernels(
    family: str,
    depth: int,
    bound: int,
    device: PretendedMps,
    on_mps: Any,
    save_model: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Their depths in small widths, on which the number of kernels does not depend."""
    monkeypatch.setattr(conftest, "_small_config", partial(_deep_config, depth))
    model = save_model(conftest.build_tiny(family), tmp_path / "model")
    deep = type(on_mps)(model, on_mps.speech)
    settings = deep.settings(device__compare_steps=0, train__steps=3, select__every_steps=3)
    counts = _counted(device, settings, tmp_path / "run", (1, 2))
    assert counts[2].kernels - counts[1].kernels <= bound
