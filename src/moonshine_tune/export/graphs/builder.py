"""Building runtime graphs node by node, with 8-bit or float matrices, and writing them as `.ort`.

Only operators of the published graphs are used: runtimes for phones are compiled for those alone.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from moonshine_tune.core.errors import MachineError
from moonshine_tune.core.text import first_line
from moonshine_tune.models.base import SpeechModel
from moonshine_tune.runtime.quantized import Floats, Grid

OPSET, IR_VERSION = 18, 10
_LOWEST = float(np.finfo(np.float32).min)
Dims = Sequence[int | str]
Weights = Mapping[str, Floats]
Pair = tuple[str, str]
"""Names of keys and values."""


class GraphBuilder:
    """Collects the nodes and constants of one graph.

    A builder made by `branch` collects the nodes of a branch; its constants go to the outer graph.
    """

    def __init__(self, name: str, scheme: str, outer: "GraphBuilder | None" = None) -> None:
        self.onnx = require_onnx()
        self._name, self._scheme = name, scheme
        self._outer = outer
        self._nodes: list[Any] = []
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        self._constants: dict[str, Any] = {}
        self._known: dict[tuple[str, str, bytes], str] = {}
        self._quantized: dict[str, list[str]] = {}
        self._count = 0

    # --- inputs and outputs

    def input(self, name: str, dims: Dims, dtype: str = "FLOAT") -> str:
        """Declare an input; returns its name."""
        self._inputs.append(self._info(name, dims, dtype))
        return name

    def output(self, name: str, value: str, dims: Dims, dtype: str = "FLOAT") -> None:
        """Declare an output that holds `value`."""
        if value != name:
            self._nodes.append(self.onnx.helper.make_node("Identity", [value], [name]))
        self._outputs.append(self._info(name, dims, dtype))

    def _info(self, name: str, dims: Dims, dtype: str) -> Any:
        kind = getattr(self.onnx.TensorProto, dtype)
        return self.onnx.helper.make_tensor_value_info(name, kind, list(dims))

    # --- nodes

    def op(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """Add a node with one output; returns the output's name."""
        return self.ops(kind, 1, *inputs, name=name, **attributes)[0]

    def ops(
        self, kind: str, count: int, *inputs: str, name: str = "", **attributes: Any
    ) -> list[str]:
        """Add a node with several outputs."""
        outputs = [self._fresh(kind) for _ in range(count)]
        node = self.onnx.helper.make_node(kind, list(inputs), outputs, name=name, **attributes)
        self._nodes.append(node)
        return outputs

    def _fresh(self, kind: str) -> str:
        if self._outer is not None:
            return self._outer._fresh(kind)
        self._count += 1
        return f"{kind.lower()}_{self._count}"

    def constant(self, value: Any, dtype: str = "float32", name: str | None = None) -> str:
        """A constant; equal ones are stored once."""
        if self._outer is not None:
            return self._outer.constant(value, dtype, name)
        array = np.asarray(value, dtype=dtype)
        key = (name or "", f"{dtype}{array.shape}", array.tobytes() if array.size < 4096 else b"")
        known = self._known.get(key)
        if known is not None and (name or array.size < 4096):
            return known
        label = name or self._fresh("constant")
        self._constants[label] = self.onnx.numpy_helper.from_array(array, label)
        self._known[key] = label
        return label

    def ints(self, *values: int) -> str:
        """A vector of 64-bit integers."""
        return self.constant(list(values), "int64")

    def branch(self, name: str) -> "GraphBuilder":
        """A builder for a branch of an `If`."""
        return GraphBuilder(name, self._scheme, self)

    def as_branch(self) -> Any:
        """The branch as an ONNX graph."""
        return self.onnx.helper.make_graph(self._nodes, self._name, [], self._outputs)

    # --- products and lookups

    def product(self, x: str, name: str, weight: Floats) -> str:
        """x · Wᵀ with the matrix [out, in] of the module `name`.

        In 8 bits, activations are quantized at run time; the weights have one scale per output
        channel.
        """
        node = "/" + name.replace(".", "/") + "/MatMul"
        matrix = np.ascontiguousarray(weight.T)
        if self._scheme == "none":
            return self.op("MatMul", x, self.constant(matrix, name=f"{name}.weight_t"), name=node)
        names = self._store(f"{name}.weight_t", matrix, axis=1)
        if x not in self._quantized:
            self._quantized[x] = self.ops("DynamicQuantizeLinear", 3, x)
        values, scale, zero = self._quantized[x]
        inputs = (values, names[0], zero, names[2])
        product = self.op("MatMulInteger", *inputs, name=f"{node}_quant")
        return self.op("Mul", self.op("Cast", product, to=1), self.op("Mul", scale, names[1]))

    def lookup(self, name: str, table: Floats, rows: str) -> str:
        """Rows of a table [V, D]; in 8 bits with one scale for the table."""
        if self._scheme == "none":
            return self.op("Gather", self.constant(table, name=name), rows)
        values, scale, zero = self._store(name, table, axis=None)
        return self.op("DequantizeLinear", self.op("Gather", values, rows), scale, zero)

    def _store(self, name: str, matrix: Floats, axis: int | None) -> tuple[str, str, str]:
        top = self._outer or self
        if f"{name}_quantized" not in top._constants:
            grid = eight_bit_grid(matrix, axis)
            shape = () if axis is None else (-1,)
            self.constant(grid.levels(matrix), "uint8", f"{name}_quantized")
            self.constant(grid.scale.reshape(shape), "float32", f"{name}_scale")
            self.constant(grid.zero.reshape(shape), "uint8", f"{name}_zero_point")
        return f"{name}_quantized", f"{name}_scale", f"{name}_zero_point"

    def gelu(self, x: str) -> str:
        """x · Φ(x)."""
        half = self.op("Mul", x, self.constant(np.float32(0.5)))
        inner = self.op("Erf", self.op("Div", x, self.constant(np.float32(np.sqrt(2)))))
        return self.op("Mul", half, self.op("Add", inner, self.constant(np.float32(1))))

    def silu(self, x: str) -> str:
        """x · σ(x)."""
        return self.op("Mul", x, self.op("Sigmoid", x))

    def allowed_mask(self, allowed: str) -> str:
        """0 where allowed, the lowest number elsewhere."""
        return self.op(
            "Where", allowed, self.constant(np.float32(0)), self.constant(np.float32(_LOWEST))
        )

    def length(self, x: str, axis: int) -> str:
        """The size of an axis, as a scalar."""
        return self.op("Gather", self.op("Shape", x), self.constant(axis, "int64"))

    def arange(self, start: str, end: str) -> str:
        """Integers from start to below end (scalars)."""
        return self.op("Range", start, end, self.constant(1, "int64"))

    # --- writing

    def write(self, path: Path, metadata: Mapping[str, str] | None = None) -> None:
        """Optimize the graph with onnxruntime and write it in the runtime's format."""
        helper = self.onnx.helper
        graph = helper.make_graph(
            self._nodes, self._name, self._inputs, self._outputs, list(self._constants.values())
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="moonshine-tune"
        )
        model.ir_version = IR_VERSION
        helper.set_model_props(model, dict(metadata or {}))
        data = model.SerializeToString()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.optimized_model_filepath = str(path)
        options.add_session_config_entry("session.save_model_format", "ORT")
        try:
            onnxruntime.InferenceSession(
                data,
                options,
                providers=["CPUExecutionProvider"],
                # Its layout exists on x86 processors only: other processors cannot load it.
                disabled_optimizers=["NchwcTransformer"],
            )
        except Exception as error:  # onnxruntime has its own exceptions, for a full disk too
            raise MachineError(
                f"onnxruntime cannot write this graph: {first_line(error)}",
                where=path,
                hint="free some disk space there, or choose another folder with --out",
            ) from error


