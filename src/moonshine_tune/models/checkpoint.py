"""Loading and saving `save_pretrained` folders of both families as `SpeechModel`s."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer
from torch import Tensor, nn

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.text import first_line
from moonshine_tune.models.base import SpeechModel, TextTokenizer
from moonshine_tune.models.kernels.attention import use_own_attention
from moonshine_tune.models.kernels.cross_attention import use_frames_directly
from moonshine_tune.models.kernels.frozen_linear import use_frozen_linear
from moonshine_tune.models.kernels.rotary import use_complex_positions
from moonshine_tune.models.streaming import StreamingSpeechModel
from moonshine_tune.models.v1 import V1SpeechModel

_ENCODER = "model.encoder."
# Of a checkpoint's file, while its numbers are converted.
MOST_MAPPED_BYTES = 64_000_000
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
    from transformers import AutoConfig
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    class_name, family = _FAMILIES[model_type_of(folder)]
    if not any(folder.glob("*.safetensors")):
        raise RequestError("the checkpoint has no *.safetensors weights", where=folder)
    model_class = getattr(transformers, class_name)
    try:
        # In 32 bits the file itself is mapped, and nothing is read before it is used.
        converted = None if dtype == torch.float32 else _converted_weights(folder, dtype)
        module, info = model_class.from_pretrained(
            folder if converted is None else None,
            config=AutoConfig.from_pretrained(folder, local_files_only=True),
            state_dict=converted,
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
            f"the checkpoint cannot be read: {first_line(error, 300)}",
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
    model = family(_with_own_parts(module.to(device)), load_tokenizer(folder))
    if model.device.type == "mps":
        model.make_activation_inputs_contiguous()
    return model


def _converted_weights(folder: Path, dtype: torch.dtype) -> dict[str, Tensor]:
    """All tensors of a checkpoint in another number format.

    The mapped file is let go of again and again: what has been read of it counts as this process's
    memory, which would be twice the weights' own size for medium in 16 bits.
    """
    weights: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        left: list[str] | None = None
        while left is None or left:
            taken = 0
            with safe_open(path, framework="pt") as file:
                left = list(file.keys()) if left is None else left
                while left and taken < MOST_MAPPED_BYTES:
                    name = left.pop()
                    stored = file.get_tensor(name)
                    taken += stored.numel() * stored.element_size()
                    weights[name] = stored.to(dtype, copy=True)
                    del stored
    return weights


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
    return _FAMILIES[kind][1](_with_own_parts(module), tokenizer)


def _with_own_parts(module: nn.Module) -> nn.Module:
    """The module, computing the same with this program's faster products and attention."""
    use_frozen_linear(module)
    use_own_attention(module)
    use_frames_directly(module)
    use_complex_positions(module)
    return module
