"""Training and decoding use only operators that MPS has, by torch's dispatch table."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.doctor.mps_operators import OperatorReport, record_operators, support
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoConfig

import moonshine_tune.core.flat_adamw as flat_adamw_module
import moonshine_tune.models.kernels.frozen_linear as frozen_linear_module
import moonshine_tune.models.kernels.packed_linear as packed_module
from moonshine_tune.config.resolve import preset_names, read_preset, resolve_settings
from moonshine_tune.core.device import supports_foreach
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.inference.greedy import greedy_tokens
from moonshine_tune.models.base import EncoderStates, SpeechModel
from moonshine_tune.models.lora import (
    TARGET_MODULES,
    adapter_disabled,
    adapter_parameters,
    inject_lora,
)
from moonshine_tune.models.losses import (
    FrozenHead,
    head_cross_entropy_sum,
    head_kl_sum,
    target_batch,
)
from moonshine_tune.registry import open as model_opening
from moonshine_tune.registry.published_configs import model_from_config
from moonshine_tune.training.run import train

_TEXTS = [[300, 301, 302, 303], [304, 305]]
_LENGTHS = [16_000, 11_200]
_ONE_SCORE = {"select": {"every_steps": 2}, "device": {"name": "cpu"}}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Several threads are many times slower while other tests run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _model(family: str, attention: str) -> SpeechModel:
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    if family == "v1":
        both = {f"{side}_{key}": 2 for side in ("encoder", "decoder") for key in heads}
        config = AutoConfig.for_model(
            "moonshine", vocab_size=512, hidden_size=32, intermediate_size=64,
            encoder_num_hidden_layers=2, decoder_num_hidden_layers=2, **both,
        )  # fmt: skip
    else:
        encoder = {"hidden_size": 40, "intermediate_size": 64, "num_hidden_layers": 2,
                   "sliding_windows": ((16, 4), (16, 0)), **heads}  # fmt: skip
        config = AutoConfig.for_model(
            "moonshine_streaming", vocab_size=512, hidden_size=32, intermediate_size=64,
            num_hidden_layers=2, encoder_config=encoder, **heads,
        )  # fmt: skip
    return model_from_config(config, attention=attention, seed=3)


def _audio() -> torch.Tensor:
    audio = torch.zeros(len(_LENGTHS), max(_LENGTHS))
    generator = torch.Generator().manual_seed(5)
    for row, length in zip(audio, _LENGTHS, strict=True):
        row[:length] = 0.1 * torch.randn(length, generator=generator)
    return audio


@pytest.fixture(autouse=True)
def _as_on_mps(monkeypatch: pytest.MonkeyPatch) -> None:
    """oneDNN and the fused optimizer are for the CPU only."""
    monkeypatch.setattr(flat_adamw_module, "supports_fused", lambda device: False)
    for module in (packed_module, frozen_linear_module):
        monkeypatch.setattr(module, "is_for_onednn", lambda weight: False)


def _teacher(model: SpeechModel, states: EncoderStates, tokens: torch.Tensor) -> torch.Tensor:
    with adapter_disabled(model), torch.inference_mode():
        return model.decoder_hidden(states, tokens).clone()


def _train(model: SpeechModel, optimizer: torch.optim.Optimizer, *, mixed: bool = False) -> None:
    """Two optimizer steps with the parts of the real loop: loss, teacher, clipping, AdamW."""
    parameters = [value for _, value in adapter_parameters(model.module)]
    autocast = torch.autocast("cpu", torch.bfloat16) if mixed else nullcontext()
    targets = target_batch(_TEXTS, "cpu")
    model.module.train()
    for _ in range(2):
        with autocast:
            states = model.encode(_audio(), _LENGTHS)
            hidden = _teacher(model, states, targets.input_ids)
            adapted = model.decoder_hidden(states, targets.input_ids)
            loss = head_cross_entropy_sum(adapted, FrozenHead(model.head_weight), targets.targets)
            loss = loss / targets.num_targets
        loss.backward()
        with autocast:
            # Replay clips, with gradients of the encoder if it has an adapter.
            states = model.encode(_audio(), _LENGTHS)
            adapted = model.decoder_hidden(states, targets.input_ids)
            teacher = hidden.to(adapted.dtype)
            kl = head_kl_sum(adapted, teacher, FrozenHead(model.head_weight), targets.targets)
            kl = kl / targets.num_targets
        kl.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=supports_foreach(model.device))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def _adamw(model: SpeechModel, **option: bool) -> torch.optim.AdamW:
    option = option or {"foreach": supports_foreach(model.device)}
    return torch.optim.AdamW([value for _, value in adapter_parameters(model.module)], **option)


def _decode(model: SpeechModel) -> None:
    model.module.eval()
    with torch.inference_mode():
        states = model.encode(_audio(), _LENGTHS)
        assert len(greedy_tokens(model, states, [8, 4])) == 2


def _assert_runs_on_mps(report: OperatorReport) -> None:
    assert report.lacking == ()
    assert [str(tensor) for tensor in report.wide] == []
    assert report.runs_on_mps


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
@pytest.mark.parametrize("path", ["eager", "math"])
@pytest.mark.parametrize("family", ["v1", "streaming"])
def test_training_steps_run_on_mps(family: str, path: str, checkpointing: bool) -> None:
    model = _model(family, "eager" if path == "eager" else "sdpa")
    inject_lora(model, rank=4, sites="all", dropout=0.1)
    if checkpointing:
        model.enable_gradient_checkpointing()
    before = [value.detach().clone() for _, value in adapter_parameters(model.module)]
    with sdpa_kernel(SDPBackend.MATH):
        report = record_operators(lambda: _train(model, _adamw(model)))
    _assert_runs_on_mps(report)
    # Forward, backward, clipping and optimizer are recorded, and the step changed the adapter.
    for expected in ("native_layer_norm", "_log_softmax", "scatter_add_", "linalg_vector_norm",
                     "addcdiv_", "rand", "embedding"):  # fmt: skip
        assert expected in report.calls, expected
    after = [value for _, value in adapter_parameters(model.module)]
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("family", ["v1", "streaming"])
@pytest.mark.parametrize("sites", [name for name in TARGET_MODULES if name != "all"])
def test_all_target_modules_run_on_mps_with_fused_attention(family: str, sites: str) -> None:
    model = _model(family, "sdpa")
    inject_lora(model, rank=2, sites=sites)
    report = record_operators(lambda: _train(model, _adamw(model)))
    _assert_runs_on_mps(report)


@pytest.mark.parametrize("path", ["eager", "math"])
@pytest.mark.parametrize("name", preset_names())
def test_a_run_of_every_preset_runs_on_mps(
    name: str,
    path: str,
    training: Any,
    streaming_training: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A complete run with a preset's settings: stored states, scoring, scales, saving."""
    preset = read_preset(name)
    runs = streaming_training if preset["model"] == "medium" else training
    shared = {
        "model": str(runs.model),
        "data": {n: str(training.speech / f"{n}.jsonl") for n in ("train", "dev", "replay")},
    }
    few = {"train": {"steps": 2, "batch_size": min(preset["train"]["batch_size"], 4)}}
    few["train"]["accumulation"] = min(preset["train"].get("accumulation", 1), 2)
    layers = [("preset", preset), ("test", shared), ("few", few), ("few", _ONE_SCORE)]
    settings = resolve_settings(layers)
    if path == "eager":
        real = model_opening.load_checkpoint
        monkeypatch.setattr(
            model_opening,
            "load_checkpoint",
            lambda *a, **k: real(*a, **{**k, "attention": "eager"}),
        )
    with sdpa_kernel(SDPBackend.MATH):
        report = record_operators(lambda: train(settings, tmp_path / "run", SilentProgress()))
    _assert_runs_on_mps(report)
    assert "addcdiv_" in report.calls and "argmax" in report.calls


