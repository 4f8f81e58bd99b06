"""Building runtime graphs node by node, with 8-bit or float matrices, and writing them as `.ort`.

Only operators that the published graphs use too are built: runtimes for phones are compiled
for those alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moonshine_tune.core.errors import MachineError
from moonshine_tune.core.text import first_line
from moonshine_tune.runtime.quantized import Floats, Grid

OPSET, IR_VERSION = 18, 10
_LOWEST = float(np.finfo(np.float32).min)
Dims = Sequence[int | str]


@dataclass(frozen=True)
class LinearLayer:
    """A product's matrix [out, in] and bias, with the name of its module."""

    name: str
    weight: Floats
    bias: Floats | None = None


class GraphBuilder:
    """Collects the nodes and constants of one graph.

    A builder made by `branch` collects the nodes of a branch; its constants lie in the outer graph.
    """

    def __init__(self, name: str, scheme: str, outer: "GraphBuilder | None" = None) -> None:
        self.onnx = _onnx()
        self._name, self._scheme = name, scheme
        self._outer = outer
        self._nodes: list[Any] = []
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        self._constants: dict[str, Any] = {}
        self._known: dict[tuple[str, str, bytes], str] = {}
        self._quantized: dict[str, tuple[str, str, str]] = {}
        self._count = 0

    # --- the graph's rim

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
        """A constant; equal ones are kept once."""
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
        """The collected branch."""
        return self.onnx.helper.make_graph(self._nodes, self._name, [], self._outputs)

    # --- layers

    def linear(self, x: str, layer: LinearLayer) -> str:
        """x · Wᵀ + b."""
        node = "/" + layer.name.replace(".", "/") + "/MatMul"
        if self._scheme == "none":
            matrix = np.ascontiguousarray(layer.weight.T)
            result = self.op(
                "MatMul", x, self.constant(matrix, name=f"{layer.name}.weight_t"), name=node
            )
        else:
            result = self._eight_bit_product(x, layer, f"{node}_quant")
        if layer.bias is None:
            return result
        return self.op("Add", result, self.constant(layer.bias, name=f"{layer.name}.bias"))

    def _eight_bit_product(self, x: str, layer: LinearLayer, node: str) -> str:
        """Activations quantized on the fly, one scale an output channel for the weights."""
        matrix = np.ascontiguousarray(layer.weight.T)
        names = self._store(f"{layer.name}.weight_t", matrix, axis=1)
        if x not in self._quantized:
            made = self.ops("DynamicQuantizeLinear", 3, x)
            self._quantized[x] = (made[0], made[1], made[2])
        values, scale, zero = self._quantized[x]
        product = self.op("MatMulInteger", values, names[0], zero, names[2], name=node)
        return self.op("Mul", self.op("Cast", product, to=1), self.op("Mul", scale, names[1]))

    def lookup(self, name: str, table: Floats, rows: str) -> str:
        """Rows of a table [V, D]; one scale a table in 8 bits."""
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

    def norm(self, x: str, name: str, scale: Floats) -> str:
        """Layer norm without an offset."""
        return self.op(
            "LayerNormalization", x, self.constant(scale, name=name), axis=-1, epsilon=1e-5
        )

    def heads(self, x: str, heads: int, width: int, order: Sequence[int] = (0, 2, 1, 3)) -> str:
        """[B, L, heads · width] → [B, heads, L, width], or another order of these axes."""
        split = self.op("Reshape", x, self.ints(0, -1, heads, width))
        return self.op("Transpose", split, perm=list(order))

    def attend(self, query: str, key: str, value: str, mask: str | None, width: int) -> str:
        """Attention over [B, heads, L, width] → [B, L, heads · width]; `mask` is added."""
        turned = self.op("Transpose", key, perm=[0, 1, 3, 2])
        scores = self.op(
            "Mul", self.op("MatMul", query, turned), self.constant(np.float32(width**-0.5))
        )
        if mask is not None:
            scores = self.op("Add", scores, mask)
        mixed = self.op("MatMul", self.op("Softmax", scores, axis=-1), value)
        merged = self.op("Transpose", mixed, perm=[0, 2, 1, 3])
        return self.op("Reshape", merged, self.ints(0, 0, -1))

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
                # Its layout exists on x86 processors only: the file would not load on others.
                disabled_optimizers=["NchwcTransformer"],
            )
        except Exception as error:  # onnxruntime has a tree of its own, for a full disk too
            raise MachineError(
                f"onnxruntime cannot write this graph: {first_line(error)}",
                where=path,
                hint="free some disk space there, or choose another folder with --out",
            ) from error


def eight_bit_grid(matrix: Floats, axis: int | None) -> Grid:
    """Levels 0 to 255 from the smallest to the largest value, zero included, one grid a channel."""
    axes = None if axis is None else tuple(i for i in range(matrix.ndim) if i != axis)
    low = np.minimum(np.asarray(matrix.min(axis=axes, keepdims=True), np.float64), 0)
    high = np.maximum(np.asarray(matrix.max(axis=axes, keepdims=True), np.float64), 0)
    scale = (high - low) / 255
    scale = np.where(scale == 0, 1.0, scale).astype(np.float32).astype(np.float64)
    return Grid(scale, np.rint(-low / scale), 0, 255)


def _onnx() -> Any:
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
