"""The five streaming graphs: frontend, encoder, the adapter graph, cross_kv, decoder_kv."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from moonshine_tune.core.files import write_json_atomic
from moonshine_tune.export.graphs.builder import GraphBuilder, Layers, Pair, Weights
from moonshine_tune.models.base import BOS_ID, EOS_ID, SpeechModel

# Frames before its chunk that a causal convolution of kernel 5 needs.
_CARRIED = 4
_EMBEDDER = "model.encoder.embedder"
_CMVN_EPSILON = 1e-6


def write_streaming_graphs(model: SpeechModel, weights: Weights, out: Path, scheme: str) -> None:
    """Write the graphs and `streaming_config.json` to `out`."""
    _frontend(model, weights).write(out / "frontend.ort")
    _encoder(model, weights, scheme).write(
        out / "encoder.ort", {"encoder_config": json.dumps({"windows": _windows(model)})}
    )
    _adapter_graph(model, weights, scheme).write(out / "adapter.ort")
    _cross_kv(model, weights, scheme).write(out / "cross_kv.ort")
    _decoder_kv(model, weights, scheme).write(out / "decoder_kv.ort")
    write_json_atomic(out / "streaming_config.json", _config(model, weights))


def _windows(model: SpeechModel) -> list[list[int]]:
    """Frames behind and ahead of each layer, inclusive; torch's bounds are exclusive."""
    return [
        [int(behind) - 1, max(int(ahead) - 1, 0)]
        for behind, ahead in model.encoder.config.sliding_windows
    ]


def _config(model: SpeechModel, weights: Weights) -> dict[str, object]:
    encoder_width = weights[f"{_EMBEDDER}.linear.weight"].shape[0]
    attention = model.decoder.layers[0].self_attn
    vocabulary, width = weights["model.decoder.embed_tokens.weight"].shape
    frame = int(model.encoder.embedder.frame_len)
    return {
        "encoder_dim": encoder_width,
        "decoder_dim": width,
        "depth": len(model.decoder.layers),
        "nheads": attention.q_proj.out_features // attention.head_dim,
        "head_dim": int(attention.head_dim),
        "vocab_size": vocabulary,
        "bos_id": BOS_ID,
        "eos_id": EOS_ID,
        "frame_len": frame,
        "total_lookahead": sum(ahead for _, ahead in _windows(model)),
        "d_model_frontend": encoder_width,
        "c1": 2 * encoder_width,
        "c2": encoder_width,
        "frontend_state_shapes": {
            "sample_buffer": [1, frame - 1],
            "sample_len": [1],
            "conv1_buffer": [1, encoder_width, _CARRIED],
            "conv2_buffer": [1, 2 * encoder_width, _CARRIED],
            "frame_count": [1],
        },
    }


