"""Loading and saving `save_pretrained` folders of both families as `SpeechModel`s."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer
from torch import nn

from moonshine_tune.errors import RequestError
from moonshine_tune.families.interface import SpeechModel, TextTokenizer
from moonshine_tune.families.streaming import StreamingSpeechModel
from moonshine_tune.families.v1 import V1SpeechModel

_ENCODER = "model.encoder."
_FAMILIES: dict[str, tuple[str, Callable[[nn.Module, TextTokenizer], SpeechModel]]] = {
    "moonshine": ("MoonshineForConditionalGeneration", V1SpeechModel),
    "moonshine_streaming": ("MoonshineStreamingForConditionalGeneration", StreamingSpeechModel),
}


def is_checkpoint_folder(folder: Path) -> bool:
    """Whether the folder looks like a `save_pretrained` folder."""
    return (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))


def model_type_of(folder: Path) -> str:
    """The `model_type` of a checkpoint's config.

    Raises:
        RequestError: there is none, or it is not a Moonshine model.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise RequestError(
            "not a checkpoint folder: config.json is missing",
            where=folder,
            hint="make one with: moonshine-tune models fetch tiny --out DIR",
        )
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise RequestError(f"not JSON: {error.msg}", where=path, line=error.lineno) from error
    kind = str(config.get("model_type")) if isinstance(config, dict) else "None"
    if kind not in _FAMILIES:
        raise RequestError(f"model_type {kind!r} is not a Moonshine model", where=path)
    return kind


def load_checkpoint(
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    attention: str = "sdpa",
) -> SpeechModel:
    """Load a checkpoint in evaluation mode; every weight must be in its files.

    Args:
        folder: `config.json`, `*.safetensors` and `tokenizer.json`; nothing is unpickled.
        attention: `sdpa` or `eager` (the safer choice on MPS).

    Raises:
        RequestError: not a Moonshine checkpoint, or tensors or the tokenizer are missing.
    """
    import transformers
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    class_name, family = _FAMILIES[model_type_of(folder)]
    if not any(folder.glob("*.safetensors")):
        raise RequestError("the checkpoint has no *.safetensors weights", where=folder)
    model_class = getattr(transformers, class_name)
    try:
        module, info = model_class.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation=attention,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            # Told below, by name; else transformers raises with a table on stderr.
            ignore_mismatched_sizes=True,
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise RequestError(
            f"the checkpoint cannot be read: {str(error).splitlines()[0][:300]}",
            where=folder,
            hint="fetch the model again",
        ) from error
    # The head of v1 is the embedding and is stored once; the streaming family has its own.
    tied = {"proj_out.weight"} if module.config.tie_word_embeddings else set()
    missing = sorted(set(info["missing_keys"]) - tied)
    other = sorted(key if isinstance(key, str) else key[0] for key in info["mismatched_keys"])
    if missing or other:
        raise RequestError(
            f"{len(missing)} tensors are missing and {len(other)} have another shape "
            f"({', '.join([*missing, *other][:3])} …)",
            where=folder,
            hint="fetch the model again",
        )
    if torch.device(device).type == "cpu" and dtype == torch.float32:
        _map_encoder_apart(module, folder)
    module.eval()
    module.requires_grad_(False)
    model = family(module.to(device), load_tokenizer(folder))
    if model.device.type == "mps":
        model.make_activation_inputs_contiguous()
    return model


def _map_encoder_apart(module: nn.Module, folder: Path) -> None:
    """Give the encoder a mapping of the file to itself.

    In 32 bits the mapped file is the weights, and a mapping stays resident as long as one tensor of
    it is in use: with one for all, an encoder that is given back would keep its memory. What is
    never read through a mapping takes none.
    """
    wanted = {name: value for name, value in module.named_parameters() if name.startswith(_ENCODER)}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in wanted.keys() & set(file.keys()):
                stored = file.get_tensor(name)
                if stored.dtype == torch.float32 and stored.shape == wanted[name].shape:
                    wanted[name].data = stored


def load_tokenizer(folder: Path) -> TextTokenizer:
    """The tokenizer of a checkpoint folder.

    Raises:
        RequestError: `tokenizer.json` is missing or cannot be read.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise RequestError("the checkpoint has no tokenizer.json", where=folder)
    try:
        return TextTokenizer(Tokenizer.from_file(str(path)))
    except Exception as error:  # tokenizers raises bare Exception
        raise RequestError(f"not a tokenizer: {error}", where=path) from error


def wrap_module(module: nn.Module, tokenizer: TextTokenizer) -> SpeechModel:
    """A `SpeechModel` around a transformers module that is in memory already."""
    kind = str(getattr(module.config, "model_type", None))
    if kind not in _FAMILIES:
        raise RequestError(f"model_type {kind!r} is not a Moonshine model")
    return _FAMILIES[kind][1](module, tokenizer)
