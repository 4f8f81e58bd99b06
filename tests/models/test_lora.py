"""LoRA adapters: no effect at first, exact on disk, readable by PEFT, checked when loaded."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from moonshine_tune.audio.samples import Samples
from moonshine_tune.core.errors import RequestError
from moonshine_tune.inference.batching import pad_clips
from moonshine_tune.models.base import SpeechModel
from moonshine_tune.models.files import ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE
from moonshine_tune.models.lora import (
    BASE_FILE,
    TARGET_MODULES,
    adapter_disabled,
    adapter_parameters,
    adapter_scale,
    adapter_state,
    find_adapter,
    has_adapter,
    inject_lora,
    load_adapter,
    load_adapter_state,
    save_adapter,
)
from moonshine_tune.models.merge import merged_weights

pytestmark = pytest.mark.usefixtures("one_thread")

_BASE = {"name": "small", "family": "any", "sha256": "a" * 64}
Build = Callable[..., SpeechModel]


@pytest.fixture(scope="module")
def audio(make_clip: Callable[..., Samples]) -> tuple[Tensor, list[int]]:
    return pad_clips([make_clip(1.3, 1), make_clip(0.8, 2)], "cpu")  # type: ignore[arg-type]


def _logits(model: SpeechModel, audio: tuple[Tensor, list[int]]) -> Tensor:
    ids = torch.tensor([[1, 270, 280, 290], [1, 265, 266, 267]])
    with torch.no_grad():
        return model.decoder_logits(model.encode(*audio), ids)


def _move(model: SpeechModel, seed: int = 5) -> None:
    """Give all matrices random values, as after training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in adapter_parameters(model.module):
            noise = 0.1 * torch.randn(value.shape, generator=generator)
            # Magnitudes stay near their start, as in training; matrices start from zero.
            value.copy_(value * (1 + noise) if "magnitude" in name else noise)


def _saved(model: SpeechModel, folder: Path, *, scale: float = 1.0) -> Path:
    folder.mkdir()
    save_adapter(folder, model, adapter_state(model), scale=scale, base=_BASE)
    return folder


@pytest.mark.parametrize("sites", sorted(TARGET_MODULES))
def test_a_fresh_adapter_changes_nothing(
    tiny_model: SpeechModel, audio: tuple[Tensor, list[int]], sites: str
) -> None:
    before = _logits(tiny_model, audio)
    summary = inject_lora(tiny_model, rank=4, sites=sites)
    assert torch.equal(_logits(tiny_model, audio), before)
    assert summary.modules > 0
    assert summary.touches_encoder == (sites in ("qv", "attention", "encoder", "all"))
    trainable = {
        name for name, value in tiny_model.module.named_parameters() if value.requires_grad
    }
    assert trainable == {name for name, _ in adapter_parameters(tiny_model.module)}
    assert has_adapter(tiny_model)


def test_the_target_modules_are_the_named_layers(build_model: Build) -> None:
    """Two layers a side: 4 + 4 + 2 linear layers in a decoder layer, 4 + 2 in an encoder layer."""
    counts = {}
    for sites in TARGET_MODULES:
        counts[sites] = inject_lora(build_model("v1"), sites=sites).modules
    assert counts == {
        "qv": 12, "attention": 24, "all": 32, "decoder": 20, "decoder-attention": 12,
        "decoder-self-attention": 8, "cross-attention": 8, "encoder": 12,
    }  # fmt: skip


def test_unknown_sites_are_refused(tiny_v1: SpeechModel) -> None:
    with pytest.raises(RequestError, match="'decoders'"):
        inject_lora(tiny_v1, sites="decoders")


def test_the_seed_decides_the_matrices_and_global_randomness_is_untouched(
    build_model: Build,
) -> None:
    def first(seed: int) -> Tensor:
        model = build_model("v1")
        inject_lora(model, seed=seed)
        return next(iter(adapter_state(model).values()))

    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    same = torch.equal(first(1), first(1))
    assert same
    assert not torch.equal(first(1), first(2))
    assert torch.equal(torch.rand(3), expected)


KINDS = [{}, {"rslora": True}, {"dora": True}, {"rslora": True, "dora": True}]


def _named(kind: dict[str, bool]) -> str:
    return "+".join(kind) or "lora"