def _frontend(model: SpeechModel, weights: Weights) -> GraphBuilder:
    """Audio to features, chunk by chunk; in floats: its inputs have the range of 16-bit audio."""
    frame = int(model.encoder.embedder.frame_len)
    width = weights[f"{_EMBEDDER}.linear.weight"].shape[0]
    graph = GraphBuilder("frontend", "none")
    layers = Layers(graph, weights, model.encoder.layers[0].self_attn)
    audio = graph.input("audio_chunk", [1, "chunk_len"])
    rest = graph.input("sample_buffer", [1, frame - 1])
    rest_length = graph.input("sample_len", [1], "INT64")
    carried1 = graph.input("conv1_buffer", [1, width, _CARRIED])
    carried2 = graph.input("conv2_buffer", [1, 2 * width, _CARRIED])
    count = graph.input("frame_count", [1], "INT64")

    first = graph.op("Slice", rest, graph.ints(0), rest_length, graph.ints(1))
    samples = graph.op("Concat", first, audio, axis=1)
    available = graph.op("Gather", graph.op("Shape", samples), graph.ints(1))
    frames = graph.op("Div", available, graph.ints(frame))
    used = graph.op("Mul", frames, graph.ints(frame))
    complete = graph.op("Slice", samples, graph.ints(0), used, graph.ints(1))
    x = graph.op("Reshape", complete, graph.ints(1, -1, frame))
    x = graph.op("Sub", x, graph.op("ReduceMean", x, graph.ints(-1)))
    power = graph.op("ReduceMean", graph.op("Mul", x, x), graph.ints(-1))
    power = graph.op("Add", power, graph.constant(np.float32(_CMVN_EPSILON)))
    x = graph.op("Div", x, graph.op("Sqrt", power))
    factor = np.exp(weights[f"{_EMBEDDER}.comp.log_k"]).astype(np.float32)
    x = graph.op("Asinh", graph.op("Mul", x, graph.constant(factor)))
    x = graph.silu(layers.linear(x, f"{_EMBEDDER}.linear"))
    x = graph.op("Concat", carried1, graph.op("Transpose", x, perm=[0, 2, 1]), axis=2)
    y = graph.silu(layers.convolution(x, f"{_EMBEDDER}.conv1", 2))
    y = graph.op("Concat", carried2, y, axis=2)
    z = layers.convolution(y, f"{_EMBEDDER}.conv2", 2)
    features = graph.op("Transpose", z, perm=[0, 2, 1])

    left = graph.op("Slice", samples, used, available, graph.ints(1))
    zeros = graph.constant(np.zeros((1, frame - 1), np.float32))
    padded = graph.op("Concat", left, zeros, axis=1)
    kept = graph.op("Slice", padded, graph.ints(0), graph.ints(frame - 1), graph.ints(1))
    graph.output("features", features, [1, "feat_len", width])
    graph.output("sample_buffer_out", kept, [1, frame - 1])
    graph.output("sample_len_out", graph.op("Sub", available, used), [1], "INT64")
    graph.output("conv1_buffer_out", _last(graph, x), [1, width, _CARRIED])
    graph.output("conv2_buffer_out", _last(graph, y), [1, 2 * width, _CARRIED])
    graph.output("frame_count_out", graph.op("Add", count, frames), [1], "INT64")
    return graph


def _last(graph: GraphBuilder, x: str) -> str:
    end = np.iinfo(np.int64).max
    return graph.op("Slice", x, graph.ints(-_CARRIED), graph.ints(end), graph.ints(2))


def _encoder(model: SpeechModel, weights: Weights, scheme: str) -> GraphBuilder:
    width = weights[f"{_EMBEDDER}.linear.weight"].shape[0]
    graph = GraphBuilder("encoder", scheme)
    layers = Layers(graph, weights, model.encoder.layers[0].self_attn)
    hidden = graph.input("features", [1, "feat_len", width])
    masks = _window_masks(graph, hidden, model)
    for index, window in enumerate(_windows(model)):
        name = f"model.encoder.layers.{index}"
        hidden = layers.encoder_layer(hidden, name, mask=masks[tuple(window)])
    encoded = layers.norm(hidden, "model.encoder.final_norm")
    graph.output("encoded", encoded, [1, "feat_len", width])
    return graph


def _window_masks(
    graph: GraphBuilder, hidden: str, model: SpeechModel
) -> dict[tuple[int, ...], str]:
    zero = graph.constant(0, "int64")
    positions = graph.arange(zero, graph.length(hidden, 1))
    rows = graph.op("Unsqueeze", positions, graph.ints(1))
    distance = graph.op("Sub", rows, graph.op("Unsqueeze", positions, graph.ints(0)))
    masks: dict[tuple[int, ...], str] = {}
    for behind, ahead in sorted({tuple(window) for window in _windows(model)}):
        not_behind = graph.op("LessOrEqual", distance, graph.constant(behind, "int64"))
        not_ahead = graph.op("GreaterOrEqual", distance, graph.constant(-ahead, "int64"))
        masks[behind, ahead] = graph.allowed_mask(graph.op("And", not_behind, not_ahead))
    return masks


