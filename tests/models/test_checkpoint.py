"""Checkpoint folders: loaded exactly, and refused with a plain error if they are incomplete."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import moonshine_tune.models.checkpoint as checkpoints
from moonshine_tune.audio.samples import Samples
from moonshine_tune.core.errors import RequestError
from moonshine_tune.inference.transcribe import TorchTranscriber
from moonshine_tune.models.base import DecodeLimits, SpeechModel
from moonshine_tune.models.checkpoint import (
    is_checkpoint_folder,
    load_checkpoint,
    load_tokenizer,
    model_type_of,
    wrap_module,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(params=["v1", "streaming"])
def family(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def folder(family: str, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy that may be damaged, in a folder with an awkward name."""
    copy = tmp_path / "mein Modell é"
    shutil.copytree(request.getfixturevalue(f"saved_{family}"), copy)
    return copy


def test_a_loaded_model_equals_the_saved_one(
    folder: Path,
    family: str,
    build_model: Callable[..., SpeechModel],
    make_clip: Callable[..., Samples],
) -> None:
    assert is_checkpoint_folder(folder)
    model, original = load_checkpoint(folder), build_model(family)
    assert model.family == family
    assert not model.module.training
    for (name, value), (saved_name, expected) in zip(
        model.module.named_parameters(), original.module.named_parameters(), strict=True
    ):
        assert name == saved_name
        assert torch.equal(value, expected), name
        assert not value.requires_grad
    clip = [make_clip(1.5)]
    assert TorchTranscriber(model, DecodeLimits()).transcribe(clip) == TorchTranscriber(
        original, DecodeLimits()
    ).transcribe(clip)


def test_the_number_format_is_the_requested_one(folder: Path) -> None:
    model = load_checkpoint(folder, dtype=torch.bfloat16, attention="eager")
    assert model.dtype == torch.bfloat16
    assert model.device == torch.device("cpu")


@pytest.mark.parametrize("most_bytes", [1, 64_000_000])
def test_16_bit_weights_are_read_in_parts(
    folder: Path, most_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every weight is rounded from the stored one, in any number of parts."""
    opened: list[Path] = []

    def recording(path: Path, framework: str) -> Any:
        opened.append(Path(path))
        return safe_open(path, framework=framework)

    monkeypatch.setattr(checkpoints, "safe_open", recording)
    monkeypatch.setattr(checkpoints, "MOST_MAPPED_BYTES", most_bytes)
    full, half = load_checkpoint(folder), load_checkpoint(folder, dtype=torch.bfloat16)
    weights = dict(full.module.named_parameters())
    for name, value in half.module.named_parameters():
        assert torch.equal(value, weights[name].to(torch.bfloat16)), name
    for name, value in full.module.named_buffers():
        assert torch.equal(dict(half.module.named_buffers())[name], value), name
    stored = len(load_file(folder / "model.safetensors"))
    # The model in 32 bits opened it twice, once for its encoder alone.
    assert len(opened) == 2 + (stored if most_bytes == 1 else 1)


def test_the_encoder_has_a_mapping_of_its_own(folder: Path) -> None:
    """So that freeing the encoder frees its memory."""
    model = load_checkpoint(folder)

    def storages(module: Any) -> set[int]:
        return {value.untyped_storage().data_ptr() for value in module.parameters()}

    assert not storages(model.encoder) & (storages(model.decoder) | {
        model.head_weight.untyped_storage().data_ptr()
    })  # fmt: skip


def test_the_interface_has_the_shapes(folder: Path, family: str) -> None:
    model = load_checkpoint(folder)
    assert model.vocabulary_size == 304
    assert model.tokenizer.vocabulary_size <= model.vocabulary_size
    assert model.max_tokens == (96 if family == "v1" else 512)
    assert model.head_weight.shape == (304, 32)


def test_the_tokenizer_restores_texts(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    for text in ("it was the best of times", "naïve 東京", "P-i-t-t-s!", "", "two  spaces"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode([1, *tokenizer.encode("one"), 2]) == "one"
    assert not {0, 1, 2} & set(tokenizer.encode("one é"))


# --- refusals


def test_missing_weights_are_an_error(folder: Path) -> None:
    """transformers would fill them with random numbers and a warning."""
    path = folder / "model.safetensors"
    weights = load_file(path)
    del weights["model.decoder.layers.1.mlp.fc1.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(RequestError, match="1 tensors are missing") as caught:
        load_checkpoint(folder)
    assert "model.decoder.layers.1.mlp.fc1.weight" in caught.value.message


def test_a_missing_head_is_an_error_unless_it_is_tied(folder: Path, family: str) -> None:
    """v1 ties its head to the embedding and does not store it; the streaming family has a head."""
    path = folder / "model.safetensors"
    weights = load_file(path)
    assert ("proj_out.weight" in weights) == (family == "streaming")
    if family == "streaming":
        del weights["proj_out.weight"]
        save_file(weights, path, metadata={"format": "pt"})
        with pytest.raises(RequestError, match=r"proj_out\.weight"):
            load_checkpoint(folder)


def test_weights_of_another_shape_are_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    weights["model.decoder.norm.weight"] = torch.ones(7)
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(RequestError, match=r"model\.decoder\.norm\.weight") as caught:
        load_checkpoint(folder)
    assert caught.value.where == str(folder)


def test_weights_that_are_cut_off_are_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(RequestError) as caught:
        load_checkpoint(folder)
    assert str(folder) in (caught.value.where or "")


def test_pickled_weights_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert not is_checkpoint_folder(folder)
    with pytest.raises(RequestError, match="no safetensors weights"):
        load_checkpoint(folder)


def test_a_missing_or_broken_tokenizer_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(RequestError, match="not a tokenizer") as caught:
        load_checkpoint(folder)
    assert caught.value.where == str(folder / "tokenizer.json")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(RequestError, match=r"no tokenizer\.json"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "cannot be read"),
        ("[1]", "not"),
        ('{"model_type": "whisper"}', "'whisper' is not a Moonshine model"),
        ("{}", "not a Moonshine model"),
    ],
)
def test_a_folder_of_another_model_is_refused(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(RequestError, match=words) as caught:
        model_type_of(tmp_path)
    assert str(tmp_path / "config.json") in (caught.value.where or "")


def test_a_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"config\.json: no such file") as caught:
        load_checkpoint(tmp_path)
    assert "models fetch" in (caught.value.hint or "")


def test_a_module_of_another_model_is_refused(tiny_v1: SpeechModel) -> None:
    tiny_v1.module.config.model_type = "whisper"
    with pytest.raises(RequestError, match="'whisper'"):
        wrap_module(tiny_v1.module, tiny_v1.tokenizer)


def test_a_config_that_does_not_fit_the_weights_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["vocab_size"] = 512
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(RequestError) as caught:
        load_checkpoint(folder)
    assert caught.value.where == str(folder)