class Layers:
    """Builds layers into a graph from a checkpoint's weights.

    Args:
        weights: tensors by name.
        attention: a module of the family's attention, for its head width.
    """

    def __init__(self, graph: GraphBuilder, weights: Weights, attention: Any) -> None:
        self.graph = graph
        self.weights = weights
        self.head_width = int(attention.head_dim)

    def constant(self, name: str) -> str:
        """A tensor of the checkpoint, under its name."""
        return self.graph.constant(self.weights[name], name=name)

    def linear(self, x: str, name: str, *, bias: bool = False) -> str:
        """The linear layer of a module: x · Wᵀ + b."""
        product = self.graph.product(x, name, self.weights[f"{name}.weight"])
        return self.graph.op("Add", product, self.constant(f"{name}.bias")) if bias else product

    def convolution(self, x: str, name: str, stride: int) -> str:
        """A convolution with its bias, if it has one."""
        parts = [f"{name}.{kind}" for kind in ("weight", "bias")]
        inputs = [self.constant(part) for part in parts if part in self.weights]
        return self.graph.op("Conv", x, *inputs, strides=[stride])

    def norm(self, x: str, name: str) -> str:
        """A layer norm without an offset; the streaming encoder stores its weight as gamma + 1."""
        if f"{name}.gamma" in self.weights:
            gamma = self.weights[f"{name}.gamma"] + np.float32(1)
            scale = self.graph.constant(gamma, name=f"{name}.gamma_plus_one")
        else:
            scale = self.constant(f"{name}.weight")
        return self.graph.op("LayerNormalization", x, scale, axis=-1, epsilon=1e-5)

    def heads(self, x: str, name: str) -> str:
        """A projection, split into heads: [B, L, D] → [B, heads, L, width]."""
        heads = self.weights[f"{name}.weight"].shape[0] // self.head_width
        projected = self.linear(x, name)
        shape = self.graph.ints(0, -1, heads, self.head_width)
        split = self.graph.op("Reshape", projected, shape)
        return self.graph.op("Transpose", split, perm=[0, 2, 1, 3])

    def attention_out(self, query: str, key: str, value: str, mask: str | None, name: str) -> str:
        """Attention over [B, heads, L, width] and its output projection; `mask` is added."""
        graph = self.graph
        transposed = graph.op("Transpose", key, perm=[0, 1, 3, 2])
        products = graph.op("MatMul", query, transposed)
        scores = graph.op("Mul", products, graph.constant(np.float32(self.head_width**-0.5)))
        if mask is not None:
            scores = graph.op("Add", scores, mask)
        mixed = graph.op("MatMul", graph.op("Softmax", scores, axis=-1), value)
        merged = graph.op("Transpose", mixed, perm=[0, 2, 1, 3])
        return self.linear(graph.op("Reshape", merged, graph.ints(0, 0, -1)), f"{name}.o_proj")

    def encoder_layer(
        self, hidden: str, name: str, *, rotary: "Rotary | None" = None, mask: str | None = None
    ) -> str:
        """Self-attention and a plain feed-forward block: fc1, GELU, fc2."""
        x = self.norm(hidden, f"{name}.input_layernorm")
        query, key, value = (self.heads(x, f"{name}.self_attn.{kind}_proj") for kind in "qkv")
        if rotary is not None:
            query, key = rotary.rotate(query), rotary.rotate(key)
        x = self.attention_out(query, key, value, mask, f"{name}.self_attn")
        hidden = self.graph.op("Add", hidden, x)
        x = self.norm(hidden, f"{name}.post_attention_layernorm")
        inner = self.graph.gelu(self.linear(x, f"{name}.mlp.fc1", bias=True))
        return self.graph.op("Add", hidden, self.linear(inner, f"{name}.mlp.fc2", bias=True))

    def decode(
        self,
        model: SpeechModel,
        tokens: str,
        lengths: Pair,
        caches: Iterable[tuple[Pair, Pair]],
    ) -> tuple[str, list[Pair]]:
        """Logits of tokens; keys and values of self-attention with the new tokens, by layer.

        Args:
            lengths: numbers of new tokens and of those before, scalars.
            caches: keys and values of self-attention so far, and of the encoder states, by layer.
        """
        graph, (new, before) = self.graph, lengths
        mask = _causal_mask(graph, new, before)
        positions = graph.arange(before, graph.op("Add", before, new))
        rotary = Rotary(graph, model.decoder.rotary_emb, self.head_width, positions)
        name = "model.decoder.embed_tokens.weight"
        hidden = graph.lookup(name, self.weights[name], tokens)
        kept: list[Pair] = []
        for index, (past, cross) in enumerate(caches):
            name = f"model.decoder.layers.{index}"
            hidden, pair = self.decoder_layer(hidden, name, past, cross, rotary, mask)
            kept.append(pair)
        return self.linear(self.norm(hidden, "model.decoder.norm"), "proj_out"), kept

    def decoder_layer(
        self, hidden: str, name: str, past: Pair, cross: Pair, rotary: "Rotary", mask: str
    ) -> tuple[str, Pair]:
        """Self-attention, cross-attention and a gated feed-forward block.

        Args:
            past: cached keys and values of self-attention.
            cross: keys and values of the encoder states.

        Returns:
            The hidden states, and keys and values of self-attention with the new positions.
        """
        graph = self.graph
        x = self.norm(hidden, f"{name}.input_layernorm")
        query, key, value = (self.heads(x, f"{name}.self_attn.{kind}_proj") for kind in "qkv")
        keys = graph.op("Concat", past[0], rotary.rotate(key), axis=2)
        values = graph.op("Concat", past[1], value, axis=2)
        x = self.attention_out(rotary.rotate(query), keys, values, mask, f"{name}.self_attn")
        hidden = graph.op("Add", hidden, x)
        x = self.norm(hidden, f"{name}.post_attention_layernorm")
        query = self.heads(x, f"{name}.encoder_attn.q_proj")
        x = self.attention_out(query, *cross, None, f"{name}.encoder_attn")
        hidden = graph.op("Add", hidden, x)
        x = self.gated_feed_forward(self.norm(hidden, f"{name}.final_layernorm"), f"{name}.mlp")
        return graph.op("Add", hidden, x), (keys, values)

    def gated_feed_forward(self, x: str, name: str) -> str:
        """One half of fc1 gates the other half; then fc2."""
        both = self.linear(x, f"{name}.fc1", bias=True)
        half = self.weights[f"{name}.fc1.weight"].shape[0] // 2
        values, gate = self.graph.ops("Split", 2, both, self.graph.ints(half, half), axis=-1)
        gated = self.graph.op("Mul", self.graph.silu(gate), values)
        return self.linear(gated, f"{name}.fc2", bias=True)