def test_rslora_divides_by_the_root_of_the_rank(build_model: Build) -> None:
    scalings = []
    for rslora in (False, True):
        model = build_model("v1")
        inject_lora(model, rank=4, alpha=12, rslora=rslora)
        scalings.append(model.decoder.layers[0].self_attn.q_proj.scaling["default"])
    assert scalings == [3.0, 6.0]


@pytest.mark.parametrize("sites", sorted(TARGET_MODULES))
def test_a_fresh_dora_changes_nothing_and_trains_magnitudes(
    tiny_model: SpeechModel, audio: tuple[Tensor, list[int]], sites: str
) -> None:
    before = _logits(tiny_model, audio)
    summary = inject_lora(tiny_model, rank=4, sites=sites, dora=True)
    torch.testing.assert_close(_logits(tiny_model, audio), before, rtol=1e-5, atol=1e-5)
    magnitudes = [n for n, _ in adapter_parameters(tiny_model.module) if "magnitude" in n]
    assert len(magnitudes) == summary.modules == len(adapter_parameters(tiny_model.module)) // 3
    trainable = {n for n, value in tiny_model.module.named_parameters() if value.requires_grad}
    assert trainable == {name for name, _ in adapter_parameters(tiny_model.module)}


@pytest.mark.parametrize("kind", KINDS, ids=_named)
@pytest.mark.parametrize("sites", ["decoder", "all"])
def test_saving_and_loading_is_exact(
    tiny_model: SpeechModel,
    build_model: Build,
    audio: tuple[Tensor, list[int]],
    tmp_path: Path,
    sites: str,
    kind: dict[str, bool],
) -> None:
    before = _logits(tiny_model, audio)
    inject_lora(tiny_model, rank=4, alpha=12, sites=sites, **kind)
    _move(tiny_model)
    adapted = _logits(tiny_model, audio)
    assert not torch.allclose(adapted, before, atol=1e-2)
    folder = _saved(tiny_model, tmp_path / "adapter")
    again = build_model(tiny_model.family)
    assert load_adapter(again, tmp_path) == folder
    assert torch.equal(_logits(again, audio), adapted)
    assert not any(value.requires_grad for value in again.module.parameters())


@pytest.mark.parametrize("kind", KINDS, ids=_named)
def test_plain_peft_reads_the_folder(
    tiny_model: SpeechModel,
    build_model: Build,
    audio: tuple[Tensor, list[int]],
    tmp_path: Path,
    kind: dict[str, bool],
) -> None:
    from peft import PeftModel

    inject_lora(tiny_model, rank=4, alpha=12, sites="all", **kind)
    _move(tiny_model)
    folder = _saved(tiny_model, tmp_path / "adapter")
    plain = build_model(tiny_model.family)
    wrapped = PeftModel.from_pretrained(plain.module, folder)
    assert wrapped.peft_config["default"].task_type is None
    # PEFT injects in place, so the interface around the bare module sees the adapter too.
    torch.testing.assert_close(_logits(plain, audio), _logits(tiny_model, audio))


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_the_scale_is_part_of_the_saved_adapter(
    tiny_model: SpeechModel,
    build_model: Build,
    audio: tuple[Tensor, list[int]],
    tmp_path: Path,
    scale: float,
    dora: bool,
) -> None:
    inject_lora(tiny_model, rank=4, alpha=12, dora=dora)
    _move(tiny_model)
    with adapter_scale(tiny_model, scale):
        reference = _logits(tiny_model, audio)
    folder = _saved(tiny_model, tmp_path / "adapter", scale=scale)
    assert json.loads((folder / ADAPTER_CONFIG_FILE).read_text())["lora_alpha"] == 12 * scale
    again = build_model(tiny_model.family)
    load_adapter(again, folder)
    torch.testing.assert_close(_logits(again, audio), reference)


def test_half_the_scale_is_half_the_effect(tiny_v1: SpeechModel) -> None:
    """On one layer, where the effect is linear."""
    inject_lora(tiny_v1, rank=4)
    _move(tiny_v1)
    layer = tiny_v1.decoder.layers[0].mlp.fc2
    inputs = torch.randn(2, layer.in_features)
    full = layer(inputs)
    with adapter_disabled(tiny_v1):
        base = layer(inputs)
    with adapter_scale(tiny_v1, 0.5):
        half = layer(inputs)
    torch.testing.assert_close(half - base, 0.5 * (full - base))
    assert torch.equal(layer(inputs), full)


