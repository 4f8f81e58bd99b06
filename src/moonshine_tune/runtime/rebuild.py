"""A trainable checkpoint from a runtime folder.

The runtime's 8-bit weights are dequantized and named by their position in the graphs (`naming`).
The result is what the runtime computes with, except for its 8-bit activations.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import save_file

from moonshine_tune.audio.samples import SAMPLE_RATE_HZ
from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import (
    complete_folder,
    sha256_of,
    write_json_atomic,
    write_text_atomic,
)
from moonshine_tune.models.files import CHECKPOINT_WEIGHTS_FILE
from moonshine_tune.runtime.graph_map import GraphMap
from moonshine_tune.runtime.layout import RuntimeLayout, read_layout
from moonshine_tune.runtime.naming import frontend_map, name_tensors
from moonshine_tune.runtime.ort_file import OrtFile
from moonshine_tune.runtime.streaming_config import (
    compression_log_k,
    encoder_windows,
    read_streaming_config,
    rotary_dims_and_theta,
)
from moonshine_tune.runtime.tokenizer import read_pieces, tokenizer_json

Weights = dict[str, npt.NDArray[np.float32]]

_NUM_HEADS = 8
# Share of each head's width that the rotary embedding rotates, by model width. The graphs do not
# state it; the published configs do. In both cases 32 dimensions of a head are rotated.
_ROTARY_FACTOR = {288: 0.9, 416: 0.62}
_LAYER = re.compile(r"layers\.(\d+)\.")
_LOG_K = "model.encoder.embedder.comp.log_k"


@dataclass(frozen=True)
class RebuildReport:
    """A checkpoint made from a runtime folder, and the hashes of the runtime files."""

    checkpoint_dir: Path
    tensors: int
    parameters: int
    source_sha256: dict[str, str]


def rebuild_checkpoint(runtime_dir: Path, out: Path) -> RebuildReport:
    """Write a `save_pretrained`-style folder (weights, config, tokenizer, processor) to `out`.

    Raises:
        RequestError: not a runtime folder, or its graphs are not laid out as the known ones.
    """
    layout = read_layout(runtime_dir)
    weights = read_weights(layout)
    config = _v1_config(weights) if layout.family == "v1" else _streaming_config(weights, layout)
    _check_complete(weights, config, runtime_dir)
    sources = {name: sha256_of(runtime_dir / name) for name in layout.files}
    with complete_folder(out, replace=True) as scratch:
        save_file(weights, scratch / CHECKPOINT_WEIGHTS_FILE, metadata={"format": "pt"})
        write_json_atomic(scratch / "config.json", config)
        write_json_atomic(scratch / "generation_config.json", _generation_config(config))
        pieces = read_pieces(runtime_dir / "tokenizer.bin")
        write_text_atomic(scratch / "tokenizer.json", tokenizer_json(pieces))
        write_json_atomic(scratch / "tokenizer_config.json", _TOKENIZER_CONFIG)
        write_json_atomic(scratch / "preprocessor_config.json", _PROCESSOR_CONFIG)
        write_json_atomic(
            scratch / "rebuilt.json",
            {"from": "Moonshine runtime files", "sha256": sources, "tensors": len(weights)},
        )
    parameters = sum(weight.size for weight in weights.values())
    return RebuildReport(out, len(weights), parameters, sources)


_TOKENIZER_CONFIG: dict[str, Any] = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "pad_token": "</s>",
    "model_max_length": 194,
    "clean_up_tokenization_spaces": False,
}
_PROCESSOR_CONFIG: dict[str, Any] = {
    "feature_extractor_type": "Wav2Vec2FeatureExtractor",
    "processor_class": "Wav2Vec2Processor",
    "do_normalize": False,
    "feature_size": 1,
    "padding_side": "right",
    "padding_value": 0.0,
    "return_attention_mask": True,
    "sampling_rate": SAMPLE_RATE_HZ,
}


def read_weights(layout: RuntimeLayout) -> Weights:
    """Every weight of a runtime folder by its name in the checkpoint, 32-bit floats.

    Raises:
        RequestError: a graph is not laid out as the known ones.
    """
    weights: Weights = {}
    for named in name_tensors(layout):
        if named.key in weights:
            continue
        values = named.read()
        if named.key.startswith("model.encoder.groupnorm."):
            values = values.reshape(-1)
        weights[named.key] = values
    if layout.family == "v1":
        # Tied to the embedding: the graph keeps a second copy for the output head.
        weights.pop("proj_out.weight", None)
    else:
        weights[_LOG_K] = np.array(compression_log_k(frontend_map(layout)), np.float32)
    return weights


def _v1_config(weights: Weights) -> dict[str, Any]:
    """The transformers config, from the shapes of the weights."""
    vocabulary, width = _embedding(weights).shape
    if width not in _ROTARY_FACTOR:
        raise RequestError(
            f"no v1 model of width {width} is known (tiny has 288, base 416)",
            hint="start from the model's save_pretrained folder or its hub id instead",
        )
    return {
        "architectures": ["MoonshineForConditionalGeneration"],
        "model_type": "moonshine",
        "vocab_size": int(vocabulary),
        "hidden_size": int(width),
        "intermediate_size": _rows(weights, "model.encoder.layers.0.mlp.fc1.weight"),
        "encoder_num_hidden_layers": _layers(weights, "encoder"),
        "decoder_num_hidden_layers": _layers(weights, "decoder"),
        "encoder_num_attention_heads": _NUM_HEADS,
        "decoder_num_attention_heads": _NUM_HEADS,
        "encoder_num_key_value_heads": _NUM_HEADS,
        "decoder_num_key_value_heads": _NUM_HEADS,
        "encoder_hidden_act": "gelu",
        "decoder_hidden_act": "silu",
        "max_position_embeddings": 512,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "partial_rotary_factor": _ROTARY_FACTOR[int(width)],
        },
        "partial_rotary_factor": _ROTARY_FACTOR[int(width)],
        "attention_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 1,
        "is_encoder_decoder": True,
        "dtype": "float32",
    }


def _streaming_config(weights: Weights, layout: RuntimeLayout) -> dict[str, Any]:
    """The transformers config, from the shapes of the weights and the graphs."""
    stated = read_streaming_config(layout)
    heads, head_width = int(stated["nheads"]), int(stated["head_dim"])
    vocabulary, width = _embedding(weights).shape
    query = weights["model.encoder.layers.0.self_attn.q_proj.weight"]
    windows = encoder_windows(GraphMap(OrtFile.read(layout.folder / "encoder.ort")))
    dims, theta = rotary_dims_and_theta(GraphMap(OrtFile.read(layout.folder / "decoder_kv.ort")))

    def attention(head_dim: int) -> dict[str, Any]:
        return {"num_attention_heads": heads, "num_key_value_heads": heads, "head_dim": head_dim,
                "attention_bias": False}  # fmt: skip

    encoder = {
        "model_type": "moonshine_streaming_encoder",
        "hidden_size": int(query.shape[1]),
        "intermediate_size": _rows(weights, "model.encoder.layers.0.mlp.fc1.weight"),
        "num_hidden_layers": _layers(weights, "encoder"),
        "hidden_act": "gelu",
        "sample_rate": SAMPLE_RATE_HZ,
        "frame_ms": 1000 * int(stated["frame_len"]) / SAMPLE_RATE_HZ,
        # transformers' bounds are exclusive, the graphs' inclusive.
        "sliding_windows": [[behind + 1, ahead + 1] for behind, ahead in windows],
        **attention(query.shape[0] // heads),
    }
    return {
        "architectures": ["MoonshineStreamingForConditionalGeneration"],
        "model_type": "moonshine_streaming",
        "encoder_config": encoder,
        "vocab_size": int(vocabulary),
        "hidden_size": int(width),
        "intermediate_size": _rows(weights, "model.decoder.layers.0.mlp.fc1.weight") // 2,
        "num_hidden_layers": _layers(weights, "decoder"),
        "hidden_act": "silu",
        "max_position_embeddings": _rows(weights, "model.decoder.pos_emb.weight"),
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": round(theta, 2),
            "partial_rotary_factor": _factor(dims, head_width),
        },
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "decoder_start_token_id": 1,
        "is_encoder_decoder": True,
        "dtype": "float32",
        **attention(head_width),
    }


def _factor(dims: int, head_width: int) -> float:
    """The share of a head for which transformers rotates that many dimensions."""
    # It rounds down; the published share is 0.8.
    shares = (0.8, *(round(share / 100, 2) for share in range(1, 101)))
    fitting = [share for share in shares if 2 * -(-int(head_width * share) // 2) == dims]
    return fitting[0] if fitting else dims / head_width


def _embedding(weights: Weights) -> npt.NDArray[np.float32]:
    embedding = weights.get("model.decoder.embed_tokens.weight")
    if embedding is None:
        raise RequestError("these graphs are not laid out as known: no embedding in the decoder")
    return embedding


def _rows(weights: Weights, name: str) -> int:
    if name not in weights:
        raise RequestError(f"these graphs are not laid out as known: no {name}")
    return int(weights[name].shape[0])


def _layers(weights: Weights, side: str) -> int:
    prefix = f"model.{side}."
    matches = [_LAYER.match(name.removeprefix(prefix)) for name in weights if prefix in name]
    return 1 + max((int(match[1]) for match in matches if match), default=-1)


def _generation_config(config: dict[str, Any]) -> dict[str, Any]:
    keys = ("bos_token_id", "eos_token_id", "decoder_start_token_id")
    return {key: config[key] for key in keys} | {"max_length": 194}


def _check_complete(weights: Weights, config: dict[str, Any], runtime_dir: Path) -> None:
    """Compare names and shapes with those of the transformers model."""
    from transformers import AutoConfig, AutoModelForSpeechSeq2Seq

    with torch.device("meta"):
        module = AutoModelForSpeechSeq2Seq.from_config(AutoConfig.for_model(**config))
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    if config["tie_word_embeddings"]:
        expected.pop("proj_out.weight")
    shapes = {name: value.shape for name, value in weights.items()}
    problems = sorted({name for name, _ in expected.items() ^ shapes.items()})
    if problems:
        raise RequestError(
            f"these graphs are not laid out as known: {len(problems)} tensors are missing, "
            f"unknown or of another shape ({', '.join(problems[:6])} …)",
            where=runtime_dir,
            hint="start from the model's save_pretrained folder or its hub id instead",
        )