class Rotary:
    """Rotary positions: pairs of neighboring dimensions are rotated, the rest stays."""

    def __init__(self, graph: GraphBuilder, module: Any, width: int, positions: str) -> None:
        """Angles of a vector of positions, by the frequencies of torch's module."""
        self._graph = graph
        frequencies = module.inv_freq.cpu().numpy()
        dims = 2 * len(frequencies)
        # Frequency 0 rotates nothing, so that all dimensions take the same path.
        by_dim = np.zeros(width, np.float32)
        by_dim[:dims] = np.repeat(frequencies, 2)
        signs = np.where(np.arange(width) % 2 == 0, -1, 1).astype(np.float32)
        self._partners = np.arange(width)
        self._partners[:dims] = np.arange(dims) ^ 1
        column = graph.op("Unsqueeze", graph.op("Cast", positions, to=1), graph.ints(1))
        angles = graph.op("Mul", column, graph.constant(by_dim))
        self._cos = graph.op("Cos", angles)
        self._sin = graph.op("Mul", graph.op("Sin", angles), graph.constant(signs))

    def rotate(self, x: str) -> str:
        """Rotate [B, heads, L, width]."""
        graph = self._graph
        partner = graph.op("Gather", x, graph.constant(self._partners, "int64"), axis=3)
        return graph.op("Add", graph.op("Mul", x, self._cos), graph.op("Mul", partner, self._sin))


