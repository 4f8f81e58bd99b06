"""Names of the stored tensors of a runtime folder, found without knowing their values.

v1 graphs name their nodes after the modules. The streaming graphs do not name theirs; there the
way that the data takes tells: which product feeds the left side of an attention, which comes next.
"""

import re
from collections.abc import Iterator

from moonshine_tune.core.errors import RequestError
from moonshine_tune.runtime.graph_map import GraphMap, NamedTensor
from moonshine_tune.runtime.layout import RuntimeLayout
from moonshine_tune.runtime.naming_streaming import name_streaming_tensors
from moonshine_tune.runtime.ort_file import OrtFile
from moonshine_tune.runtime.quantized import FloatTensor, QuantizedTensor

_MERGED = re.compile(r"_merged_[01](_quantized)?$")
_LAYER = re.compile(r"layers\.\d+\.")
_PREFIX = {"encoder_model.ort": "model.encoder.", "decoder_model_merged.ort": ""}


def name_tensors(layout: RuntimeLayout) -> list[NamedTensor]:
    """Every weight of a runtime folder with its name in the checkpoint.

    A name may come several times: both branches of the v1 decoder, a tied head.

    Raises:
        RequestError: a graph is laid out otherwise than the known ones.
    """
    if layout.family == "v1":
        named: list[NamedTensor] = []
        for name in _PREFIX:
            named.extend(_v1(OrtFile.read(layout.folder / name)))
        return named
    return name_streaming_tensors(layout)


def _v1(file: OrtFile) -> Iterator[NamedTensor]:
    graph = GraphMap(file)
    prefix = _PREFIX[file.path.name]
    seen: set[tuple[str, str]] = set()
    for linear in graph.linears.values():
        module = linear.node.name.rpartition("/")[0].strip("/").replace("/", ".")
        key = f"{prefix}{module}.weight"
        known = _LAYER.search(module) or module == "proj_out"
        if known and (key, linear.weight.name) not in seen:
            seen.add((key, linear.weight.name))
            yield NamedTensor(key, file, linear.weight, "transposed")
    for item in file.initializers:
        name = _MERGED.sub("", item.name).removesuffix("_add_tensor").removesuffix("_quantized")
        if not name.endswith((".weight", ".bias")):
            continue
        stored = graph.stored(item.name)
        if stored is None:
            continue
        shape = stored.values.shape
        if isinstance(stored, FloatTensor) or (isinstance(stored, QuantizedTensor) and shape):
            yield NamedTensor(f"{prefix}{name}", file, stored, "plain")
    if prefix:
        yield from _group_norm(graph)


def _group_norm(graph: GraphMap) -> Iterator[NamedTensor]:
    """The first norm is folded into a Mul and an Add whose constants have shape [width, 1]."""
    convolution = graph.stored("conv1.weight_add_tensor") or graph.stored("conv1.weight")
    if convolution is None:
        raise RequestError(
            "this graph is not laid out as known: it has no first convolution",
            where=graph.file.path,
        )
    width = convolution.values.shape[0]
    for node in graph.nodes:
        kind = {"Mul": "weight", "Add": "bias"}.get(node.op)
        if kind is None:
            continue
        for name in node.inputs:
            stored = graph.stored(name)
            if isinstance(stored, FloatTensor) and stored.values.shape in (
                (width, 1),
                (1, width, 1),
            ):
                yield NamedTensor(f"model.encoder.groupnorm.{kind}", graph.file, stored, "plain")
