"""Adapters that PEFT alone made: each computes what PEFT computes, or is refused by name."""

import dataclasses
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from moonshine_tune.audio.samples import Samples
from moonshine_tune.core.errors import RequestError
from moonshine_tune.inference.batching import pad_clips
from moonshine_tune.models.adapter_config import (
    ALTERING_STARTS,
    HONORED,
    PLAIN_STARTS,
    WITHOUT_EFFECT,
    lora_fields,
)
from moonshine_tune.models.base import SpeechModel
from moonshine_tune.models.files import ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE
from moonshine_tune.models.lora import (
    adapter_disabled,
    adapter_scale,
    find_adapter,
    load_adapter,
    read_matrices,
)
from moonshine_tune.models.merge import merged_weights

pytestmark = pytest.mark.usefixtures("one_thread")

Build = Callable[..., SpeechModel]
Audio = tuple[Tensor, list[int]]


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="module")
def audio(make_clip: Callable[..., Samples]) -> Audio:
    return pad_clips([make_clip(1.1, 1)], "cpu")  # type: ignore[arg-type]


def _logits(model: SpeechModel, audio: Audio) -> Tensor:
    with torch.no_grad():
        return model.decoder_logits(model.encode(*audio), torch.tensor([[1, 270, 280, 290]]))


def _trained(module: Any, folder: Path, **settings: Any) -> Path:
    """An adapter as after some steps: PEFT makes it, all its weights move, PEFT saves it."""
    defaults = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "fc1"]}
    wrapped = get_peft_model(module, LoraConfig(**(defaults | settings)))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, value in wrapped.named_parameters():
            if "lora_magnitude" in name:
                value.mul_(1.3)
            elif ".lora_" in name:
                value.add_(0.05 * torch.randn(value.shape, generator=generator))
    wrapped.save_pretrained(folder)
    return folder


def _change(folder: Path, **fields: Any) -> Path:
    path = folder / ADAPTER_CONFIG_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return folder


def _assert_as_peft(build: Build, family: str, folder: Path, audio: Audio) -> None:
    """The same logits, and the same weights after merging."""
    theirs, ours = build(family), build(family)
    base = _logits(ours, audio)
    wrapped = PeftModel.from_pretrained(theirs.module, folder).eval()
    expected = _logits(theirs, audio)
    assert not torch.allclose(expected, base, atol=1e-2)
    load_adapter(ours, folder)
    torch.testing.assert_close(_logits(ours, audio), expected, atol=2e-4, rtol=2e-4)
    merged, state = merged_weights(ours), wrapped.merge_and_unload().state_dict()
    for name, value in merged.items():
        torch.testing.assert_close(value, state[name], atol=1e-5, rtol=1e-4)
    plain = build(family).module.state_dict()
    changed = {name for name, value in state.items() if not torch.equal(value, plain[name])}
    assert changed == set(merged)


