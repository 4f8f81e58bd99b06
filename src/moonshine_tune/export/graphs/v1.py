"""The two graphs of v1: `encoder_model` and `decoder_model_merged`."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from moonshine_tune.export.graphs.builder import GraphBuilder, Layers, Pair, Rotary, causal_mask
from moonshine_tune.models.base import SpeechModel
from moonshine_tune.runtime.quantized import Floats

Weights = Mapping[str, Floats]

_STRIDES = (64, 3, 2)
_ENCODER, _DECODER = "model.encoder", "model.decoder"


def write_v1_graphs(model: SpeechModel, weights: Weights, out: Path, scheme: str) -> None:
    """Write both graphs to `out`."""
    _encoder(model, weights, scheme).write(out / "encoder_model.ort")
    _decoder(model, weights, scheme).write(out / "decoder_model_merged.ort")


def _encoder(model: SpeechModel, weights: Weights, scheme: str) -> GraphBuilder:
    """Audio to encoder states. One clip per call: the padding mask is ignored."""
    width = weights[f"{_ENCODER}.layer_norm.weight"].shape[0]
    graph = GraphBuilder("encoder_model", scheme)
    # The published graph's names: modules without their prefix.
    own = {
        key.removeprefix(f"{_ENCODER}."): value
        for key, value in weights.items()
        if key.startswith(_ENCODER)
    }
    layers = Layers(graph, own, model.encoder.layers[0].self_attn)
    audio = graph.input("input_values", ["batch_size", "encoder_sequence_length"])
    graph.input("attention_mask", ["batch_size", "encoder_sequence_length"], "INT64")
    x = graph.op("Unsqueeze", audio, graph.ints(1))
    x = graph.op("Tanh", _convolution(graph, own, x, 1))
    x = _group_norm(graph, own, x, float(model.encoder.groupnorm.eps))
    x = graph.gelu(_convolution(graph, own, x, 2))
    x = graph.gelu(_convolution(graph, own, x, 3))
    hidden = graph.op("Transpose", x, perm=[0, 2, 1])
    rotary = Rotary(graph, model.encoder.rotary_emb.inv_freq.cpu().numpy(), layers.head_width)
    rotary.at(graph.arange(graph.constant(0, "int64"), graph.length(hidden, 1)))
    for index in range(len(model.encoder.layers)):
        hidden = layers.encoder_layer(hidden, f"layers.{index}", layers.norm, rotary.rotate, None)
    states = layers.norm(hidden, "layer_norm")
    graph.output("last_hidden_state", states, ["batch_size", "frames", width])
    return graph


def _convolution(graph: GraphBuilder, weights: Weights, x: str, index: int) -> str:
    name = f"conv{index}"
    inputs = [graph.constant(weights[f"{name}.weight"], name=f"{name}.weight")]
    if f"{name}.bias" in weights:
        inputs.append(graph.constant(weights[f"{name}.bias"], name=f"{name}.bias"))
    return graph.op("Conv", x, *inputs, strides=[_STRIDES[index - 1]])


def _group_norm(graph: GraphBuilder, weights: Weights, x: str, epsilon: float) -> str:
    """One group: mean and variance over all channels and frames."""
    flat = graph.op("Reshape", x, graph.ints(0, 1, -1))
    one, zero = (graph.constant(np.array([value], np.float32)) for value in (1, 0))
    normed = graph.op("InstanceNormalization", flat, one, zero, epsilon=epsilon)
    x = graph.op("Reshape", normed, graph.op("Shape", x))
    scaled = graph.op("Mul", x, graph.constant(weights["groupnorm.weight"][:, None]))
    return graph.op("Add", scaled, graph.constant(weights["groupnorm.bias"][:, None]))


def _decoder(model: SpeechModel, weights: Weights, scheme: str) -> GraphBuilder:
    """Tokens, encoder states and caches to logits and caches.

    Only keys and values differ between the first step and the later ones, so only they are in the
    branches. At the first step the runtime passes a row of zeros that is not a past.
    """
    attention = model.decoder.layers[0].self_attn
    table = weights[f"{_DECODER}.embed_tokens.weight"]
    graph = GraphBuilder("decoder_model_merged", scheme)
    layers = Layers(graph, weights, attention)
    heads, width = attention.q_proj.out_features // layers.head_width, layers.head_width
    graph.input("encoder_attention_mask", ["batch_size", "encoder_sequence_length"], "INT64")
    tokens = graph.input("input_ids", ["batch_size", "decoder_sequence_length"], "INT64")
    states = graph.input(
        "encoder_hidden_states", ["batch_size", "encoder_sequence_length", table.shape[1]]
    )
    past: list[dict[str, str]] = []
    for index in range(len(model.decoder.layers)):
        past.append({})
        for side in ("decoder", "encoder"):
            length = "past_decoder_sequence_length" if side == "decoder" else "encoder_length"
            for kind in ("key", "value"):
                past[index][f"{side}.{kind}"] = graph.input(
                    f"past_key_values.{index}.{side}.{kind}", ["batch_size", heads, length, width]
                )
    cached = graph.input("use_cache_branch", [1], "BOOL")
    known, cross = _known_keys_and_values(graph, weights, model, states, past, cached)
    new, before = graph.length(tokens, 1), graph.length(known[0][0], 2)
    mask = causal_mask(graph, new, before)
    rotary = Rotary(graph, model.decoder.rotary_emb.inv_freq.cpu().numpy(), width)
    rotary.at(graph.arange(before, graph.op("Add", before, new)))
    hidden = graph.lookup(f"{_DECODER}.embed_tokens.weight", table, tokens)
    present: list[dict[str, str]] = []
    for index, (past_pair, cross_pair) in enumerate(zip(known, cross, strict=True)):
        name = f"{_DECODER}.layers.{index}"
        hidden, pair = layers.decoder_layer(hidden, name, past_pair, cross_pair, rotary, mask)
        names = ("decoder.key", "decoder.value", "encoder.key", "encoder.value")
        present.append(dict(zip(names, (*pair, *cross_pair), strict=True)))
    hidden = layers.norm(hidden, f"{_DECODER}.norm")
    head = weights.get("proj_out.weight", table)
    logits = graph.linear(hidden, "proj_out", head)
    graph.output("logits", logits, ["batch_size", "decoder_sequence_length", len(table)])
    for index, values in enumerate(present):
        for part, value in values.items():
            length = "decoder_length_out" if part.startswith("decoder") else "encoder_length_out"
            graph.output(f"present.{index}.{part}", value, ["batch_size", heads, length, width])
    return graph


def _known_keys_and_values(
    graph: GraphBuilder,
    weights: Weights,
    model: SpeechModel,
    states: str,
    past: list[dict[str, str]],
    cached: str,
) -> tuple[list[Pair], list[Pair]]:
    """Keys and values of the tokens so far, and of the encoder states, layer by layer.

    The first step has no tokens so far and computes those of the states; later steps pass all of
    them on.
    """
    first, later = graph.branch("first_step"), graph.branch("later_steps")
    attention = model.decoder.layers[0].encoder_attn
    layers = Layers(first, weights, attention)
    heads, width = attention.k_proj.out_features // layers.head_width, layers.head_width
    nothing = first.constant(np.zeros((1, heads, 0, width), np.float32), name="no_tokens")
    dims = ["batch_size", heads, "length", width]
    count = 0
    for side in ("decoder", "encoder"):
        for index, old in enumerate(past):
            for kind in ("key", "value"):
                name = f"{_DECODER}.layers.{index}.encoder_attn.{kind[0]}_proj"
                fresh = nothing if side == "decoder" else layers.heads(states, name)
                first.output(f"first_{count}", fresh, dims)
                later.output(f"later_{count}", old[f"{side}.{kind}"], dims)
                count += 1
    outputs = graph.ops(
        "If", count, cached, then_branch=later.as_branch(), else_branch=first.as_branch()
    )
    pairs = list(zip(outputs[::2], outputs[1::2], strict=True))
    return pairs[: len(past)], pairs[len(past) :]
