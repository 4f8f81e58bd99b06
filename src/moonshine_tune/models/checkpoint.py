"""Loading `save_pretrained` folders of both families as `SpeechModel`s."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer
from torch import Tensor, nn

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import read_json
from moonshine_tune.core.text import first_line
from moonshine_tune.models.base import SpeechModel, TextTokenizer
from moonshine_tune.models.files import names_of, weight_files
from moonshine_tune.models.kernels.attention import use_block_attention
from moonshine_tune.models.kernels.cross_attention import use_frames_directly
from moonshine_tune.models.kernels.frozen_linear import use_frozen_linear
from moonshine_tune.models.kernels.rotary import use_joint_rotary
from moonshine_tune.models.streaming import StreamingSpeechModel
from moonshine_tune.models.v1 import V1SpeechModel

_ENCODER = "model.encoder."
_HEAD, _EMBEDDING = "proj_out.weight", "model.decoder.embed_tokens.weight"
# Most of a checkpoint's file that stays mapped while its number format is converted.
MOST_MAPPED_BYTES = 64_000_000
_FAMILIES: dict[str, tuple[str, Callable[[nn.Module, TextTokenizer], SpeechModel]]] = {
    "moonshine": ("MoonshineForConditionalGeneration", V1SpeechModel),
    "moonshine_streaming": ("MoonshineStreamingForConditionalGeneration", StreamingSpeechModel),
}


def is_checkpoint_folder(folder: Path) -> bool:
    """Whether the folder looks like a `save_pretrained` folder."""
    try:
        return (folder / "config.json").is_file() and bool(weight_files(folder).paths)
    except RequestError:
        return False


def model_type_of(folder: Path) -> str:
    """The `model_type` in a checkpoint's config.

    Raises:
        RequestError: no configuration, or not one of a Moonshine model in full precision.
    """
    path = folder / "config.json"
    hint = "make a checkpoint folder: moonshine-tune models fetch tiny --out DIR"
    config = read_json(path, hint=hint)
    kind = str(config.get("model_type"))
    if kind not in _FAMILIES:
        raise RequestError(f"model_type {kind!r} is not a Moonshine model", where=path)
    if config.get("quantization_config") is not None:
        raise RequestError(
            "quantization_config: this model is quantized, and only unquantized weights are read",
            where=path,
            hint="name the checkpoint that it was quantized from",
        )
    return kind


def load_checkpoint(
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    attention: str = "sdpa",
) -> SpeechModel:
    """Load a checkpoint in evaluation mode, frozen; every weight must be in its files.

    Args:
        folder: `config.json`, the files of `weight_files` and `tokenizer.json`. Nothing is
            unpickled, and no other file of the folder is read: transformers would apply an adapter
            that lies there.
        attention: `sdpa` or `eager` (the safer choice on MPS).

    Raises:
        RequestError: not a Moonshine checkpoint, or tensors or the tokenizer are missing.
    """
    _, family = _FAMILIES[model_type_of(folder)]
    paths = weight_files(folder).paths
    tokenizer = load_tokenizer(folder)
    module, info = _load_module(folder, paths, dtype, attention)
    # The head of v1 is tied to the embedding and not stored; the streaming family has a head.
    tied = {_HEAD} if module.config.tie_word_embeddings else set()
    missing = sorted(set(info["missing_keys"]) - tied)
    mismatched = sorted(key if isinstance(key, str) else key[0] for key in info["mismatched_keys"])
    if missing or mismatched:
        raise RequestError(
            f"{len(missing)} tensors are missing and {len(mismatched)} have another "
            f"shape ({', '.join([*missing, *mismatched][:3])} …)",
            where=folder,
            hint="fetch the model again",
        )
    _refuse_other_weights(folder, info["unexpected_keys"])
    pieces, rows = tokenizer.raw.get_vocab_size(), module.config.vocab_size
    if pieces > rows:
        raise RequestError(
            f"tokenizer.json has {pieces:,} pieces, and the model knows {rows:,}: it is another "
            "model's tokenizer",
            where=folder,
            hint="copy config.json, tokenizer.json and the weights from the same model",
        )
    if torch.device(device).type == "cpu" and dtype == torch.float32:
        _map_encoder_separately(module, paths)
    module.eval()
    module.requires_grad_(False)
    model = family(_with_kernels(module.to(device)), tokenizer)
    if model.device.type == "mps":
        model.make_activation_inputs_contiguous()
    return model


def _load_module(
    folder: Path, paths: Sequence[Path], dtype: torch.dtype, attention: str
) -> tuple[Any, dict[str, Any]]:
    """The transformers module with the weights of its files, and which of them had no match."""
    import transformers
    from transformers import AutoConfig
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    model_class = getattr(transformers, _FAMILIES[model_type_of(folder)][0])
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        is_mapped = dtype == torch.float32
        weights = _mapped_weights(paths) if is_mapped else _converted_weights(paths, dtype)
        _refuse_loose_head(config, weights, folder)
        module, info = model_class.from_pretrained(
            None,
            config=config,
            state_dict=weights,
            dtype=dtype,
            attn_implementation=attention,
            output_loading_info=True,
            # Reported by name; otherwise transformers raises with a table on stderr.
            ignore_mismatched_sizes=True,
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise RequestError(
            f"the checkpoint cannot be read: {first_line(error, 300)}",
            where=folder,
            hint="fetch the model again",
        ) from error
    return module, info


def _refuse_other_weights(folder: Path, unexpected: Iterable[str]) -> None:
    """Refuse weights inside the layers that the configuration does not have.

    transformers leaves them out: the result would be another model than the one in the files.
    A tensor beside the layers, such as a head of another task, changes nothing.

    Raises:
        RequestError: there are such weights.
    """
    inside = sorted(key for key in unexpected
                    if key.startswith("model.") and not key.endswith("inv_freq"))  # fmt: skip
    if inside:
        raise RequestError(
            f"{len(inside)} tensors of the weights have no place in the model that config.json "
            f"describes: {names_of(inside)}",
            where=folder,
            hint="copy config.json and the weights from the same model; if they are an adapter's, "
            "merge it with the tool that made it",
        )


def _refuse_loose_head(config: Any, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Refuse an output head that differs from the embedding that the configuration ties it to.

    Raises:
        RequestError: shows both readings.
    """
    head, embedding = weights.get(_HEAD), weights.get(_EMBEDDING)
    if not config.tie_word_embeddings or head is None or embedding is None:
        return
    if not torch.equal(head, embedding):
        raise RequestError(
            "config.json ties the output head to the embedding, and the weights have another "
            f"{_HEAD}",
            where=folder,
            hint='to use it, write "tie_word_embeddings": false into config.json; otherwise '
            "remove it from the weights",
        )


