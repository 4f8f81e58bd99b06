"""Several adapters of one loaded base: each computes what it computes alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import moonshine_tune as mt
from moonshine_tune.core.errors import RequestError
from moonshine_tune.models.adapter_set import AdapterSet
from moonshine_tune.models.base import SpeechModel
from moonshine_tune.models.lora import (
    adapter_parameters,
    adapter_state,
    has_adapter,
    inject_lora,
    load_adapter,
    save_adapter,
)

Build = Callable[..., SpeechModel]
_KINDS: dict[str, dict[str, Any]] = {
    "voice": {"rank": 2, "sites": "encoder"},
    "words": {"rank": 4, "sites": "decoder", "dora": True},
    "both": {"rank": 3, "sites": "all"},
}


@pytest.fixture(scope="module")
def adapters(build_model: Build, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Adapters of one base with other ranks and target modules."""
    paths = {}
    for seed, (name, options) in enumerate(_KINDS.items()):
        model = build_model("v1")
        inject_lora(model, seed=seed, **options)
        rng = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for key, value in adapter_parameters(model.module):
                if ".lora_B" in key:
                    value.copy_(torch.randn(value.shape, generator=rng))
        paths[name] = tmp_path_factory.mktemp(name)
        save_adapter(paths[name], model, adapter_state(model), base={"name": "small"})
    return paths


@torch.inference_mode()
def _logits(model: SpeechModel) -> torch.Tensor:
    clip = torch.randn(1, 8000, generator=torch.Generator().manual_seed(7))
    return model.decoder_logits(model.encode(clip, [8000]), torch.tensor([[1, 5, 9]]))


@pytest.fixture(scope="module")
def expected(build_model: Build, adapters: dict[str, Path]) -> dict[str | None, torch.Tensor]:
    """The logits of the base, and of a model with each adapter alone."""
    logits: dict[str | None, torch.Tensor] = {None: _logits(build_model("v1"))}
    for name, path in adapters.items():
        model = build_model("v1")
        load_adapter(model, path)
        logits[name] = _logits(model)
        assert not torch.allclose(logits[name], logits[None])
    return logits


def test_each_adapter_computes_what_it_computes_alone(
    build_model: Build,
    adapters: dict[str, Path],
    expected: dict[str | None, torch.Tensor],
) -> None:
    model = build_model("v1")
    base = {value.data_ptr() for value in model.module.parameters()}
    switched = AdapterSet(model)
    for name, path in adapters.items():
        switched.add(name, path)
        assert switched.used == name
        assert torch.equal(_logits(model), expected[name])
    assert switched.names == tuple(_KINDS)
    for name in ("words", None, "voice", "both", "words", "words", "voice", None):
        switched.use(name)
        assert torch.equal(_logits(model), expected[name]), name
    # The weights of the base are where they were: nothing was read again or copied.
    assert {value.data_ptr() for value in model.module.parameters()} == base
    assert not has_adapter(model) and not hasattr(model.module, "peft_config")


def test_a_failed_load_leaves_the_adapter_in_use(
    build_model: Build,
    adapters: dict[str, Path],
    expected: dict[str | None, torch.Tensor],
    tmp_path: Path,
) -> None:
    model = build_model("v1")
    switched = AdapterSet(model)
    switched.add("voice", adapters["voice"])
    for name, path in (
        ("gone", tmp_path),
        ("voice", adapters["words"]),
        ("cut", _cut(tmp_path, adapters)),
    ):
        with pytest.raises(RequestError):
            switched.add(name, path)
        assert (switched.names, switched.used) == (("voice",), "voice")
        assert torch.equal(_logits(model), expected["voice"])
    with pytest.raises(RequestError, match="no adapter is called 'words'"):
        switched.use("words")


def _cut(folder: Path, adapters: dict[str, Path]) -> Path:
    """An adapter whose matrices are of another shape than its configuration says."""
    for source, name in (("words", "adapter_config.json"), ("both", "adapter_model.safetensors")):
        (folder / name).write_bytes((adapters[source] / name).read_bytes())
    return folder


def test_an_opened_model_switches_and_transcribes(
    saved_v1: Path, adapters: dict[str, Path], make_clip: Callable[..., Any]
) -> None:
    model = mt.open_model(str(saved_v1), adapter=adapters["voice"], device="cpu")
    assert model.adapters.names == ("default",)
    model.load_adapter("words", adapters["words"])
    texts = {}
    for name in ("default", "words", None):
        model.use_adapter(name)
        texts[name] = mt.transcribe([make_clip(1.0)], model=model)[0].text
    alone = mt.transcribe([make_clip(1.0)], model=str(saved_v1), adapter=adapters["words"])
    assert texts["words"] == alone[0].text
    with pytest.raises(RequestError, match="open already"):
        mt.transcribe([make_clip(1.0)], model=model, adapter=adapters["both"])
