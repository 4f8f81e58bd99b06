"""Which files hold a checkpoint's weights, and what identifies them."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from moonshine_tune.core.errors import RequestError
from moonshine_tune.models import fingerprint as fingerprints
from moonshine_tune.models.base import SpeechModel
from moonshine_tune.models.checkpoint import is_checkpoint_folder, load_checkpoint
from moonshine_tune.models.files import refuse_stray_adapter, weight_files
from moonshine_tune.models.fingerprint import Fingerprint, compare_weights, fingerprint_of

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def folder(saved_v1: Path, tmp_path: Path) -> Path:
    """A copy of the small v1 checkpoint."""
    return Path(shutil.copytree(saved_v1, tmp_path / "model"))


def _weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def _other(folder: Path) -> dict[str, Tensor]:
    return {name: value + 1 for name, value in _weights(folder).items()}


def _into_shards(folder: Path) -> None:
    """As `save_pretrained(max_shard_size=…)` writes it, with metadata of its own."""
    state = _weights(folder)
    names = sorted(state)
    weight_map = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        name = f"model-0000{number}-of-00002.safetensors"
        save_file({key: state[key] for key in part}, folder / name, metadata={"by": "somebody"})
        weight_map |= dict.fromkeys(part, name)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _set_config(folder: Path, **fields: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


# --- the model's own files


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "name",
    [
        "model_before.safetensors", "a.safetensors", "zzz.safetensors", "model.fp16.safetensors",
        "adapter_model.safetensors", "optimizer.safetensors", "consolidated.safetensors",
        "model-00001-of-00002.safetensors",
    ],
)  # fmt: skip
def test_weights_beside_the_models_own_are_not_read(
    folder: Path, name: str, dtype: torch.dtype
) -> None:
    expected = load_checkpoint(folder, dtype=dtype).module.state_dict()
    before = fingerprint_of(folder)
    save_file(_other(folder), folder / name)
    loaded = load_checkpoint(folder, dtype=dtype).module.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in expected.items())
    files = weight_files(folder)
    assert [path.name for path in files.paths] == ["model.safetensors"]
    assert files.remark and name in files.remark
    assert fingerprint_of(folder) == before


def test_one_file_is_taken_before_shards_as_transformers_does(folder: Path) -> None:
    from transformers import MoonshineForConditionalGeneration

    _into_shards(folder)
    save_file(_other(folder), folder / "model.safetensors", metadata={"format": "pt"})
    theirs = MoonshineForConditionalGeneration.from_pretrained(folder).state_dict()
    ours = load_checkpoint(folder).module.state_dict()
    assert all(torch.equal(ours[key], value) for key, value in theirs.items())
    assert "model-00001-of-00002" in str(weight_files(folder).remark)


def test_shards_are_those_of_the_index(folder: Path) -> None:
    expected = load_checkpoint(folder).module.state_dict()
    _into_shards(folder)
    (folder / "model.safetensors").rename(folder / "old.safetensors")
    loaded = load_checkpoint(folder).module.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in expected.items())
    assert [path.name for path in weight_files(folder).unread] == ["old.safetensors"]


def test_a_file_that_the_config_names_is_the_model(folder: Path) -> None:
    save_file(_other(folder), folder / "tuned.safetensors")
    _set_config(folder, transformers_weights="tuned.safetensors")
    assert [path.name for path in weight_files(folder).paths] == ["tuned.safetensors"]
    for name in ("../model.safetensors", "/etc/model.safetensors", "..\\a", 3):
        _set_config(folder, transformers_weights=name)
        with pytest.raises(RequestError, match="transformers_weights"):
            weight_files(folder)
    _set_config(folder, transformers_weights="gone.safetensors")
    with pytest.raises(RequestError, match=r"gone\.safetensors is missing"):
        weight_files(folder)


@pytest.mark.parametrize(
    ("files", "words", "hint"),
    [
        (["model.fp16.safetensors"], r"but model\.fp16\.safetensors", "mv model.fp16.safetensors"),
        (["tuned.safetensors", "b.safetensors"], "but b.safetensors, tuned", "mv b.safetensors"),
        (["model-00001-of-00002.safetensors"], "shards without their index", "index.json"),
        (["pytorch_model.bin"], r"only pytorch_model\.bin", "safe_serialization"),
        (["tf_model.h5"], r"only tf_model\.h5", "safe_serialization"),
        (["model.pt"], r"only model\.pt", "safe_serialization"),
        (["adapter_config.json", "adapter_model.safetensors"], "an adapter", "--adapter"),
        ([], "no safetensors weights", "save_pretrained"),
    ],
)
def test_a_folder_without_weights_of_its_own_is_refused(
    folder: Path, files: list[str], words: str, hint: str
) -> None:
    (folder / "model.safetensors").unlink()
    for name in files:
        (folder / name).write_text("{}")
    for look in (weight_files, load_checkpoint):
        with pytest.raises(RequestError, match=words) as caught:
            look(folder)
        assert hint in str(caught.value.hint) and caught.value.where == str(folder)
    assert not is_checkpoint_folder(folder)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": {"a": "../b.safetensors"}}'])
def test_an_index_that_is_not_one_is_refused(folder: Path, content: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(RequestError) as caught:
        load_checkpoint(folder)
    assert "index.json" in str(caught.value.where)


def test_a_missing_shard_is_named(folder: Path) -> None:
    _into_shards(folder)
    (folder / "model.safetensors").unlink()
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(RequestError, match=r"1 of 2 shards are missing: model-00002-of-00002"):
        load_checkpoint(folder)


def test_an_adapter_in_the_folder_is_not_applied_and_named(
    folder: Path, build_model: Callable[..., SpeechModel]
) -> None:
    from peft import LoraConfig, get_peft_model

    before = load_checkpoint(folder).module.state_dict()
    wrapped = get_peft_model(
        build_model("v1").module, LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
    )
    wrapped.save_pretrained(folder)
    loaded = load_checkpoint(folder).module.state_dict()
    assert loaded.keys() == before.keys()
    assert all(torch.equal(loaded[name], value) for name, value in before.items())
    with pytest.raises(RequestError, match="also holds an adapter") as caught:
        refuse_stray_adapter(folder)
    assert f"merge --run {folder}" in str(caught.value.hint)
    with pytest.raises(RequestError, match="also holds an adapter"):
        refuse_stray_adapter(folder, folder.parent)
    refuse_stray_adapter(folder, folder)


# --- their identity


def _saved_as(folder: Path, dtype: torch.dtype, target: Path) -> Path:
    shutil.copytree(folder, target)
    state = {name: value.to(dtype) for name, value in _weights(folder).items()}
    save_file(state, target / "model.safetensors", metadata={"format": "pt"})
    return target


def test_the_same_weights_in_other_files_are_the_same(folder: Path, tmp_path: Path) -> None:
    one = vars(fingerprint_of(folder))
    copy = Path(shutil.copytree(folder, tmp_path / "elsewhere" / "renamed"))
    _into_shards(copy)
    (copy / "model.safetensors").unlink()
    other = vars(fingerprint_of(copy))
    assert other["sha256"] != one["sha256"]
    assert compare_weights(one, other) == "same"
    # A tied head that is stored a second time changes nothing.
    state = _weights(folder)
    state["proj_out.weight"] = state["model.decoder.embed_tokens.weight"].clone()
    save_file(state, folder / "model.safetensors")
    assert compare_weights(one, vars(fingerprint_of(folder))) == "same"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_copy_in_another_precision_is_recognized(
    folder: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    exact = vars(fingerprint_of(folder))
    half = vars(fingerprint_of(_saved_as(folder, dtype, tmp_path / "half")))
    assert compare_weights(exact, half) == compare_weights(half, exact) == "rounded"
    assert (exact["precision"], half["precision"]) == ("float32", str(dtype).removeprefix("torch."))


def test_one_other_weight_is_another_model(folder: Path, tmp_path: Path) -> None:
    one = vars(fingerprint_of(folder))
    state = _weights(folder)
    name = sorted(state)[5]
    state[name].view(-1)[0] *= 1.0001
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    save_file(state, copy / "model.safetensors")
    assert compare_weights(one, vars(fingerprint_of(copy))) == "other"
    # The same values under other names or in other shapes too.
    swapped = dict(zip(sorted(state), (state[key] for key in sorted(state)[::-1]), strict=True))
    save_file(swapped, copy / "model.safetensors")
    assert compare_weights(one, vars(fingerprint_of(copy))) == "other"


def test_records_of_earlier_versions_still_match(folder: Path) -> None:
    own = vars(fingerprint_of(folder))
    assert compare_weights({"sha256": own["sha256"], "name": "m"}, own) == "same"
    assert compare_weights({"sha256": "0" * 64}, own) == "other"
    assert compare_weights({"name": "m"}, own) == "unknown"
    assert compare_weights({}, own) == "unknown"


def test_a_fingerprint_is_measured_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def age() -> None:
        os.utime(folder / "model.safetensors", ns=(1, 1))

    age()
    monkeypatch.setattr(fingerprints, "_SETTLED_NS", -(10**18))
    calls: list[tuple[Path, ...]] = []
    measure = fingerprints._measure

    def counted(paths: tuple[Path, ...]) -> Fingerprint:
        calls.append(paths)
        return measure(paths)

    monkeypatch.setattr(fingerprints, "_measure", counted)
    first = fingerprint_of(folder)
    assert fingerprint_of(folder) == first and len(calls) == 1
    # Other content of the same size with the same modification time.
    save_file(_other(folder), folder / "model.safetensors", metadata={"format": "pt"})
    age()
    assert fingerprint_of(folder) != first and len(calls) == 2


def test_a_fresh_file_is_measured_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within one tick of the file system's clock a second change would not show."""
    monkeypatch.setattr(fingerprints, "_SETTLED_NS", 10**18)
    first = fingerprint_of(folder)
    assert not list(fingerprints.cache_root().glob("fingerprints/*"))
    assert fingerprint_of(folder) == first


