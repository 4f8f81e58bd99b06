"""A runtime graph as a map: what makes a tensor, what uses it, and which products carry weights."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from moonshine_tune.core.errors import RequestError
from moonshine_tune.runtime.ort_file import Node, OrtFile
from moonshine_tune.runtime.quantized import (
    Floats,
    FloatTensor,
    QuantizedTensor,
    float_tensors,
    quantized_tensors,
)

Stored = QuantizedTensor | FloatTensor

# Shapes are no data: what a size was read off does not flow into the result.
_BLIND = frozenset({"Shape", "Size", "ConstantOfShape", "Range", "Expand"})
# Place of the weight and of a fused bias among the inputs.
_PRODUCTS = {
    "MatMulIntegerToFloat": (1, 6), "DynamicQuantizeMatMul": (1, 4), "MatMulInteger": (1, None),
    "MatMul": (1, None), "FusedMatMul": (1, None),
}  # fmt: skip


@dataclass(frozen=True)
class NamedTensor:
    """A stored tensor with its name in the checkpoint.

    Attributes:
        file: the graph file that holds it.
        form: how it lies there: "plain", "transposed" (a matrix as [in, out]) or "plus-one".
    """

    key: str
    file: OrtFile
    tensor: Stored
    form: str

    @property
    def graph(self) -> str:
        """The file's name."""
        return self.file.path.name

    def read(self) -> Floats:
        """The values in the checkpoint's layout."""
        values = self.tensor.dequantize(self.file)
        if self.form == "transposed":
            values = values.T
        elif self.form == "plus-one":
            values = values - np.float32(1)
        return np.ascontiguousarray(values)


@dataclass(frozen=True)
class Linear:
    """A product with a stored matrix."""

    node: Node
    weight: Stored
    data: tuple[str, ...]
    bias: str | None
    depth: int


class GraphMap:
    """Producers, consumers and linear layers of one graph file."""

    def __init__(self, file: OrtFile, companion: OrtFile | None = None) -> None:
        self.file = file
        self._companion = companion
        self.nodes = file.nodes
        self.made_by = {name: node for node in file.nodes for name in node.outputs}
        self._depths: dict[str, int] = {}
        self._stored = _tensors_by_name(file)
        if companion is not None:
            self._other = _tensors_by_name(companion)
        else:
            self._other = {}
        self.linears = {id(found.node): found for found in self._find_linears()}

    def file_of(self, tensor: Stored) -> OrtFile:
        """The file that a tensor lies in: this one or its companion."""
        here = self._stored.get(tensor.name)
        if here is None and self._companion is not None:
            return self._companion
        return self.file

    def stored(self, name: str) -> Stored | None:
        """The stored tensor behind a name: itself, or at the end of its dequantization."""
        if name in self._stored:
            return self._stored[name]
        stem = name.removesuffix("_add_tensor")
        for tensors in (self._stored, self._other):
            if stem != name and f"{stem}_quantized" in tensors:
                return tensors[f"{stem}_quantized"]
        maker = self.made_by.get(name)
        if maker is not None and maker.op in ("DequantizeLinear", "Identity", "Unsqueeze"):
            return self.stored(maker.inputs[0])
        return None

    def depth(self, node: Node) -> int:
        """Length of the longest way from the graph's inputs."""
        stack = [node]
        while stack:
            top = stack[-1]
            makers = [self.made_by[name] for name in top.inputs if name in self.made_by]
            waiting = [maker for maker in makers if maker.outputs[0] not in self._depths]
            if waiting:
                stack.extend(waiting)
                continue
            longest = max((self._depths[maker.outputs[0]] for maker in makers), default=0)
            self._depths[top.outputs[0]] = longest + 1
            stack.pop()
        return self._depths[node.outputs[0]]

    def in_order(self, ops: Sequence[str]) -> list[Node]:
        """Nodes of these kinds, in the order in which they depend on each other."""
        return sorted((node for node in self.nodes if node.op in ops), key=self.depth)

    def upstream(self, name: str, stop: Callable[[Node], bool]) -> list[Node]:
        """The nearest nodes before a tensor for which `stop` holds, on every way back to it."""
        found: dict[int, Node] = {}
        seen: set[str] = set()
        waiting = [name]
        while waiting:
            maker = self.made_by.get(waiting.pop())
            if maker is None or maker.outputs[0] in seen:
                continue
            seen.add(maker.outputs[0])
            if stop(maker):
                found[id(maker)] = maker
            elif maker.op not in _BLIND:
                # A reshape's second input is a shape.
                data = maker.inputs[:1] if maker.op in ("Reshape", "Slice") else maker.inputs
                waiting.extend(data)
        return sorted(found.values(), key=self.depth)

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
        """The stored vector of that many values among some names."""
        for name in names:
            found = self._stored.get(name)
            if isinstance(found, FloatTensor) and int(np.prod(found.values.shape)) == size:
                return found
        return None

    def _find_linears(self) -> Iterator[Linear]:
        for node in self.nodes:
            places = _PRODUCTS.get(node.op)
            if places is None or len(node.inputs) <= places[0]:
                continue
            weight = self.stored(node.inputs[places[0]])
            if weight is None or len(weight.values.shape) != 2:
                continue
            at = places[1]
            bias = node.inputs[at] if at is not None and len(node.inputs) > at else ""
            data = (node.inputs[0], *node.inputs[2:3]) if "Integer" in node.op else node.inputs[:1]
            yield Linear(node, weight, tuple(data), bias or None, self.depth(node))


def only(found: Sequence[Linear], what: str, file: OrtFile) -> Linear:
    """The one linear layer that must be there.

    Raises:
        RequestError: there are none or several: the graph is laid out otherwise.
    """
    if len(found) != 1:
        raise RequestError(
            f"this graph is not laid out as known: {len(found)} matrices in the place of {what}",
            where=file.path,
            hint="start from the model's save_pretrained folder or its hub id instead",
        )
    return found[0]


def _tensors_by_name(file: OrtFile) -> dict[str, Stored]:
    found: dict[str, Stored] = {tensor.name: tensor for tensor in float_tensors(file)}
    found |= {tensor.name: tensor for tensor in quantized_tensors(file)}
    return found
