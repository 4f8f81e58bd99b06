"""The two graphs of v1: `encoder_model` and `decoder_model_merged`."""

from pathlib import Path

import numpy as np

from moonshine_tune.export.graphs.builder import GraphBuilder, Layers, Pair, Rotary, Weights
from moonshine_tune.models.base import SpeechModel

_ENCODER, _DECODER = "model.encoder", "model.decoder"
_CACHED = ("decoder.key", "decoder.value", "encoder.key", "encoder.value")


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
    x = graph.op("Tanh", layers.convolution(x, "conv1", 64))
    x = _group_norm(graph, own, x, float(model.encoder.groupnorm.eps))
    x = graph.gelu(layers.convolution(x, "conv2", 3))
    x = graph.gelu(layers.convolution(x, "conv3", 2))
    hidden = graph.op("Transpose", x, perm=[0, 2, 1])
    positions = graph.arange(graph.constant(0, "int64"), graph.length(hidden, 1))
    rotary = Rotary(graph, model.encoder.rotary_emb, layers.head_width, positions)
    for index in range(len(model.encoder.layers)):
        hidden = layers.encoder_layer(hidden, f"layers.{index}", rotary=rotary)
    states = layers.norm(hidden, "layer_norm")
    graph.output("last_hidden_state", states, ["batch_size", "frames", width])
    return graph


def _group_norm(graph: GraphBuilder, weights: Weights, x: str, epsilon: float) -> str:
    """One group: mean and variance over all channels and frames."""
    flat = graph.op("Reshape", x, graph.ints(0, 1, -1))
    scale, shift = (graph.constant(np.array([value], np.float32)) for value in (1, 0))
    normed = graph.op("InstanceNormalization", flat, scale, shift, epsilon=epsilon)
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
    # A tied head is the embedding.
    layers = Layers(graph, {"proj_out.weight": table, **weights}, attention)
    heads, width = attention.q_proj.out_features // layers.head_width, layers.head_width
    graph.input("encoder_attention_mask", ["batch_size", "encoder_sequence_length"], "INT64")
    tokens = graph.input("input_ids", ["batch_size", "decoder_sequence_length"], "INT64")
    states = graph.input(
        "encoder_hidden_states", ["batch_size", "encoder_sequence_length", table.shape[1]]
    )
    lengths = ("past_decoder_sequence_length",) * 2 + ("encoder_length",) * 2
    past = [
        [
            graph.input(f"past_key_values.{index}.{part}", ["batch_size", heads, length, width])
            for part, length in zip(_CACHED, lengths, strict=True)
        ]
        for index in range(len(model.decoder.layers))
    ]
    cached = graph.input("use_cache_branch", [1], "BOOL")
    known, cross = _known_keys_and_values(graph, weights, model, states, past, cached)
    counts = graph.length(tokens, 1), graph.length(known[0][0], 2)
    logits, kept = layers.decode(model, tokens, counts, zip(known, cross, strict=True))
    graph.output("logits", logits, ["batch_size", "decoder_sequence_length", len(table)])
    for index, (own, of_states) in enumerate(zip(kept, cross, strict=True)):
        for part, value in zip(_CACHED, (*own, *of_states), strict=True):
            length = f"{part.partition('.')[0]}_length_out"
            graph.output(f"present.{index}.{part}", value, ["batch_size", heads, length, width])
    return graph


def _known_keys_and_values(
    graph: GraphBuilder,
    weights: Weights,
    model: SpeechModel,
    states: str,
    past: list[list[str]],
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
    for is_of_states in (False, True):
        for index, old in enumerate(past):
            for kind, value in zip("kv", old[2:] if is_of_states else old[:2], strict=True):
                name = f"{_DECODER}.layers.{index}.encoder_attn.{kind}_proj"
                fresh = layers.heads(states, name) if is_of_states else nothing
                first.output(f"first_{count}", fresh, dims)
                later.output(f"later_{count}", value, dims)
                count += 1
    outputs = graph.ops(
        "If", count, cached, then_branch=later.as_branch(), else_branch=first.as_branch()
    )
    pairs = list(zip(outputs[::2], outputs[1::2], strict=True))
    return pairs[: len(past)], pairs[len(past) :]
