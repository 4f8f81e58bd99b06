"""What the streaming graphs say beside their weights: windows, rotation, compression."""

import json
import math
from typing import Any

import numpy as np

from moonshine_tune.core.errors import RequestError
from moonshine_tune.runtime.graph_map import GraphMap
from moonshine_tune.runtime.layout import RuntimeLayout
from moonshine_tune.runtime.ort_file import Initializer, OrtFile

# Comparison with a distance in frames → (is it the bound behind, how far an inclusive bound is).
_BOUNDS = {
    "LessOrEqual": (True, 0), "Less": (True, -1),
    "GreaterOrEqual": (False, 0), "Greater": (False, 1),
}  # fmt: skip


def read_streaming_config(layout: RuntimeLayout) -> dict[str, Any]:
    """The folder's `streaming_config.json`.

    Raises:
        RequestError: it is not JSON, or sizes are missing.
    """
    path = layout.folder / "streaming_config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        for key in ("depth", "nheads", "head_dim", "encoder_dim", "decoder_dim", "frame_len"):
            int(config[key])
    except (ValueError, KeyError, TypeError) as error:
        raise RequestError(f"not a streaming config: {error!r}", where=path) from error
    found: dict[str, Any] = config
    return found


def encoder_windows(graph: GraphMap) -> list[tuple[int, int]]:
    """For each layer how many frames behind and ahead it sees, both inclusive.

    Raises:
        RequestError: the graph states no window for a layer.
    """
    windows = []
    for softmax in graph.in_order(("Softmax",)):
        behind = ahead = None
        # No further back than to the product of this attention: before it come other layers.
        nodes = graph.upstream(softmax.inputs[0], lambda n: n.op in _BOUNDS or "MatMul" in n.op)
        for node in nodes:
            bound = _constant(graph, node.inputs[1]) if node.op in _BOUNDS else None
            if bound is None:
                continue
            is_behind, shift = _BOUNDS[node.op]
            if is_behind:
                behind = int(bound) + shift
            else:
                ahead = -(int(bound) + shift)
        if behind is None or ahead is None or behind < 0 or ahead < 0:
            raise RequestError(
                "this graph is not laid out as known: a layer's window is not found",
                where=graph.file.path,
            )
        windows.append((behind, ahead))
    return windows


def rotary_dims_and_theta(graph: GraphMap) -> tuple[int, float]:
    """How many dimensions of a head are turned, and the base of their frequencies.

    Raises:
        RequestError: the frequencies are not found.
    """
    for cosine in graph.in_order(("Cos",)):
        waiting = [cosine.inputs[0]]
        while waiting:
            name = waiting.pop()
            item = graph.file.by_name.get(name)
            if item is not None and item.dtype == "<f4" and item.size > 4:
                frequencies = np.asarray(graph.file.array(item), np.float64).reshape(-1)
                if frequencies[0] == frequencies[1]:
                    # One for each dimension: pairs are equal, and 0 turns nothing.
                    frequencies = frequencies[frequencies > 0][::2]
                # The first is 1, the i-th theta^(-2i / dims).
                dims = 2 * len(frequencies)
                return dims, float(frequencies[1]) ** (-dims / 2)
            maker = graph.made_by.get(name)
            if maker is not None:
                waiting.extend(maker.inputs)
    raise RequestError(
        "this graph is not laid out as known: no rotary frequencies", where=graph.file.path
    )


def compression_log_k(graph: GraphMap) -> float:
    """The front end's log k: amplitudes are compressed by asinh(k · x).

    Raises:
        RequestError: the graph has no such compression.
    """
    for node in graph.in_order(("Asinh",)):
        product = graph.made_by.get(node.inputs[0])
        for name in product.inputs if product is not None else ():
            constant = _constant(graph, name)
            if constant is not None:
                return math.log(constant)
            maker = graph.made_by.get(name)
            inner = _constant(graph, maker.inputs[0]) if maker and maker.op == "Exp" else None
            if inner is not None:
                return inner
    raise RequestError(
        "this graph is not laid out as known: no amplitude compression", where=graph.file.path
    )


def _constant(graph: GraphMap, name: str) -> float | None:
    item: Initializer | None = graph.file.by_name.get(name)
    if item is None or int(np.prod(item.shape)) != 1:
        return None
    file: OrtFile = graph.file
    return float(file.array(item).reshape(-1)[0])