@pytest.mark.parametrize("family", ["v1", "streaming"])
def test_dora_and_rslora_run_on_mps(family: str) -> None:
    model = _model(family, "eager")
    inject_lora(model, rank=2, sites="all", dora=True, rslora=True)
    _assert_runs_on_mps(record_operators(lambda: _train(model, _adamw(model))))


@pytest.mark.parametrize("family", ["v1", "streaming"])
def test_contiguous_activation_inputs_run_on_mps(family: str) -> None:
    model = _model(family, "eager")
    model.make_activation_inputs_contiguous()
    inject_lora(model, rank=2)
    _assert_runs_on_mps(record_operators(lambda: _train(model, _adamw(model))))


@pytest.mark.parametrize("family", ["v1", "streaming"])
def test_bfloat16_autocast_runs_on_mps(family: str) -> None:
    model = _model(family, "eager")
    inject_lora(model, rank=2)
    _assert_runs_on_mps(record_operators(lambda: _train(model, _adamw(model), mixed=True)))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", ["v1", "streaming"])
def test_greedy_decoding_runs_on_mps(family: str, attention: str) -> None:
    model = _model(family, attention)
    with sdpa_kernel(SDPBackend.MATH):
        report = record_operators(lambda: _decode(model))
    _assert_runs_on_mps(report)
    assert "argmax" in report.calls