def test_dora_at_scale_0_is_the_base(
    tiny_model: SpeechModel, audio: tuple[Tensor, list[int]]
) -> None:
    before = _logits(tiny_model, audio)
    inject_lora(tiny_model, rank=4, dora=True)
    _move(tiny_model)
    full = _logits(tiny_model, audio)
    with adapter_scale(tiny_model, 1e-9):
        torch.testing.assert_close(_logits(tiny_model, audio), before, rtol=1e-4, atol=1e-4)
    assert torch.equal(_logits(tiny_model, audio), full)


def test_a_disabled_adapter_is_the_base(
    tiny_model: SpeechModel, audio: tuple[Tensor, list[int]]
) -> None:
    before = _logits(tiny_model, audio)
    inject_lora(tiny_model, rank=4)
    _move(tiny_model)
    adapted = _logits(tiny_model, audio)
    with pytest.raises(ZeroDivisionError), adapter_disabled(tiny_model):
        assert torch.equal(_logits(tiny_model, audio), before)
        _ = 1 / 0
    # An error inside the block leaves the adapter on and trainable.
    assert torch.equal(_logits(tiny_model, audio), adapted)
    assert all(value.requires_grad for _, value in adapter_parameters(tiny_model.module))


@pytest.mark.parametrize("dora", [False, True])
def test_the_base_stays_frozen_after_a_disabled_block(tiny_v1: SpeechModel, dora: bool) -> None:
    inject_lora(tiny_v1, rank=4, dora=dora)
    before = {name for name, value in tiny_v1.module.named_parameters() if value.requires_grad}
    with adapter_disabled(tiny_v1):
        pass
    trainable = [name for name, value in tiny_v1.module.named_parameters() if value.requires_grad]
    assert set(trainable) == before
    assert all(".lora_" in name for name in trainable)


def test_a_loaded_adapter_stays_frozen_after_a_disabled_block(
    tiny_v1: SpeechModel, build_model: Build, tmp_path: Path
) -> None:
    inject_lora(tiny_v1, rank=4)
    folder = _saved(tiny_v1, tmp_path / "adapter")
    again = build_model("v1")
    load_adapter(again, folder)
    with adapter_disabled(again):
        pass
    assert not any(value.requires_grad for value in again.module.parameters())


@pytest.mark.parametrize("kind", KINDS, ids=_named)
def test_merged_weights_compute_what_the_adapter_computes(
    tiny_model: SpeechModel,
    build_model: Build,
    audio: tuple[Tensor, list[int]],
    kind: dict[str, bool],
) -> None:
    inject_lora(tiny_model, rank=4, alpha=12, sites="all", **kind)
    _move(tiny_model)
    merged = merged_weights(tiny_model)
    plain = build_model(tiny_model.family)
    own = dict(plain.module.named_parameters())
    assert len(merged) == 32
    with torch.no_grad():
        for name, value in merged.items():
            assert not torch.equal(own[name], value)
            own[name].copy_(value)
    torch.testing.assert_close(
        _logits(plain, audio), _logits(tiny_model, audio), rtol=1e-4, atol=1e-4
    )


def test_merged_weights_follow_the_scale(tiny_v1: SpeechModel) -> None:
    inject_lora(tiny_v1, rank=4, sites="decoder-attention")
    _move(tiny_v1)
    full = merged_weights(tiny_v1)
    with adapter_scale(tiny_v1, 0.5):
        half = merged_weights(tiny_v1)
    modules = dict(tiny_v1.module.named_modules())
    for name, value in full.items():
        base = modules[name.removesuffix(".weight")].base_layer.weight
        torch.testing.assert_close(half[name] - base, 0.5 * (value - base))


def test_matrices_stay_in_32_bits_on_a_16_bit_base(build_model: Build) -> None:
    model = build_model("v1")
    model.module.to(torch.bfloat16)
    inject_lora(model, rank=2)
    assert {value.dtype for _, value in adapter_parameters(model.module)} == {torch.float32}