_DECODER = r".*decoder.*\.(fc1|fc2)"
_HONORED: dict[str, dict[str, Any]] = {
    "r": {"r": 3},
    "lora_alpha": {"lora_alpha": 5},
    "target_modules": {"target_modules": _DECODER},
    "target_modules: all": {"target_modules": "all-linear"},
    "exclude_modules": {"exclude_modules": r".*encoder\.layers.*"},
    "exclude_modules: list": {"exclude_modules": ["fc1"]},
    "use_rslora": {"use_rslora": True},
    "use_dora": {"use_dora": True},
    "rank_pattern": {"rank_pattern": {r".*encoder.*q_proj": 2, "fc1": 6}},
    "alpha_pattern": {"alpha_pattern": {r"decoder.*\.q_proj": 20, "fc1": 1}},
    "layers_to_transform": {"layers_to_transform": [1], "layers_pattern": "layers"},
    "layers_pattern": {"layers_to_transform": 0, "layers_pattern": ["layers"]},
    "fan_in_fan_out": {"fan_in_fan_out": True},
}
_STARTS: dict[str, dict[str, Any]] = {
    "False": {"init_lora_weights": False},
    "gaussian": {"init_lora_weights": "gaussian"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "eva": {"init_lora_weights": "eva"},
    "mica": {"init_lora_weights": "mica"},
    "pissa": {"init_lora_weights": "pissa"},
    "olora": {"init_lora_weights": "olora"},
    "OLoRA": {"init_lora_weights": "OLoRA"},
    "pissa, rank-stabilized": {"init_lora_weights": "pissa", "use_rslora": True},
    "olora, patterns": {
        "init_lora_weights": "olora", "rank_pattern": {"fc1": 2}, "alpha_pattern": {"q_proj": 3},
    },
    "pissa, dora": {"init_lora_weights": "pissa", "use_dora": True},
    "olora, decoder": {"init_lora_weights": "olora", "target_modules": _DECODER},
}  # fmt: skip


_BOTH_FAMILIES = ("target_modules: all", "exclude_modules", "use_dora", "pissa", "olora")


@pytest.mark.parametrize(
    ("kind", "family"),
    [*((kind, "v1") for kind in (_HONORED | _STARTS)), *((k, "streaming") for k in _BOTH_FAMILIES)],
)
def test_an_adapter_computes_what_peft_computes(
    build_model: Build, audio: Audio, tmp_path: Path, kind: str, family: str
) -> None:
    settings = (_HONORED | _STARTS)[kind]
    folder = _trained(build_model(family).module, tmp_path / "adapter", **settings)
    _assert_as_peft(build_model, family, folder, audio)


_EFFECTLESS: dict[str, Any] = {
    "base_model_name_or_path": "someone/else",
    "revision": "main",
    "auto_mapping": {"base_model_class": "Other", "parent_library": "other"},
    "task_type": "FEATURE_EXTRACTION",
    "peft_version": "0.4.0",
    "lora_dropout": 0.5,
    "inference_mode": False,
    "megatron_core": "other.core",
    "qalora_group_size": 2,
    "loftq_config": {"loftq_bits": 2},
    "eva_config": {"rho": 3.0},
    "corda_config": {"corda_method": "kpm"},
    "lora_ga_config": {"stable_gamma": 4},
}


def test_fields_without_effect_have_none_in_peft(
    build_model: Build, audio: Audio, tmp_path: Path
) -> None:
    # PEFT does not save the settings of a process.
    assert set(_EFFECTLESS) == WITHOUT_EFFECT - {"runtime_config"}
    folder = _trained(build_model("v1").module, tmp_path / "adapter")
    _assert_as_peft(build_model, "v1", _change(folder, **_EFFECTLESS), audio)


# --- every field


@pytest.fixture
def folder(build_model: Build, tmp_path: Path) -> Path:
    return _trained(build_model("v1").module, tmp_path / "adapter")


_FIELDS = LoraConfig(target_modules="q_proj", lora_alpha=8).to_dict() | {"peft_type": "LORA"}
_CONFIG_PATH = Path("adapter") / ADAPTER_CONFIG_FILE
_KNOWN = {*HONORED, *WITHOUT_EFFECT, "peft_type", "init_lora_weights"}
_OTHERS = sorted({item.name for item in dataclasses.fields(LoraConfig)} - _KNOWN)


def test_every_honored_field_is_compared_with_peft() -> None:
    assert {name.partition(":")[0] for name in _HONORED} == set(HONORED)
    starts = {settings["init_lora_weights"] for settings in _STARTS.values()} | {None, True}
    assert {*PLAIN_STARTS, *ALTERING_STARTS} <= starts


@pytest.mark.parametrize("field", [*_OTHERS, "a_field_of_a_later_peft"])
@pytest.mark.parametrize("value", [True, "all", ["norm"], {"kind": 1}, 3])
def test_every_other_field_is_refused_once_it_is_set(field: str, value: Any) -> None:
    with pytest.raises(RequestError, match=f"more than LoRA matrices: {field} ") as caught:
        lora_fields(_FIELDS | {field: value}, _CONFIG_PATH)
    assert caught.value.where == str(_CONFIG_PATH)
    assert "--model" in str(caught.value.hint)


@pytest.mark.parametrize(
    "fields",
    [
        {"r": "4"}, {"r": 4.0}, {"r": True}, {"r": 0}, {"r": 10**9}, {"lora_alpha": None},
        {"lora_alpha": "16"}, {"lora_alpha": 10**400}, {"use_rslora": "no"},
        {"use_dora": "false"}, {"use_rslora": 1}, {"alpha_pattern": {"q_proj": "x"}},
        {"rank_pattern": {"q_proj": 0}}, {"rank_pattern": ["q_proj"]}, {"layers_to_transform": "0"},
        {"layers_to_transform": [0, "1"]}, {"target_modules": 3},
        {"fan_in_fan_out": 0},
    ],
)  # fmt: skip
def test_values_of_another_type_are_refused_before_peft_reads_them(fields: dict[str, Any]) -> None:
    (name,) = fields
    with pytest.raises(RequestError, match=f"values that PEFT does not write: {name} "):
        lora_fields(_FIELDS | fields, _CONFIG_PATH)


@pytest.mark.parametrize("kind", ["nan", "inf", "int8"])
def test_matrices_that_cannot_be_right_are_refused(folder: Path, kind: str) -> None:
    path = folder / ADAPTER_WEIGHTS_FILE
    matrices = read_matrices(path)
    name = sorted(matrices)[0]
    if kind == "int8":
        matrices = {key: value.to(torch.int8) for key, value in matrices.items()}
    else:
        matrices[name].view(-1)[0] = float(kind)
    save_file(matrices, path)
    with pytest.raises(RequestError, match="quantized" if kind == "int8" else "not finite"):
        read_matrices(path)


def test_what_an_adapter_needs_is_read_before_it_is_applied(
    build_model: Build, folder: Path
) -> None:
    for fields in ({"bias": "all"}, {"init_lora_weights": "corda"}, {"peft_type": "IA3"}):
        with pytest.raises(RequestError, match=next(iter(fields))):
            load_adapter(build_model("v1"), _change(folder, **(_FIELDS | fields)))


@pytest.mark.parametrize("value", [None, False, [], {}])
def test_a_field_of_a_later_peft_that_is_not_in_use_is_accepted(value: Any) -> None:
    assert "later" not in lora_fields(_FIELDS | {"later": value}, _CONFIG_PATH)


@pytest.mark.parametrize("kind", ["LOHA", "IA3", "ADALORA", "LOKR", "PROMPT_TUNING", "OFT", 3])
def test_another_kind_of_adapter_is_refused_by_name(
    build_model: Build, folder: Path, kind: Any
) -> None:
    with pytest.raises(RequestError, match=f"peft_type {kind!r}"):
        lora_fields(_FIELDS | {"peft_type": kind}, _CONFIG_PATH)
    path = folder / ADAPTER_CONFIG_FILE
    path.write_text(json.dumps({"peft_type": kind}))
    with pytest.raises(RequestError, match=f"peft_type {kind!r}"):
        load_adapter(build_model("v1"), folder)


@pytest.mark.parametrize(
    "start", ["pissa_niter_4", "corda", "loftq", "lora_ga", "PiSSA", "kasa", "later", 7]
)
def test_a_start_that_cannot_be_repeated_is_refused_with_the_conversion(start: Any) -> None:
    with pytest.raises(RequestError, match=f"init_lora_weights {start!r}") as caught:
        lora_fields(_FIELDS | {"init_lora_weights": start}, _CONFIG_PATH)
    assert "path_initial_model_for_weight_conversion" in str(caught.value.hint)


# --- the base stays the base


@pytest.mark.parametrize("start", ALTERING_STARTS)
def test_without_the_adapter_the_base_is_unaltered(
    build_model: Build, audio: Audio, tmp_path: Path, start: str
) -> None:
    model = build_model("v1")
    before = _logits(model, audio)
    folder = _trained(build_model("v1").module, tmp_path / "a", init_lora_weights=start)
    load_adapter(model, folder)
    with adapter_disabled(model):
        assert torch.equal(_logits(model, audio), before)
    with adapter_scale(model, 0.0):
        torch.testing.assert_close(_logits(model, audio), before, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("start", ["pissa", "olora", "pissa_niter_4"])
def test_an_adapter_that_peft_converted_to_plain_lora_loads(
    build_model: Build, audio: Audio, tmp_path: Path, start: str, rslora: bool
) -> None:
    """As the hint of the refusal says."""
    theirs = build_model("v1")
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=["q_proj"], init_lora_weights=start, use_rslora=rslora
    )
    wrapped = get_peft_model(theirs.module, config)
    wrapped.peft_config["default"].init_lora_weights = True
    wrapped.save_pretrained(tmp_path / "start")
    wrapped.peft_config["default"].init_lora_weights = start
    with torch.no_grad():
        for name, value in wrapped.named_parameters():
            if ".lora_" in name:
                value.mul_(1.2)
    expected = _logits(theirs, audio)
    wrapped.save_pretrained(
        tmp_path / "a", path_initial_model_for_weight_conversion=str(tmp_path / "start")
    )
    ours = build_model("v1")
    load_adapter(ours, tmp_path / "a")
    torch.testing.assert_close(_logits(ours, audio), expected, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("start", ALTERING_STARTS)
def test_a_16_bit_base_keeps_the_difference(build_model: Build, tmp_path: Path, start: str) -> None:
    model = build_model("v1")
    folder = _trained(build_model("v1").module, tmp_path / "a", init_lora_weights=start)
    load_adapter(model, folder)
    half = build_model("v1")
    half.module.to(torch.bfloat16)
    load_adapter(half, folder)
    for name, value in merged_weights(half).items():
        torch.testing.assert_close(value, merged_weights(model)[name], atol=0.1, rtol=0.02)


# --- layers


def _linear_layers(model: SpeechModel) -> list[str]:
    return [name for name, module in model.module.named_modules() if isinstance(module, nn.Linear)]


@pytest.mark.parametrize("family", ["v1", "streaming"])
def test_every_linear_layer_can_be_adapted(
    build_model: Build, audio: Audio, tmp_path: Path, family: str
) -> None:
    """No faster path of this program passes a layer's adapter by."""
    theirs = build_model(family)
    base = _logits(theirs, audio)
    names = sorted({name.rsplit(".", 1)[-1] for name in _linear_layers(theirs)})
    for number, name in enumerate(names):
        theirs, ours = build_model(family), build_model(family)
        folder = _trained(theirs.module, tmp_path / str(number), target_modules=[name])
        expected = _logits(theirs, audio)
        load_adapter(ours, folder)
        assert not torch.allclose(expected, base, atol=1e-3), name
        torch.testing.assert_close(_logits(ours, audio), expected, msg=name)


@pytest.mark.parametrize(
    ("family", "target", "kind"),
    [("v1", "embed_tokens", "Embedding"), ("v1", "conv2", "Conv1d")],
)
def test_layers_that_are_not_linear_are_refused_by_name(
    build_model: Build, tmp_path: Path, family: str, target: str, kind: str
) -> None:
    folder = _trained(build_model(family).module, tmp_path / "a", target_modules=["q_proj", target])
    with pytest.raises(RequestError, match=rf"not linear: .*{target} \({kind}\)"):
        load_adapter(build_model(family), folder)


# --- files that do not fit


def _rewrite(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Path:
    path = folder / ADAPTER_WEIGHTS_FILE
    state = change(load_file(path))
    save_file({name: value.contiguous() for name, value in state.items()}, path)
    return folder


_MISFITS: dict[str, tuple[Callable[[dict[str, Tensor]], dict[str, Tensor]], str]] = {
    "the name in the keys": (
        lambda state: {k.replace(".weight", ".german.weight"): v for k, v in state.items()},
        r"hold the adapter's name \(german\)",
    ),
    "another prefix": (
        lambda state: {k.removeprefix("base_model.model."): v for k, v in state.items()},
        "keys start with 'model.' instead of 'base_model.model.model.'",
    ),
    "a compiled model": (
        lambda state: {k.replace(".model.", "._orig_mod.", 1): v for k, v in state.items()},
        "keys start with 'base_model._orig_mod.model.' instead of 'base_model.model.model.'",
    ),
    "another tool": (
        lambda state: {k.replace("lora_A", "lora_down"): v for k, v in state.items()},
        "is not a key of PEFT",
    ),
    "other weights too": (
        lambda state: state | {"base_model.model.model.decoder.norm.weight": torch.ones(32)},
        r"1 are not expected \(base_model.model.model.decoder.norm.weight\).*would be lost",
    ),
    "half of it": (
        lambda state: {k: v for k, v in state.items() if "lora_A" in k},
        "6 of 12 keys are missing.*incomplete",
    ),
    "another rank": (
        lambda state: {k: v[:2] if "lora_A" in k else v[:, :2] for k, v in state.items()},
        r"12 have another shape .*rank of its matrices",
    ),
    "more layers": (
        lambda state: state | {
            k.replace("layers.1.", "layers.7."): v.clone() for k, v in state.items()
        },
        "6 are not expected .*more layers",
    ),
    "another width": (
        lambda state: {k: v[:, :9] if "lora_A" in k else v for k, v in state.items()},
        r"\(4, 9\) instead of \(4, 32\).*another width",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", list(_MISFITS))
def test_a_mismatch_names_the_keys_and_the_reason(
    build_model: Build, tmp_path: Path, kind: str
) -> None:
    change, words = _MISFITS[kind]
    folder = _trained(build_model("v1").module, tmp_path / "a", target_modules=["q_proj"])
    _change(_rewrite(folder, change), base_model_name_or_path="org/its-base")
    with pytest.raises(RequestError, match=words) as caught:
        load_adapter(build_model("v1"), folder)
    assert "does not fit this model" in caught.value.message
    assert "names the base org/its-base" in caught.value.message
    assert caught.value.hint and caught.value.where == str(folder)


@pytest.mark.parametrize(
    "fields",
    [
        {"target_modules": ["k_projection"]},
        {"target_modules": "(unclosed"},
        {"target_modules": 5},
        {"r": 0},
        {"r": "four"},
        {"lora_alpha": "x"},
        {"rank_pattern": [1]},
    ],
)
def test_a_configuration_that_peft_refuses_is_one_plain_error(
    build_model: Build, folder: Path, fields: dict[str, Any]
) -> None:
    with pytest.raises(RequestError) as caught:
        load_adapter(build_model("v1"), _change(folder, **fields))
    assert str(folder) in str(caught.value.where)


def test_an_adapter_of_the_other_family_is_refused(build_model: Build, folder: Path) -> None:
    with pytest.raises(RequestError, match="does not fit this model"):
        load_adapter(build_model("streaming"), folder)


def test_an_adapter_in_a_folder_of_its_name_is_pointed_at(folder: Path) -> None:
    inner = folder.parent / "all" / "german"
    inner.parent.mkdir()
    folder.rename(inner)
    with pytest.raises(RequestError, match="no adapter in this folder") as caught:
        find_adapter(inner.parent)
    assert "german" in str(caught.value.hint)


def test_a_pickled_adapter_is_refused_with_the_conversion(folder: Path) -> None:
    (folder / ADAPTER_WEIGHTS_FILE).rename(folder / "adapter_model.bin")
    with pytest.raises(RequestError, match="pickled") as caught:
        find_adapter(folder)
    assert "save_pretrained" in str(caught.value.hint)
