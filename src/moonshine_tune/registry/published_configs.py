"""The exact shapes of the published models, as transformers configurations without any weights.

Inner widths and windows are from the runtime files and the parameter counts, which agree with no
other values; `models.yaml` has the rest with its sources.
"""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.text import first_line
from moonshine_tune.models.base import SpeechModel, TextTokenizer
from moonshine_tune.models.checkpoint import model_type_of, wrap_module
from moonshine_tune.registry.catalog import CATALOG, find_model

_VOCABULARY_SIZE = 32_768


@dataclass(frozen=True)
class Shape:
    """Widths and depths of one size of model; encoder and decoder are equally deep."""

    family: str
    layers: int
    heads: int
    head_width: int
    encoder_width: int
    decoder_width: int


SHAPES = {size: Shape(**fields) for size, fields in CATALOG["shapes"].items()}
"""By size name; language variants have the shape of their size."""


def published_config(name: str) -> Any:
    """The transformers configuration of a catalog name or alias; nothing is fetched.

    Raises:
        RequestError: no such model.
    """
    from transformers import AutoConfig

    shape = SHAPES[find_model(name).size]
    settings = _v1_settings(shape) if shape.family == "v1" else _streaming_settings(shape)
    return AutoConfig.for_model(**settings, vocab_size=_VOCABULARY_SIZE)


def _v1_settings(shape: Shape) -> dict[str, Any]:
    return {
        "model_type": "moonshine",
        "hidden_size": shape.encoder_width,
        "intermediate_size": 4 * shape.encoder_width,
        "encoder_num_hidden_layers": shape.layers,
        "decoder_num_hidden_layers": shape.layers,
        "encoder_num_attention_heads": shape.heads,
        "decoder_num_attention_heads": shape.heads,
        "encoder_num_key_value_heads": shape.heads,
        "decoder_num_key_value_heads": shape.heads,
        "max_position_embeddings": 512,
    }


def _streaming_settings(shape: Shape) -> dict[str, Any]:
    heads = {
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads,
        "head_dim": shape.head_width,
    }
    # The first two and the last two layers look ahead; the others are causal.
    windows = ((16, 4),) * 2 + ((16, 0),) * (shape.layers - 4) + ((16, 4),) * 2
    return dict(
        model_type="moonshine_streaming",
        hidden_size=shape.decoder_width,
        intermediate_size=4 * shape.decoder_width,
        max_position_embeddings=4096,
        encoder_config={
            "hidden_size": shape.encoder_width,
            "intermediate_size": 4 * shape.encoder_width,
            "sliding_windows": windows,
            **heads,
        },
        **heads,
    )


def config_of_folder(folder: Path) -> Any:
    """The transformers configuration of a checkpoint folder; its weights are not read.

    Raises:
        RequestError: not a Moonshine checkpoint, or an unusable configuration.
    """
    from transformers import AutoConfig

    model_type_of(folder)
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises many kinds, some of them its own
        raise RequestError(
            f"the configuration cannot be used: {first_line(error)}",
            where=folder / "config.json",
        ) from error


def depth_of(config: Any) -> int:
    """Layers of the encoder and of the decoder; 0 where they are not equally deep."""
    if config.model_type == "moonshine":
        encoder, decoder = config.encoder_num_hidden_layers, config.decoder_num_hidden_layers
    else:
        encoder, decoder = config.encoder_config.num_hidden_layers, config.num_hidden_layers
    return int(decoder) if decoder == encoder else 0


def shallower(config: Any, layers: int) -> Any:
    """The same configuration with fewer layers on both sides, at least 2.

    It keeps the first windows and one from the middle, so that each kind remains.
    """
    smaller = copy.deepcopy(config)
    if config.model_type == "moonshine":
        smaller.encoder_num_hidden_layers = smaller.decoder_num_hidden_layers = layers
        return smaller
    smaller.num_hidden_layers = smaller.encoder_config.num_hidden_layers = layers
    windows = [tuple(window) for window in config.encoder_config.sliding_windows]
    kept = (*windows[: layers - 1], windows[len(windows) // 2])
    smaller.encoder_config.sliding_windows = kept
    for side in (smaller, smaller.encoder_config):
        if getattr(side, "layer_types", None):
            side.layer_types = side.layer_types[:layers]
    return smaller


def model_from_config(
    config: Any,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    attention: str = "sdpa",
    seed: int = 0,
) -> SpeechModel:
    """A frozen model of that configuration with seeded random weights and an empty tokenizer.

    In a fake-tensor mode it uses no memory.
    """
    from transformers import AutoModelForSpeechSeq2Seq

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = AutoModelForSpeechSeq2Seq.from_config(config, attn_implementation=attention)
    module = module.eval().to(device=device, dtype=dtype)
    module.requires_grad_(False)
    return wrap_module(module, TextTokenizer(Tokenizer(models.BPE())))
