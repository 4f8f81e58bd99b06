"""The configuration of a streaming folder: its JSON file, and facts that only its graphs state."""

import math
from typing import Any

import numpy as np

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import read_json
from moonshine_tune.runtime.graph_map import GraphMap, unknown_layout
from moonshine_tune.runtime.layout import RuntimeLayout

# Comparison with a distance in frames → (is it the bound behind, offset of the inclusive bound).
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
    config = read_json(path)
    try:
        for key in ("depth", "nheads", "head_dim", "encoder_dim", "decoder_dim", "frame_len"):
            int(config[key])
    except (ValueError, KeyError, TypeError) as error:
        raise RequestError(f"not a streaming config: {error!r}", where=path) from error
    return config


def encoder_windows(graph: GraphMap) -> list[tuple[int, int]]:
    """For each layer the number of frames behind and ahead that it attends to, both inclusive.

    Raises:
        RequestError: the graph states no window for a layer.
    """
    windows = []
    for softmax in graph.in_order(("Softmax",)):
        behind = ahead = None
        # Stop at the product of this attention: before it come other layers.
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
            raise unknown_layout("the window of a layer not found", graph.file.path)
        windows.append((behind, ahead))
    return windows


def rotary_dims_and_theta(graph: GraphMap) -> tuple[int, float]:
    """Number of rotated dimensions of a head, and the base of their frequencies.

    Raises:
        RequestError: the graph has no rotary frequencies.
    """
    for cosine in graph.in_order(("Cos",)):
        waiting = [cosine.inputs[0]]
        while waiting:
            name = waiting.pop()
            item = graph.file.by_name.get(name)
            if item is not None and item.dtype == "<f4" and item.size > 4:
                frequencies = np.asarray(graph.file.array(item), np.float64).reshape(-1)
                if frequencies[0] == frequencies[1]:
                    # One per dimension: pairs are equal, and 0 rotates nothing.
                    frequencies = frequencies[frequencies > 0][::2]
                # The first is 1, the i-th theta^(-2i / dims).
                dims = 2 * len(frequencies)
                return dims, float(frequencies[1]) ** (-dims / 2)
            producer = graph.producers.get(name)
            waiting.extend(producer.inputs if producer is not None else ())
    raise unknown_layout("no rotary frequencies", graph.file.path)


def compression_log_k(graph: GraphMap) -> float:
    """The front end's log k: amplitudes are compressed by asinh(k · x).

    Raises:
        RequestError: the graph has no such compression.
    """
    for node in graph.in_order(("Asinh",)):
        product = graph.producers.get(node.inputs[0])
        for name in product.inputs if product is not None else ():
            constant = _constant(graph, name)
            if constant is not None:
                return math.log(constant)
            producer = graph.producers.get(name)
            if producer is not None and producer.op == "Exp":
                exponent = _constant(graph, producer.inputs[0])
                if exponent is not None:
                    return exponent
    raise unknown_layout("no amplitude compression", graph.file.path)


def _constant(graph: GraphMap, name: str) -> float | None:
    item = graph.file.by_name.get(name)
    if item is None or int(np.prod(item.shape)) != 1:
        return None
    return float(graph.file.array(item).reshape(-1)[0])