@pytest.mark.parametrize("damage", [b"", b"weights", b"\x02\0\0\0\0\0\0\0[]", b"\xff" * 20])
def test_a_damaged_file_is_one_plain_error(folder: Path, damage: bytes) -> None:
    (folder / "model.safetensors").write_bytes(damage)
    with pytest.raises(RequestError, match="cannot be read"):
        fingerprint_of(folder)


def test_a_file_that_is_cut_off_is_one_plain_error(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RequestError, match="it is cut off") as caught:
        fingerprint_of(folder)
    assert caught.value.where == str(path)


# --- weights that are not those of the model


def _rewrite(folder: Path, state: dict[str, Tensor]) -> None:
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused(
    folder: Path, dtype: torch.dtype, value: float
) -> None:
    state = {name: tensor.to(dtype) for name, tensor in _weights(folder).items()}
    _rewrite(folder, state)
    fingerprint_of(folder)
    name = sorted(state)[3]
    state[name].view(-1)[-1] = value
    _rewrite(folder, state)
    with pytest.raises(RequestError, match=f"{re.escape(name)} has values that are not finite"):
        fingerprint_of(folder)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_quantized_weights_are_refused(folder: Path, dtype: torch.dtype) -> None:
    _rewrite(folder, {name: tensor.to(dtype) for name, tensor in _weights(folder).items()})
    with pytest.raises(RequestError, match="quantized"):
        fingerprint_of(folder)


