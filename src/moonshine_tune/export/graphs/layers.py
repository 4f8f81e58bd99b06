"""The layers that all runtime graphs are made of, with their weights by checkpoint name."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from moonshine_tune.export.graphs.builder import GraphBuilder, LinearLayer

Floats = npt.NDArray[np.float32]


class Layers:
    """Builds layers into a graph from a checkpoint's weights.

    Args:
        weights: tensors by name.
        attention: a module of the family's attention, for its head width.
    """

    def __init__(self, graph: GraphBuilder, weights: Mapping[str, Floats], attention: Any) -> None:
        self.graph = graph
        self.weights = weights
        self.head_width = int(attention.head_dim)

    def linear(self, x: str, name: str, *, bias: bool = False) -> str:
        """The linear layer of a module."""
        return self.graph.linear(x, self.layer(name, bias=bias))

    def layer(self, name: str, *, bias: bool = False) -> LinearLayer:
        """A module's matrix and bias."""
        return LinearLayer(
            name, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"] if bias else None
        )

    def heads(self, x: str, name: str) -> str:
        """A projection, split into heads: [B, heads, L, width]."""
        heads = self.weights[f"{name}.weight"].shape[0] // self.head_width
        return self.graph.heads(self.linear(x, name), heads, self.head_width)

    def norm(self, x: str, name: str) -> str:
        """A layer norm with its weight as it is."""
        return self.graph.norm(x, f"{name}.weight", self.weights[f"{name}.weight"])

    def attention_out(self, query: str, key: str, value: str, mask: str | None, name: str) -> str:
        """Attention and its output projection."""
        mixed = self.graph.attend(query, key, value, mask, self.head_width)
        return self.linear(mixed, f"{name}.o_proj")

    def plain_feed_forward(self, x: str, name: str) -> str:
        """The encoder's: fc1, GELU, fc2."""
        inner = self.graph.gelu(self.linear(x, f"{name}.fc1", bias=True))
        return self.linear(inner, f"{name}.fc2", bias=True)

    def gated_feed_forward(self, x: str, name: str) -> str:
        """The decoder's: half of fc1 gates the other half."""
        both = self.linear(x, f"{name}.fc1", bias=True)
        half = self.weights[f"{name}.fc1.weight"].shape[0] // 2
        values, gate = self.graph.ops("Split", 2, both, self.graph.ints(half, half), axis=-1)
        gated = self.graph.op("Mul", self.graph.silu(gate), values)
        return self.linear(gated, f"{name}.fc2", bias=True)


class Rotary:
    """Rotary positions: pairs of neighbouring dimensions are turned, the rest stays."""

    def __init__(self, graph: GraphBuilder, frequencies: Floats, width: int) -> None:
        self._graph = graph
        dims = 2 * len(frequencies)
        # Frequency 0 turns nothing, so that all dimensions go one way.
        self._frequencies = np.zeros(width, np.float32)
        self._frequencies[:dims] = np.repeat(frequencies, 2)
        self._signs = np.where(np.arange(width) % 2 == 0, -1, 1).astype(np.float32)
        self._partners = np.arange(width)
        self._partners[:dims] = np.arange(dims) ^ 1
        self._cos = self._sin = ""

    def at(self, positions: str) -> "Rotary":
        """Set the positions, a vector of integers."""
        graph = self._graph
        column = graph.op("Unsqueeze", graph.op("Cast", positions, to=1), graph.ints(1))
        angles = graph.op("Mul", column, graph.constant(self._frequencies))
        self._cos = graph.op("Cos", angles)
        self._sin = graph.op("Mul", graph.op("Sin", angles), graph.constant(self._signs))
        return self

    def turn(self, x: str) -> str:
        """[B, heads, L, width], turned."""
        graph = self._graph
        partner = graph.op("Gather", x, graph.constant(self._partners, "int64"), axis=3)
        return graph.op("Add", graph.op("Mul", x, self._cos), graph.op("Mul", partner, self._sin))


def causal_mask(graph: GraphBuilder, new: str, past: str) -> str:
    """[new, past + new], added to scores: each new place sees the past and itself.

    Args:
        new, past: how many there are, scalars.
    """
    total = graph.op("Add", past, new)
    rows = graph.op("Unsqueeze", graph.arange(past, total), graph.ints(1))
    zero = graph.constant(0, "int64")
    columns = graph.op("Unsqueeze", graph.arange(zero, total), graph.ints(0))
    return graph.allowed_mask(graph.op("GreaterOrEqual", rows, columns))
