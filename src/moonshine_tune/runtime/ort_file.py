"""Reading `.ort` files of the Moonshine runtime, and changing tensors in them.

An `.ort` file is a flatbuffer (schema: onnxruntime's `ort.fbs`); onnxruntime ships its reader.
Every weight has a fixed offset, so a tensor of the same shape can be overwritten without
touching the rest of the file. A tensor of another shape is appended, and the offsets that lead to
it are changed: a flatbuffer's tables point forward only, so the end of the file can be reached
from everywhere.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moonshine_tune.core.errors import RequestError

# onnx.TensorProto.DataType → numpy
_DTYPES: dict[int, str] = {
    1: "<f4", 2: "u1", 3: "i1", 4: "<u2", 5: "<i2", 6: "<i4", 7: "<i8",
    9: "?", 10: "<f2", 11: "<f8",
}  # fmt: skip

# Slots of the tables Tensor (dims, raw_data) and TensorTypeAndShape (shape) in ort.fbs.
_DIMS, _RAW_DATA, _SHAPE = 8, 12, 6


@dataclass(frozen=True)
class Initializer:
    """A constant tensor of a graph and the position of its bytes in the file.

    Attributes:
        name: in the graph; branches of one file may reuse a name.
        shape: dimensions; empty for a scalar.
        dtype: numpy type string, little endian.
        offset, size: bytes from the start of the file, and how many.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    offset: int
    size: int


@dataclass(frozen=True)
class Node:
    """An operator of a graph with the names of its tensors."""

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class OrtFile:
    """An `.ort` file in memory: initializers and nodes of its graph and all its branches."""

    def __init__(
        self,
        data: bytes | bytearray,
        path: Path,
        tables: tuple[tuple[Initializer, ...], tuple[Node, ...]] | None = None,
    ) -> None:
        self.data = data
        self.path = path
        self.initializers, self.nodes = tables or _parse(bytes(data), path)

    @classmethod
    def read(cls, path: Path) -> "OrtFile":
        """Read a file.

        Raises:
            RequestError: it is missing or not an `.ort` file.
        """
        if not path.is_file():
            raise RequestError("no such model file", where=path)
        return cls(path.read_bytes(), path)

    @cached_property
    def by_name(self) -> Mapping[str, Initializer]:
        """Initializers by name; of several of one name, the first."""
        return {item.name: item for item in reversed(self.initializers)}

    def array(self, item: Initializer | str) -> npt.NDArray[Any]:
        """The values of an initializer, as a read-only view of the file."""
        if isinstance(item, str):
            item = self.by_name[item]
        count = item.size // np.dtype(item.dtype).itemsize
        values = np.frombuffer(self.data, item.dtype, count, item.offset).reshape(item.shape)
        values.flags.writeable = False
        return values

    def copy(self) -> "OrtFile":
        """A copy in separate memory, which `write` may change."""
        return OrtFile(bytearray(self.data), self.path, (self.initializers, self.nodes))

    def write(self, changes: Mapping[int, bytes]) -> None:
        """Write `changes` (offset → bytes) over the bytes of a `copy`; its length never changes.

        Raises:
            ValueError: a change is outside the file.
        """
        for offset, raw in changes.items():
            if offset < 0 or offset + len(raw) > len(self.data):
                raise ValueError(f"patch of {len(raw)} bytes at {offset} is outside the file")
            memoryview(self.data)[offset : offset + len(raw)] = raw

    def resized(self, values: Mapping[str, npt.NDArray[Any]]) -> "OrtFile":
        """A copy in which initializers have new one-dimensional values of another length.

        Every byte of the file stays, except for the offsets of these initializers' values and
        dimensions, and of their shapes among the graph's arguments.

        Args:
            values: by name; of the type that the initializer has.

        Raises:
            ValueError: a name whose dimensions the file does not store.
        """
        data = bytearray(self.data)
        for graph in _graphs(_root(bytes(self.data))):
            for table, field, target in _resized_fields(graph, values):
                if not table.Offset(field):
                    raise ValueError(f"{self.path.name} stores a tensor without its dimensions")
                # Vectors start with their length in 4 bytes; 16 suits the values after it.
                data += bytes(-(len(data) + target.lead) % 16)
                position = len(data) + target.root
                data += target.raw
                at = table.Pos + table.Offset(field)
                data[at : at + 4] = (position - at).to_bytes(4, "little")
        return OrtFile(bytes(data), self.path)

    def patched(self, changes: Mapping[int, bytes]) -> bytes:
        """The bytes of the file with `changes` (offset → bytes) written over them."""
        copy = self.copy()
        copy.write(changes)
        return bytes(copy.data)


