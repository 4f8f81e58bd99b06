"""A trainable checkpoint from a v1 runtime folder.

The runtime's 8-bit weights are dequantized (W = ((q − zero point) · scale)ᵀ) and named by the
nodes that use them: `/layers.3/self_attn/k_proj/MatMul_quant` is
`model.encoder.layers.3.self_attn.k_proj`. The result is what the runtime computes with, up to its
8-bit activations.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from moonshine_tune.errors import RequestError
from moonshine_tune.files import complete_folder, sha256_of, write_json_atomic, write_text_atomic
from moonshine_tune.runtime.layout import read_layout
from moonshine_tune.runtime.ort_file import OrtFile
from moonshine_tune.runtime.tokenizer_bin import read_pieces, tokenizer_json

Weights = dict[str, npt.NDArray[np.float32]]

_NUM_HEADS = 8
# Share of each head's width that the rotary embedding turns, by model width. The graphs do not
# state it; the published configs do. In both cases 32 dimensions of a head are turned.
_ROTARY_FACTOR = {288: 0.9, 416: 0.62}
_MERGED = re.compile(r"_merged_[01]$")
_LAYER = re.compile(r"layers\.(\d+)\.")


@dataclass(frozen=True)
class RebuildReport:
    """What was rebuilt: the folder, the number of tensors and the sources' hashes."""

    checkpoint_dir: Path
    tensors: int
    parameters: int
    source_sha256: dict[str, str]


def rebuild_checkpoint(runtime_dir: Path, out: Path) -> RebuildReport:
    """Write a `save_pretrained`-style folder (weights, config, tokenizer, processor) to `out`.

    Raises:
        RequestError: not a v1 runtime folder, or one whose graphs are laid out otherwise.
    """
    layout = read_layout(runtime_dir)
    if layout.family != "v1":
        raise RequestError(
            "only v1 runtime folders (tiny, base) can be rebuilt: the published streaming graphs "
            "do not name their tensors",
            where=runtime_dir,
            hint="start from a save_pretrained folder or a hub id of the streaming model",
        )
    weights = _encoder_weights(OrtFile.read(runtime_dir / "encoder_model.ort"))
    weights |= _decoder_weights(OrtFile.read(runtime_dir / "decoder_model_merged.ort"))
    config = _config(weights)
    _check_complete(weights, config, runtime_dir)
    sources = {name: sha256_of(runtime_dir / name) for name in layout.files}
    with complete_folder(out, replace=True) as scratch:
        save_file(weights, scratch / "model.safetensors", metadata={"format": "pt"})
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
    "sampling_rate": 16000,
}


def _encoder_weights(file: OrtFile) -> Weights:
    weights: Weights = {}
    for node in file.nodes:
        module = node.name.rpartition("/")[0].strip("/").replace("/", ".")
        if node.op in _MATMULS and _LAYER.match(module):
            weights[f"model.encoder.{module}.weight"] = _linear(file, node.inputs)
    for item in file.initializers:
        if item.name.endswith("weight_add_tensor"):
            name = item.name.removesuffix("_add_tensor")
        elif item.name.endswith((".weight", ".bias")):
            name = item.name
        else:
            continue
        weights[f"model.encoder.{name}"] = _floats(file, item.name)
    weights |= _group_norm(file)
    return weights


def _group_norm(file: OrtFile) -> Weights:
    """The first norm is folded into a Mul and an Add whose constants have shape [width, 1]."""
    found: Weights = {}
    width = file.by_name["conv1.weight_add_tensor"].shape[0]
    for node in file.nodes:
        for name in node.inputs:
            item = file.by_name.get(name)
            if item is None or item.dtype != "<f4" or item.shape not in ((width, 1), (1, width, 1)):
                continue
            kind = {"Mul": "weight", "Add": "bias"}.get(node.op)
            if kind and name.startswith("onnx::"):
                found[f"model.encoder.groupnorm.{kind}"] = _floats(file, name).reshape(width)
    return found


def _decoder_weights(file: OrtFile) -> Weights:
    weights: Weights = {}
    for node in file.nodes:
        module = node.name.rpartition("/")[0].strip("/").replace("/", ".")
        # Both branches of the graph use the same weights; the first mention is enough.
        wanted = module.startswith("model.decoder.layers.") and f"{module}.weight" not in weights
        if wanted and node.op in _MATMULS:
            weights[f"{module}.weight"] = _linear(file, node.inputs)
    for item in file.initializers:
        name = _MERGED.sub("", item.name)
        if name.startswith("model.decoder.") and name.endswith((".weight", ".bias")):
            weights.setdefault(name, _floats(file, item.name))
        elif item.name.startswith(
            "model.decoder.embed_tokens.weight_merged"
        ) and item.name.endswith("_quantized"):
            stem = item.name.removesuffix("_quantized")
            weights.setdefault("model.decoder.embed_tokens.weight", _dequantized(file, stem))
    return weights