def _causal_mask(graph: GraphBuilder, new: str, past: str) -> str:
    """[new, past + new], added to scores: each new position attends to the past and itself.

    Args:
        new, past: numbers of positions, scalars.
    """
    total = graph.op("Add", past, new)
    rows = graph.op("Unsqueeze", graph.arange(past, total), graph.ints(1))
    zero = graph.constant(0, "int64")
    columns = graph.op("Unsqueeze", graph.arange(zero, total), graph.ints(0))
    return graph.allowed_mask(graph.op("GreaterOrEqual", rows, columns))


def eight_bit_grid(matrix: Floats, axis: int | None) -> Grid:
    """Levels 0 to 255 from the smallest to the largest value, zero included, one grid a channel."""
    axes = None if axis is None else tuple(i for i in range(matrix.ndim) if i != axis)
    low = np.minimum(np.asarray(matrix.min(axis=axes, keepdims=True), np.float64), 0)
    high = np.maximum(np.asarray(matrix.max(axis=axes, keepdims=True), np.float64), 0)
    scale = (high - low) / 255
    scale = np.where(scale == 0, 1.0, scale).astype(np.float32).astype(np.float64)
    return Grid(scale, np.rint(-low / scale), 0, 255)


def require_onnx() -> Any:
    """The package onnx, which only building graphs needs.

    Raises:
        MachineError: it is not installed.
    """
    try:
        import onnx
        import onnx.helper
        import onnx.numpy_helper
    except ImportError as error:
        raise MachineError(
            "building graphs needs the package onnx",
            hint="install it with: pip install 'moonshine-tune[trace]'",
        ) from error
    return onnx