def _parse(data: bytes, path: Path) -> tuple[tuple[Initializer, ...], tuple[Node, ...]]:
    if data[4:8] != b"ORTM":
        raise RequestError(
            "not an .ort model file",
            where=path,
            hint="a Moonshine runtime folder contains files such as encoder_model.ort",
        )
    try:
        initializers, nodes = _read_tables(data)
    except Exception as error:
        # The flatbuffer reader does not check offsets: where one leads out of the file, it raises
        # anything from struct.error to TypeError.
        raise RequestError(
            f"this .ort file is damaged or cut off ({len(data)} bytes)",
            where=path,
            hint="copy it again, or fetch the model again: moonshine-tune models fetch tiny",
        ) from error
    if any(item.offset + item.size > len(data) for item in initializers):
        raise RequestError(f"this .ort file is cut off at byte {len(data)}", where=path)
    return initializers, nodes


def _read_tables(data: bytes) -> tuple[tuple[Initializer, ...], tuple[Node, ...]]:
    initializers: list[Initializer] = []
    nodes: list[Node] = []
    for graph in _graphs(_root(data)):
        for i in range(graph.InitializersLength()):
            tensor = graph.Initializers(i)
            field = tensor._tab.Offset(_RAW_DATA)
            if not field:
                continue
            initializers.append(
                Initializer(
                    name=tensor.Name().decode(),
                    shape=tuple(tensor.Dims(d) for d in range(tensor.DimsLength())),
                    dtype=_DTYPES[tensor.DataType()],
                    offset=tensor._tab.Vector(field),
                    size=tensor.RawDataLength(),
                )
            )
        for i in range(graph.NodesLength()):
            node = graph.Nodes(i)
            nodes.append(
                Node(
                    name=(node.Name() or b"").decode(),
                    op=node.OpType().decode(),
                    inputs=tuple(node.Inputs(j).decode() for j in range(node.InputsLength())),
                    outputs=tuple(node.Outputs(j).decode() for j in range(node.OutputsLength())),
                )
            )
    return tuple(initializers), tuple(nodes)


def _root(data: bytes) -> Any:
    """The graph of a file."""
    # Imported here: this package loads all of onnxruntime.
    from onnxruntime.tools.ort_format_model.ort_flatbuffers_py import fbs

    session = fbs.InferenceSession.InferenceSession.GetRootAsInferenceSession(data, 0)
    return session.Model().Graph()


@dataclass(frozen=True)
class _Appended:
    """Bytes to append, of which byte `lead` is aligned and an offset leads to byte `root`."""

    raw: bytes
    lead: int = 4
    root: int = 0


def _resized_fields(
    graph: Any, values: Mapping[str, npt.NDArray[Any]]
) -> Iterator[tuple[Any, int, _Appended]]:
    """Flatbuffer table, slot and new content of every field that holds a value or its shape."""
    from onnxruntime.tools.ort_format_model.ort_flatbuffers_py import fbs

    for i in range(graph.InitializersLength()):
        tensor = graph.Initializers(i)
        if (array := values.get(tensor.Name().decode())) is not None:
            length = len(array).to_bytes(8, "little")
            yield tensor._tab, _DIMS, _Appended((1).to_bytes(4, "little") + length)
            raw = array.tobytes()
            yield tensor._tab, _RAW_DATA, _Appended(len(raw).to_bytes(4, "little") + raw)
    for i in range(graph.NodeArgsLength()):
        argument = graph.NodeArgs(i)
        if (array := values.get(argument.Name().decode())) is not None:
            union = argument.Type().Value()
            described = fbs.TensorTypeAndShape.TensorTypeAndShape()
            described.Init(union.Bytes, union.Pos)
            if described._tab.Offset(_SHAPE):
                yield described._tab, _SHAPE, _shape_table(len(array))


def _shape_table(length: int) -> _Appended:
    """A flatbuffer of its own that holds a shape of one dimension."""
    from flatbuffers import Builder
    from onnxruntime.tools.ort_format_model.ort_flatbuffers_py import fbs

    builder = Builder(64)
    fbs.DimensionValue.DimensionValueStart(builder)
    fbs.DimensionValue.DimensionValueAddDimType(builder, 1)  # a number, not a name
    fbs.DimensionValue.DimensionValueAddDimValue(builder, length)
    value = fbs.DimensionValue.DimensionValueEnd(builder)
    fbs.Dimension.DimensionStart(builder)
    fbs.Dimension.DimensionAddValue(builder, value)
    dimension = fbs.Dimension.DimensionEnd(builder)
    fbs.Shape.ShapeStartDimVector(builder, 1)
    builder.PrependUOffsetTRelative(dimension)
    dimensions = builder.EndVector()
    fbs.Shape.ShapeStart(builder)
    fbs.Shape.ShapeAddDim(builder, dimensions)
    builder.Finish(fbs.Shape.ShapeEnd(builder))
    raw = bytes(builder.Output())
    return _Appended(raw, lead=0, root=int.from_bytes(raw[:4], "little"))


def _graphs(graph: Any) -> Iterator[Any]:
    """The graph and, depth first, the graphs of its branches."""
    yield graph
    for i in range(graph.NodesLength()):
        node = graph.Nodes(i)
        for j in range(node.AttributesLength()):
            branch = node.Attributes(j).G()
            if branch is not None:
                yield from _graphs(branch)