def _adapter_graph(model: SpeechModel, weights: Weights, scheme: str) -> GraphBuilder:
    """Encoder states to the decoder's input: positions added, projected to its width."""
    table = weights["model.decoder.pos_emb.weight"]
    width = weights["model.decoder.embed_tokens.weight"].shape[1]
    graph = GraphBuilder("adapter", scheme)
    layers = Layers(graph, weights, model.encoder.layers[0].self_attn)
    encoded = graph.input("encoded", [1, "enc_len", table.shape[1]])
    offset = graph.input("pos_offset", [1], "INT64")
    positions = graph.arange(graph.constant(0, "int64"), graph.length(encoded, 1))
    rows = graph.lookup("model.decoder.pos_emb.weight", table, graph.op("Add", positions, offset))
    memory = graph.op("Add", encoded, rows)
    if "model.decoder.proj.weight" in weights:
        memory = layers.linear(memory, "model.decoder.proj")
    graph.output("memory", memory, [1, "enc_len", width])
    return graph


def _cross_kv(model: SpeechModel, weights: Weights, scheme: str) -> GraphBuilder:
    """Keys and values of every layer's cross-attention."""
    attention = model.decoder.layers[0].encoder_attn
    depth, width = len(model.decoder.layers), weights["model.decoder.embed_tokens.weight"].shape[1]
    graph = GraphBuilder("cross_kv", scheme)
    layers = Layers(graph, weights, attention)
    memory = graph.input("memory", [1, "mem_len", width])
    heads = attention.k_proj.out_features // layers.head_width
    for output, kind in (("k_cross", "k_proj"), ("v_cross", "v_proj")):
        parts = [
            layers.heads(memory, f"model.decoder.layers.{index}.encoder_attn.{kind}")
            for index in range(depth)
        ]
        graph.output(output, _stack(graph, parts), [depth, 1, heads, "mem_len", layers.head_width])
    return graph


def _stack(graph: GraphBuilder, parts: Sequence[str]) -> str:
    return graph.op(
        "Concat", *(graph.op("Unsqueeze", part, graph.ints(0)) for part in parts), axis=0
    )


def _by_layer(
    graph: GraphBuilder, depth: int, *caches: Mapping[str, str]
) -> Iterator[tuple[Pair, Pair]]:
    """Each layer's keys and values of stacked caches: of self-attention, and of cross-attention."""
    for index in range(depth):
        layer = graph.constant(index, "int64")
        parts = [
            graph.op("Gather", cache[kind], layer, axis=0) for cache in caches for kind in "kv"
        ]
        yield (parts[0], parts[1]), (parts[2], parts[3])


def _decoder_kv(model: SpeechModel, weights: Weights, scheme: str) -> GraphBuilder:
    """Tokens and caches to logits and caches."""
    attention = model.decoder.layers[0].self_attn
    depth = len(model.decoder.layers)
    vocabulary = weights["model.decoder.embed_tokens.weight"].shape[0]
    graph = GraphBuilder("decoder_kv", scheme)
    layers = Layers(graph, weights, attention)
    heads = attention.q_proj.out_features // layers.head_width
    shape = (depth, 1, heads)
    token = graph.input("token", [1, "token_len"], "INT64")
    past = {
        kind: graph.input(f"{kind}_self", [*shape, "cache_len", layers.head_width]) for kind in "kv"
    }
    cross = {
        kind: graph.input(f"out_{kind}_cross", [*shape, "memory_len", layers.head_width])
        for kind in "kv"
    }
    lengths = graph.length(token, 1), graph.length(past["k"], 3)
    logits, kept = layers.decode(model, token, lengths, _by_layer(graph, depth, past, cross))
    graph.output("logits", logits, [1, "token_len", vocabulary])
    for kind, parts in zip("kv", zip(*kept, strict=True), strict=True):
        dims = [*shape, "cache_len_out", layers.head_width]
        graph.output(f"out_{kind}_self", _stack(graph, parts), dims)
    # The runtime passes these from step to step by name.
    for kind in "kv":
        dims = [*shape, "memory_len", layers.head_width]
        graph.output(f"out_{kind}_cross", cross[kind], dims)
    return graph