@pytest.mark.parametrize("option", [{"foreach": True}, {"foreach": False}, {"fused": True}])
def test_every_implementation_of_adamw_runs_on_mps(option: dict[str, bool]) -> None:
    model = _model("v1", "eager")
    inject_lora(model, rank=2)
    report = record_operators(lambda: _train(model, _adamw(model, **option)))
    _assert_runs_on_mps(report)
    expected = {"foreach": "_foreach_", "fused": "_fused_adamw_"}
    name = expected[next(iter(option))] if any(option.values()) else "addcdiv_"
    assert any(call.startswith(name) for call in report.calls)


def test_a_step_calls_the_same_operators_on_cpu_and_mps() -> None:
    """Tensors are processed one by one on both, so the recorded operators are those of MPS."""
    assert not supports_foreach(torch.device("cpu")) and not supports_foreach(torch.device("mps"))
    assert supports_foreach(torch.device("cuda"))
    model = _model("v1", "eager")
    inject_lora(model, rank=2)
    report = record_operators(lambda: _train(model, _adamw(model)))
    assert not [name for name in report.calls if name.startswith(("_foreach_", "_fused_"))]


def test_a_planted_operator_without_mps_kernel_is_found() -> None:
    model = _model("v1", "eager")
    inject_lora(model, rank=2)
    layer = model.decoder.layers[0].self_attn.q_proj

    def plant(module: object, args: object, output: torch.Tensor) -> torch.Tensor:
        torch.geqrf(output.detach()[0])
        return output

    handle = layer.register_forward_hook(plant)
    report = record_operators(lambda: _train(model, _adamw(model)))
    handle.remove()
    assert report.lacking == ("geqrf",)
    assert not report.runs_on_mps


@pytest.mark.parametrize("way", ["made", "from numbers", "numpy"])
def test_a_planted_float64_tensor_is_found_with_its_operator(way: str) -> None:
    model = _model("streaming", "eager")
    inject_lora(model, rank=2)
    numpy = pytest.importorskip("numpy")

    def plant(module: object, args: object, output: torch.Tensor) -> torch.Tensor:
        if way == "made":
            return output.double().float()
        if way == "from numbers":
            return output + torch.tensor(0.5, dtype=torch.float64)
        return (output + torch.from_numpy(numpy.zeros(1))).float()

    handle = model.decoder.layers[1].mlp.register_forward_hook(plant)
    report = record_operators(lambda: _train(model, _adamw(model)))
    handle.remove()
    assert not report.runs_on_mps
    assert report.lacking == ()
    first = {"made": "_to_copy", "from numbers": "lift_fresh", "numpy": "add.Tensor"}[way]
    assert first in [tensor.operator for tensor in report.wide]
    assert "64 bits" in str(report.wide[0])


def test_the_dispatch_table_is_read_correctly() -> None:
    assert support("mm") == "structured"  # by mm.out, which lists MPS
    assert support("convolution") == "composite"
    assert support("linear") in ("own", "composite")
    assert support("linalg_eigh") == "composite"  # no dispatch block: CompositeImplicitAutograd
    assert support("_linalg_eigh") is None  # structured, and its out variant lacks MPS
    assert support("_fused_adamw_") == "own"
    assert support("_scaled_dot_product_flash_attention_for_cpu") == "replaced"
    assert support("geqrf") is None
    assert support("no_such_operator") is None
    assert support("mkl::_mkl_linear") is None