_MATMULS = ("MatMulIntegerToFloat", "DynamicQuantizeMatMul", "MatMulInteger")


def _linear(file: OrtFile, inputs: tuple[str, ...]) -> npt.NDArray[np.float32]:
    """The [out, in] weight of a quantized product, found among its inputs."""
    for name in inputs:
        if name.endswith("_quantized") and name in file.by_name:
            return np.ascontiguousarray(_dequantized(file, name.removesuffix("_quantized")).T)
    raise RequestError("a matrix product without a stored 8-bit weight", where=file.path)


def _dequantized(file: OrtFile, stem: str) -> npt.NDArray[np.float32]:
    values = file.array(f"{stem}_quantized").astype(np.int32)
    zero = file.array(f"{stem}_zero_point").astype(np.int32)
    scale = file.array(f"{stem}_scale").astype(np.float32)
    return ((values - zero).astype(np.float32) * scale).astype(np.float32)


def _floats(file: OrtFile, name: str) -> npt.NDArray[np.float32]:
    return np.array(file.array(name), dtype=np.float32)


def _config(weights: Weights) -> dict[str, Any]:
    """The transformers config, read off the shapes of the weights."""
    embedding = weights.get("model.decoder.embed_tokens.weight")
    if embedding is None:
        raise RequestError("the decoder graph holds no embedding that this program knows")
    vocabulary, width = embedding.shape
    if width not in _ROTARY_FACTOR:
        raise RequestError(
            f"no v1 model of width {width} is known (tiny has 288, base 416)",
            hint="start from the model's save_pretrained folder or its hub id instead",
        )

    def layers(side: str) -> int:
        prefix = f"model.{side}."
        found = [_LAYER.match(name.removeprefix(prefix)) for name in weights if prefix in name]
        return 1 + max(int(match[1]) for match in found if match)

    return {
        "architectures": ["MoonshineForConditionalGeneration"],
        "model_type": "moonshine",
        "vocab_size": int(vocabulary),
        "hidden_size": int(width),
        "intermediate_size": int(weights["model.encoder.layers.0.mlp.fc1.weight"].shape[0]),
        "encoder_num_hidden_layers": layers("encoder"),
        "decoder_num_hidden_layers": layers("decoder"),
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


def _generation_config(config: dict[str, Any]) -> dict[str, Any]:
    keys = ("bos_token_id", "eos_token_id", "decoder_start_token_id")
    return {key: config[key] for key in keys} | {"max_length": 194}


def _check_complete(weights: Weights, config: dict[str, Any], runtime_dir: Path) -> None:
    expected = _expected_names(config)
    missing, extra = sorted(expected - set(weights)), sorted(set(weights) - expected)
    if missing or extra:
        raise RequestError(
            f"these graphs are not laid out as known: {len(missing)} tensors missing "
            f"({', '.join(missing[:3])} …), {len(extra)} not known ({', '.join(extra[:3])} …)",
            where=runtime_dir,
            hint="start from the model's save_pretrained folder or its hub id instead",
        )


def _expected_names(config: dict[str, Any]) -> set[str]:
    attention = [f"{kind}_proj.weight" for kind in "qkvo"]
    mlp = [f"mlp.fc{i}.{kind}" for i in (1, 2) for kind in ("weight", "bias")]
    names = {
        "model.decoder.embed_tokens.weight", "model.decoder.norm.weight",
        "model.encoder.layer_norm.weight", "model.encoder.conv1.weight",
        "model.encoder.conv2.weight", "model.encoder.conv2.bias",
        "model.encoder.conv3.weight", "model.encoder.conv3.bias",
        "model.encoder.groupnorm.weight", "model.encoder.groupnorm.bias",
    }  # fmt: skip
    for i in range(config["encoder_num_hidden_layers"]):
        parts = [f"self_attn.{name}" for name in attention] + mlp
        parts += ["input_layernorm.weight", "post_attention_layernorm.weight"]
        names |= {f"model.encoder.layers.{i}.{part}" for part in parts}
    for i in range(config["decoder_num_hidden_layers"]):
        parts = [f"{block}.{name}" for block in ("self_attn", "encoder_attn") for name in attention]
        parts += [*mlp, "input_layernorm.weight", "post_attention_layernorm.weight"]
        parts += ["final_layernorm.weight"]
        names |= {f"model.decoder.layers.{i}.{part}" for part in parts}
    return names