def test_a_quantized_model_is_refused_by_its_config(folder: Path) -> None:
    _set_config(folder, quantization_config={"quant_method": "bitsandbytes"})
    with pytest.raises(RequestError, match="quantization_config"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    "key",
    [
        "model.decoder.layers.2.mlp.fc1.weight",
        "model.encoder.layers.0.self_attn.q_proj.lora_A.weight",
        "model.encoder.layers.0.self_attn.q_proj.bias",
    ],
)  # fmt: skip
def test_weights_without_a_place_in_the_layers_are_refused(folder: Path, key: str) -> None:
    _rewrite(folder, _weights(folder) | {key: torch.ones(4, 4)})
    with pytest.raises(RequestError, match=f"no place in the model.*{re.escape(key)}"):
        load_checkpoint(folder)


def test_a_head_of_another_task_changes_nothing(folder: Path) -> None:
    _rewrite(folder, _weights(folder) | {"ctc_head.weight": torch.ones(4, 4)})
    load_checkpoint(folder)


def test_a_tied_head_may_be_stored_and_may_not_differ(folder: Path) -> None:
    state = _weights(folder)
    head = state["model.decoder.embed_tokens.weight"].clone()
    _rewrite(folder, state | {"proj_out.weight": head})
    load_checkpoint(folder)
    _rewrite(folder, state | {"proj_out.weight": head + 1})
    with pytest.raises(RequestError, match="ties the output head") as caught:
        load_checkpoint(folder)
    assert "tie_word_embeddings" in str(caught.value.hint)


def test_a_tokenizer_with_more_pieces_than_the_model_is_refused(folder: Path) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary |= {f"more{number}": len(vocabulary) + number for number in range(50)}
    path.write_text(json.dumps(content))
    with pytest.raises(RequestError, match="another model's tokenizer"):
        load_checkpoint(folder)
