"""A trainable checkpoint from a runtime folder.

The runtime's 8-bit weights are dequantized and named by their position in the graphs (`naming`).
The result is what the runtime computes with, except for its 8-bit activations.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
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
from moonshine_tune.runtime.quantized import Floats
from moonshine_tune.runtime.streaming_config import (
    compression_log_k,
    encoder_windows,
    read_streaming_config,
    rotary_dims_and_theta,
)
from moonshine_tune.runtime.tokenizer import checkpoint_file, read_pieces, tokenizer_json

Weights = dict[str, Floats]

# Share of each head's width that the rotary embedding rotates, by model width. The graphs do not
# state it; the published configs do. In both cases 32 dimensions of a head are rotated.
_ROTARY_FACTOR = {288: 0.9, 416: 0.62}
_LAYER = re.compile(r"layers\.(\d+)\.")
_ENCODER, _DECODER = "model.encoder", "model.decoder"
_LOG_K = f"{_ENCODER}.embedder.comp.log_k"


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
        RequestError: not a runtime folder, `out` exists, or the graphs are not laid out as the
            known ones.
    """
    layout = read_layout(runtime_dir)
    with complete_folder(out) as scratch:
        weights = read_weights(layout)
        config = (
            _v1_config(weights) if layout.family == "v1" else _streaming_config(weights, layout)
        )
        _check_complete(weights, config, runtime_dir)
        sources = {name: sha256_of(runtime_dir / name) for name in layout.files}
        save_file(weights, scratch / CHECKPOINT_WEIGHTS_FILE, metadata={"format": "pt"})
        write_json_atomic(scratch / "config.json", config)
        pieces = read_pieces(runtime_dir / "tokenizer.bin")
        write_text_atomic(scratch / "tokenizer.json", tokenizer_json(pieces))
        for name in ("generation_config", "tokenizer_config", "preprocessor_config"):
            write_json_atomic(scratch / f"{name}.json", checkpoint_file(name))
        write_json_atomic(
            scratch / "rebuilt.json",
            {"from": "Moonshine runtime files", "sha256": sources, "tensors": len(weights)},
        )
    parameters = sum(weight.size for weight in weights.values())
    return RebuildReport(out, len(weights), parameters, sources)


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
        if named.key.startswith(f"{_ENCODER}.groupnorm."):
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
    vocabulary, width = _shape(weights, f"{_DECODER}.embed_tokens.weight")
    if width not in _ROTARY_FACTOR:
        raise RequestError(
            f"no v1 model of width {width} is known (tiny has 288, base 416)",
            hint="start from the model's save_pretrained folder or its hub id instead",
        )
    config = checkpoint_file("config.v1")
    config["partial_rotary_factor"] = _ROTARY_FACTOR[width]
    config["rope_parameters"]["partial_rotary_factor"] = _ROTARY_FACTOR[width]
    return config | {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": _shape(weights, f"{_ENCODER}.layers.0.mlp.fc1.weight")[0],
        "encoder_num_hidden_layers": _layers(weights, "encoder"),
        "decoder_num_hidden_layers": _layers(weights, "decoder"),
    }


def _streaming_config(weights: Weights, layout: RuntimeLayout) -> dict[str, Any]:
    """The transformers config, from the shapes of the weights and the graphs."""
    stated = read_streaming_config(layout)
    heads, head_width = int(stated["nheads"]), int(stated["head_dim"])
    vocabulary, width = _shape(weights, f"{_DECODER}.embed_tokens.weight")
    query = _shape(weights, f"{_ENCODER}.layers.0.self_attn.q_proj.weight")
    windows = encoder_windows(GraphMap(OrtFile.read(layout.folder / "encoder.ort")))
    dims, theta = rotary_dims_and_theta(GraphMap(OrtFile.read(layout.folder / "decoder_kv.ort")))

    config = checkpoint_file("config.streaming")
    config["encoder_config"] |= {
        "hidden_size": query[1],
        "intermediate_size": _shape(weights, f"{_ENCODER}.layers.0.mlp.fc1.weight")[0],
        "num_hidden_layers": _layers(weights, "encoder"),
        "frame_ms": 1000 * int(stated["frame_len"]) / SAMPLE_RATE_HZ,
        # transformers' bounds are exclusive, the graphs' inclusive.
        "sliding_windows": [[behind + 1, ahead + 1] for behind, ahead in windows],
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": query[0] // heads,
    }
    config["rope_parameters"] |= {
        "rope_theta": round(theta, 2),
        "partial_rotary_factor": _factor(dims, head_width),
    }
    return config | {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": _shape(weights, f"{_DECODER}.layers.0.mlp.fc1.weight")[0] // 2,
        "num_hidden_layers": _layers(weights, "decoder"),
        "max_position_embeddings": _shape(weights, f"{_DECODER}.pos_emb.weight")[0],
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": head_width,
    }


def _factor(dims: int, head_width: int) -> float:
    """The share of a head for which transformers rotates that many dimensions."""
    # It rounds down; the published share is 0.8.
    shares = (0.8, *(round(share / 100, 2) for share in range(1, 101)))
    fitting = [share for share in shares if 2 * -(-int(head_width * share) // 2) == dims]
    return fitting[0] if fitting else dims / head_width


def _shape(weights: Weights, name: str) -> tuple[int, ...]:
    if name not in weights:
        raise RequestError(f"these graphs are not laid out as known: no {name}")
    return weights[name].shape


def _layers(weights: Weights, side: str) -> int:
    prefix = f"model.{side}."
    matches = [_LAYER.match(name.removeprefix(prefix)) for name in weights if prefix in name]
    return 1 + max((int(match[1]) for match in matches if match), default=-1)


def _check_complete(weights: Weights, config: dict[str, Any], runtime_dir: Path) -> None:
    """Compare the names with those of a model of this configuration, which is never filled."""
    import torch
    from transformers import AutoConfig, AutoModelForSpeechSeq2Seq

    with torch.device("meta"):
        model = AutoModelForSpeechSeq2Seq.from_config(AutoConfig.for_model(**config))
    tied = {"proj_out.weight"} if config["tie_word_embeddings"] else set()
    expected = set(model.state_dict()) - tied
    missing, extra = sorted(expected - set(weights)), sorted(set(weights) - expected)
    if missing or extra:
        raise RequestError(
            f"these graphs are not laid out as known: {len(missing)} tensors missing "
            f"({', '.join(missing[:3])} …), {len(extra)} unknown ({', '.join(extra[:3])} …)",
            where=runtime_dir,
            hint="start from the model's save_pretrained folder or its hub id instead",
        )
