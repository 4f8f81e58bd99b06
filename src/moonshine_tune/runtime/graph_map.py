"""A runtime graph as a map: producers and consumers of each tensor, and products with weights."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moonshine_tune.core.errors import RequestError
from moonshine_tune.runtime.ort_file import Node, OrtFile
from moonshine_tune.runtime.quantized import (
    FloatTensor,
    StoredTensor,
    float_tensors,
    quantized_tensors,
)

# Shapes are not data: the tensor whose size is read does not flow into the result.
_SHAPE_OPS = frozenset({"Shape", "Size", "ConstantOfShape", "Range", "Expand"})
# Index of the weight and of a fused bias among the inputs.
_PRODUCTS = {
    "MatMulIntegerToFloat": (1, 6), "DynamicQuantizeMatMul": (1, 4), "MatMulInteger": (1, None),
    "MatMul": (1, None), "FusedMatMul": (1, None),
}  # fmt: skip


@dataclass(frozen=True)
class Linear:
    """A product with a stored matrix."""

    node: Node
    weight: StoredTensor
    bias: str | None
    depth: int


class GraphMap:
    """Producers, consumers and linear layers of one graph file."""

    def __init__(self, file: OrtFile, companion: OrtFile | None = None) -> None:
        self.file = file
        self.nodes = file.nodes
        self.producers = {name: node for node in file.nodes for name in node.outputs}
        self._depths: dict[str, int] = {}
        self._stored = _tensors_by_name(file)
        self._companion = companion
        self._companion_stored = {} if companion is None else _tensors_by_name(companion)
        self.linears = {id(linear.node): linear for linear in self._find_linears()}

    def file_of(self, tensor: StoredTensor) -> OrtFile:
        """The file that a tensor lies in: this one or its companion."""
        if self._companion is not None and tensor.name not in self._stored:
            return self._companion
        return self.file

    def stored(self, name: str) -> StoredTensor | None:
        """The stored tensor behind a name: itself, or the input of its dequantization."""
        if name in self._stored:
            return self._stored[name]
        stem = name.removesuffix("_add_tensor")
        for tensors in (self._stored, self._companion_stored):
            if stem != name and f"{stem}_quantized" in tensors:
                return tensors[f"{stem}_quantized"]
        producer = self.producers.get(name)
        if producer is not None and producer.op in ("DequantizeLinear", "Identity", "Unsqueeze"):
            return self.stored(producer.inputs[0])
        return None

    def depth(self, node: Node) -> int:
        """Length of the longest path from the graph's inputs."""
        pending = [node]
        while pending:
            top = pending[-1]
            producers = [self.producers[name] for name in top.inputs if name in self.producers]
            waiting = [item for item in producers if item.outputs[0] not in self._depths]
            if waiting:
                pending.extend(waiting)
                continue
            longest = max((self._depths[item.outputs[0]] for item in producers), default=0)
            self._depths[top.outputs[0]] = longest + 1
            pending.pop()
        return self._depths[node.outputs[0]]

    def in_order(self, ops: Sequence[str]) -> list[Node]:
        """Nodes of these kinds, in the order in which they depend on each other."""
        return sorted((node for node in self.nodes if node.op in ops), key=self.depth)

    def upstream(self, name: str, stop: Callable[[Node], bool]) -> list[Node]:
        """The nearest nodes before a tensor for which `stop` holds, on every path back from it."""
        reached: dict[int, Node] = {}
        visited: set[str] = set()
        waiting = [name]
        while waiting:
            producer = self.producers.get(waiting.pop())
            if producer is None or producer.outputs[0] in visited:
                continue
            visited.add(producer.outputs[0])
            if stop(producer):
                reached[id(producer)] = producer
            elif producer.op not in _SHAPE_OPS:
                # The second input of a reshape is a shape.
                is_shaping = producer.op in ("Reshape", "Slice")
                waiting.extend(producer.inputs[:1] if is_shaping else producer.inputs)
        return sorted(reached.values(), key=self.depth)

    def linears_before(self, name: str) -> list[Linear]:
        """The nearest linear layers before a tensor."""
        nodes = self.upstream(name, lambda node: id(node) in self.linears)
        return [self.linears[id(node)] for node in nodes]

    def users(self, name: str) -> list[Node]:
        """Nodes that take a tensor."""
        return [node for node in self.nodes if name in node.inputs]

    def after(self, node: Node, ops: Sequence[str]) -> Node | None:
        """The user of these kinds of a node's first output."""
        return next((user for user in self.users(node.outputs[0]) if user.op in ops), None)

    def vector(self, names: Sequence[str], size: int) -> FloatTensor | None:
        """The stored vector of `size` values among some names."""
        for name in names:
            tensor = self._stored.get(name)
            if isinstance(tensor, FloatTensor) and int(np.prod(tensor.values.shape)) == size:
                return tensor
        return None

    def _find_linears(self) -> Iterator[Linear]:
        for node in self.nodes:
            weight_index, bias_index = _PRODUCTS.get(node.op, (len(node.inputs), None))
            if len(node.inputs) <= weight_index:
                continue
            weight = self.stored(node.inputs[weight_index])
            if weight is None or len(weight.values.shape) != 2:
                continue
            bias = None
            if bias_index is not None and len(node.inputs) > bias_index:
                bias = node.inputs[bias_index] or None
            yield Linear(node, weight, bias, self.depth(node))


def unknown_layout(what: str, path: Path) -> RequestError:
    """The error for a graph that is not laid out as the known ones; `what` says how it differs."""
    return RequestError(
        f"this graph is not laid out as known: {what}",
        where=path,
        hint="start from the model's save_pretrained folder or its hub id instead",
    )


def _tensors_by_name(file: OrtFile) -> dict[str, StoredTensor]:
    tensors: dict[str, StoredTensor] = {tensor.name: tensor for tensor in float_tensors(file)}
    return tensors | {tensor.name: tensor for tensor in quantized_tensors(file)}