def _mapped_weights(paths: Sequence[Path]) -> dict[str, Tensor]:
    """All tensors of a checkpoint as mapped files: pages are read at their first use."""
    weights: dict[str, Tensor] = {}
    for path in paths:
        with safe_open(path, framework="pt") as file:
            weights |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return weights


def _converted_weights(paths: Sequence[Path], dtype: torch.dtype) -> dict[str, Tensor]:
    """All tensors of a checkpoint in another number format.

    The file is unmapped and mapped again after every 64 MB, because pages that were read count as
    memory of this process: for medium in 16 bits, twice the size of the weights.
    """
    weights: dict[str, Tensor] = {}
    for path in paths:
        names: list[str] | None = None
        while names is None or names:
            mapped = 0
            with safe_open(path, framework="pt") as file:
                names = list(file.keys()) if names is None else names
                while names and mapped < MOST_MAPPED_BYTES:
                    name = names.pop()
                    stored = file.get_tensor(name)
                    mapped += stored.numel() * stored.element_size()
                    weights[name] = stored.to(dtype, copy=True)
                    del stored
    return weights


def _map_encoder_separately(module: nn.Module, paths: Sequence[Path]) -> None:
    """Give the encoder its own mapping of the file.

    In 32 bits the weights are the mapped file, and a mapping stays resident as long as one of its
    tensors is in use: with a single mapping, freeing the encoder would free no memory. Pages that
    are never read take none.
    """
    encoder = {
        name: value for name, value in module.named_parameters() if name.startswith(_ENCODER)
    }
    for path in paths:
        with safe_open(path, framework="pt") as file:
            for name in encoder.keys() & set(file.keys()):
                stored = file.get_tensor(name)
                if stored.dtype == torch.float32 and stored.shape == encoder[name].shape:
                    encoder[name].data = stored


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
    """A `SpeechModel` around a transformers module."""
    kind = str(getattr(module.config, "model_type", None))
    if kind not in _FAMILIES:
        raise RequestError(f"model_type {kind!r} is not a Moonshine model")
    return _FAMILIES[kind][1](_with_kernels(module), tokenizer)


def _with_kernels(module: nn.Module) -> nn.Module:
    """The module, patched with the faster products and attention of `models.kernels`."""
    use_frozen_linear(module)
    use_block_attention(module)
    use_frames_directly(module)
    use_joint_rotary(module)
    return module
