"""The gradient check accepts correct devices and rejects wrong ones."""

import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import AutoConfig, AutoModelForSpeechSeq2Seq

from moonshine_tune.doctor.gradients import compare_with_cpu
from moonshine_tune.models.base import SpeechModel, TextTokenizer
from moonshine_tune.models.checkpoint import wrap_module

_CPU = torch.device("cpu")
_TENSOR = "model.decoder.layers.0.mlp.fc2.weight"


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Several threads are many times slower while other tests run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _small(device: torch.device, dtype: torch.dtype) -> SpeechModel:
    config = AutoConfig.for_model(
        "moonshine", vocab_size=512, hidden_size=32, intermediate_size=64,
        encoder_num_hidden_layers=1, decoder_num_hidden_layers=1,
        encoder_num_attention_heads=2, decoder_num_attention_heads=2,
        encoder_num_key_value_heads=2, decoder_num_key_value_heads=2,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        module = AutoModelForSpeechSeq2Seq.from_config(config)
    module = module.eval().to(device=device, dtype=dtype)
    return wrap_module(module, TextTokenizer(Tokenizer(models.BPE())))


def test_a_correct_device_agrees() -> None:
    result = compare_with_cpu(_small, _CPU)
    assert result.agrees
    assert result.reference == "cpu float64"
    # Two number formats never agree to the last bit, so something was compared.
    assert 0 < result.worst_difference < 1e-3
    assert result.fallback_operators == ()


def test_bfloat16_agrees_within_its_rounding_and_a_fault_does_not() -> None:
    result = compare_with_cpu(_small, _CPU, mixed=True)
    assert result.agrees
    # Coarser than 32 bits, so 16 bits were used.
    assert result.gradient_difference > 1e-4

    def load(device: torch.device, dtype: torch.dtype) -> SpeechModel:
        model = _small(device, dtype)
        if dtype == torch.float32:
            tensor = dict(model.module.named_parameters())[_TENSOR]
            tensor.register_hook(lambda gradient: -gradient)
        return model

    assert not compare_with_cpu(load, _CPU, mixed=True).agrees


@pytest.mark.parametrize("family", ["v1", "streaming"])
def test_contiguous_inputs_change_nothing_but_the_layout(
    build_model: Callable[..., SpeechModel], family: str
) -> None:
    plain, guarded = build_model(family), build_model(family)
    guarded.make_activation_inputs_contiguous()
    seen: list[bool] = []
    for layer in guarded.decoder.layers:
        layer.mlp.activation_fn.inner.register_forward_pre_hook(
            lambda module, args: seen.append(args[0].is_contiguous())
        )
    slices: list[bool] = []
    for layer in plain.decoder.layers:
        layer.mlp.activation_fn.register_forward_pre_hook(
            lambda module, args: slices.append(args[0].is_contiguous())
        )
    ids = torch.tensor([[1, 270, 280]])
    audio = torch.randn(1, 16_000, generator=torch.Generator().manual_seed(1))
    first, second = (
        model.decoder_logits(model.encode(audio, [16_000]), ids) for model in (plain, guarded)
    )
    assert torch.equal(first, second)
    assert all(seen) and len(seen) == 2
    assert not any(slices) and len(slices) == 2
    assert plain.module.state_dict().keys() == guarded.module.state_dict().keys()


def test_a_single_wrong_gradient_is_found_and_named() -> None:
    def load(device: torch.device, dtype: torch.dtype) -> SpeechModel:
        model = _small(device, dtype)
        if dtype == torch.float32:
            tensor = dict(model.module.named_parameters())[_TENSOR]
            tensor.register_hook(lambda gradient: gradient * 1.1)
        return model

    result = compare_with_cpu(load, _CPU)
    assert not result.agrees
    assert result.worst_tensor == _TENSOR
    assert 0.05 < result.worst_difference < 0.2
    assert result.loss_difference < 1e-4


def test_nan_gradients_never_agree() -> None:
    def load(device: torch.device, dtype: torch.dtype) -> SpeechModel:
        model = _small(device, dtype)
        if dtype == torch.float32:
            tensor = dict(model.module.named_parameters())[_TENSOR]
            tensor.register_hook(lambda gradient: gradient * float("nan"))
        return model

    result = compare_with_cpu(load, _CPU)
    assert not result.agrees
    assert result.worst_tensor == _TENSOR


def test_a_wrong_forward_is_found() -> None:
    def load(device: torch.device, dtype: torch.dtype) -> SpeechModel:
        model = _small(device, dtype)
        if dtype == torch.float32:
            with torch.no_grad():
                model.decoder.embed_tokens.weight.mul_(1.05)
        return model

    assert not compare_with_cpu(load, _CPU).agrees


def test_fallbacks_are_counted_by_operator() -> None:
    def load(device: torch.device, dtype: torch.dtype) -> SpeechModel:
        if dtype == torch.float32:
            for name in ("aten::foo.out", "aten::bar", "aten::bar"):
                warnings.warn(
                    f"The operator '{name}' is not currently supported on the MPS backend and "
                    "will fall back to run on the CPU. This may have performance implications.",
                    stacklevel=1,
                )
        return _small(device, dtype)

    before = torch.is_warn_always_enabled()
    assert compare_with_cpu(load, _CPU).fallback_operators == ("aten::bar", "aten::foo.out")
    assert torch.is_warn_always_enabled() == before