def test_the_folder_holds_no_pickle_and_names_its_base(
    tiny_v1: SpeechModel, tmp_path: Path
) -> None:
    inject_lora(tiny_v1, rank=4, alpha=8)
    folder = _saved(tiny_v1, tmp_path / "adapter")
    assert {path.name for path in folder.iterdir()} == {
        ADAPTER_WEIGHTS_FILE,
        ADAPTER_CONFIG_FILE,
        BASE_FILE,
    }
    config = json.loads((folder / ADAPTER_CONFIG_FILE).read_text())
    assert (config["r"], config["lora_alpha"], config["task_type"]) == (4, 8, None)
    assert config["base_model_name_or_path"] == "small"
    assert config["peft_type"] == "LORA"
    assert json.loads((folder / BASE_FILE).read_text()) == _BASE
    names = set(load_file(folder / ADAPTER_WEIGHTS_FILE))
    assert "base_model.model.model.decoder.layers.0.self_attn.q_proj.lora_A.weight" in names
    assert not any(".default." in name for name in names)


# --- refusals


@pytest.fixture
def saved(tiny_v1: SpeechModel, tmp_path: Path) -> Path:
    """An adapter of rank 4 on the small v1 model."""
    inject_lora(tiny_v1, rank=4)
    _move(tiny_v1)
    return _saved(tiny_v1, tmp_path / "adapter")


def test_a_matrix_of_another_shape_is_refused(build_model: Build, saved: Path) -> None:
    (saved / BASE_FILE).unlink()
    weights = load_file(saved / ADAPTER_WEIGHTS_FILE)
    name = next(name for name in weights if "fc2.lora_A" in name)
    weights[name] = torch.zeros(4, 7)
    save_file(weights, saved / ADAPTER_WEIGHTS_FILE)
    with pytest.raises(RequestError, match=r"does not fit.* 1 have another shape") as caught:
        load_adapter(build_model("v1"), saved)
    assert name in caught.value.message


def test_a_missing_matrix_is_refused(build_model: Build, saved: Path) -> None:
    weights = load_file(saved / ADAPTER_WEIGHTS_FILE)
    name = sorted(weights)[0]
    del weights[name]
    save_file(weights, saved / ADAPTER_WEIGHTS_FILE)
    with pytest.raises(RequestError, match="does not fit") as caught:
        load_adapter(build_model("v1"), saved)
    assert name in caught.value.message


def test_an_extra_matrix_is_refused(build_model: Build, saved: Path) -> None:
    weights = load_file(saved / ADAPTER_WEIGHTS_FILE)
    weights["base_model.model.model.encoder.layers.0.mlp.fc1.lora_A.weight"] = torch.zeros(4, 32)
    save_file(weights, saved / ADAPTER_WEIGHTS_FILE)
    with pytest.raises(RequestError, match="does not fit"):
        load_adapter(build_model("v1"), saved)


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        (ADAPTER_CONFIG_FILE, lambda path: path.write_text("{")),
        (ADAPTER_CONFIG_FILE, lambda path: path.write_text("{}")),
        (ADAPTER_WEIGHTS_FILE, lambda path: path.write_bytes(path.read_bytes()[:300])),
    ],
)
def test_a_damaged_folder_is_one_plain_error(
    build_model: Build, saved: Path, file: str, damage: Callable[[Path], Any]
) -> None:
    damage(saved / file)
    with pytest.raises(RequestError) as caught:
        load_adapter(build_model("v1"), saved)
    assert caught.value.where is not None


def test_a_folder_without_an_adapter_is_refused(tmp_path: Path, saved: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match="no adapter in this folder"):
        find_adapter(tmp_path / "empty")
    assert find_adapter(saved.parent) == find_adapter(saved) == saved
    shutil.rmtree(saved)
    with pytest.raises(RequestError, match="no such folder") as caught:
        find_adapter(saved)
    assert caught.value.where == str(saved)


def test_state_of_another_shape_is_refused(build_model: Build) -> None:
    small, large = build_model("v1"), build_model("v1")
    inject_lora(small, rank=2)
    inject_lora(large, rank=4)
    before = copy.deepcopy(adapter_state(large))
    with pytest.raises(RequestError, match="another shape"):
        load_adapter_state(large, adapter_state(small))
    after = adapter_state(large)
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_saved_state_is_a_copy(tiny_v1: SpeechModel) -> None:
    inject_lora(tiny_v1, rank=2)
    state = adapter_state(tiny_v1)
    kept = {name: value.clone() for name, value in state.items()}
    _move(tiny_v1)
    assert all(torch.equal(state[name], value) for name, value in kept.items())
    load_adapter_state(tiny_v1, state)
    assert all(torch.equal(adapter_state(tiny_v1)[name], value) for name, value in kept.items())
