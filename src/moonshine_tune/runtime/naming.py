"""Checkpoint names of the stored tensors of a runtime folder, without comparing any values.

v1 graphs name their nodes after the modules. The streaming graphs do not; there the data flow
names a tensor. The softmax marks an attention: the product before it has the query on its left and
the key on its right, the product after it has the value on its right and leads to the output
projection. The remaining products, in order, are the two layers of each feed-forward block.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from moonshine_tune.core.errors import RequestError
from moonshine_tune.runtime.graph_map import GraphMap, Linear, unknown_layout
from moonshine_tune.runtime.layout import RuntimeLayout
from moonshine_tune.runtime.ort_file import Node, OrtFile
from moonshine_tune.runtime.quantized import Floats, FloatTensor, QuantizedTensor, StoredTensor

_MERGED = re.compile(r"_merged_[01](_quantized)?$")
_LAYER = re.compile(r"layers\.\d+\.")
_V1_PREFIXES = {"encoder_model.ort": "model.encoder.", "decoder_model_merged.ort": ""}
_MULTIPLY = ("MatMul", "FusedMatMul")
# onnxruntime fuses a bias with the activation after it.
_ADDITIONS = ("Add", "BiasGelu")
_NORMS = ("LayerNormalization", "SkipLayerNormalization")
_ENCODER, _DECODER = "model.encoder", "model.decoder"


@dataclass(frozen=True)
class NamedTensor:
    """A stored tensor with its name in the checkpoint.

    Attributes:
        file: the graph file that holds it.
        form: how the file stores it: "plain", "transposed" (a matrix as [in, out]) or "plus-one".
    """

    key: str
    file: OrtFile
    tensor: StoredTensor
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


def name_tensors(layout: RuntimeLayout) -> list[NamedTensor]:
    """Every weight of a runtime folder with its name in the checkpoint.

    A name may come several times: both branches of the v1 decoder, a tied head.

    Raises:
        RequestError: a graph is not laid out as those of the known exporters.
    """
    if layout.family == "v1":
        files = (OrtFile.read(layout.folder / name) for name in _V1_PREFIXES)
        return [named for file in files for named in _v1(file)]
    graphs = {name: GraphMap(OrtFile.read(layout.folder / f"{name}.ort"))
              for name in ("encoder", "adapter", "cross_kv", "decoder_kv")}  # fmt: skip
    return [
        *_frontend(frontend_map(layout)),
        *_encoder(graphs["encoder"]),
        *_adapter_graph(graphs["adapter"]),
        *_cross(graphs["cross_kv"]),
        *_decoder(graphs["decoder_kv"]),
    ]


# --- v1


def _v1(file: OrtFile) -> Iterator[NamedTensor]:
    graph = GraphMap(file)
    prefix = _V1_PREFIXES[file.path.name]
    yielded: set[tuple[str, str]] = set()
    for linear in graph.linears.values():
        module = linear.node.name.rpartition("/")[0].strip("/").replace("/", ".")
        key = f"{prefix}{module}.weight"
        is_known = _LAYER.search(module) or module == "proj_out"
        if is_known and (key, linear.weight.name) not in yielded:
            yielded.add((key, linear.weight.name))
            yield NamedTensor(key, file, linear.weight, "transposed")
    for item in file.initializers:
        name = _MERGED.sub("", item.name).removesuffix("_add_tensor").removesuffix("_quantized")
        if not name.endswith((".weight", ".bias")):
            continue
        tensor = graph.stored(item.name)
        if isinstance(tensor, FloatTensor) or (
            isinstance(tensor, QuantizedTensor) and tensor.values.shape
        ):
            yield NamedTensor(f"{prefix}{name}", file, tensor, "plain")
    if prefix:
        yield from _group_norm(graph)


def _group_norm(graph: GraphMap) -> Iterator[NamedTensor]:
    """The first norm is folded into a Mul and an Add whose constants have shape [width, 1]."""
    convolution = graph.stored("conv1.weight_add_tensor") or graph.stored("conv1.weight")
    if convolution is None:
        raise unknown_layout("the first convolution not found", graph.file.path)
    width = convolution.values.shape[0]
    for node in graph.nodes:
        kind = {"Mul": "weight", "Add": "bias"}.get(node.op)
        for tensor in map(graph.stored, node.inputs if kind else ()):
            if not isinstance(tensor, FloatTensor):
                continue
            if tensor.values.shape in ((width, 1), (1, width, 1)):
                yield NamedTensor(f"{_ENCODER}.groupnorm.{kind}", graph.file, tensor, "plain")


# --- streaming


def frontend_map(layout: RuntimeLayout) -> GraphMap:
    """The front end's graph, with the weights that newer folders keep in a separate file."""
    if "frontend.model.ort" in layout.files:
        return GraphMap(
            OrtFile.read(layout.folder / "frontend.model.ort"),
            OrtFile.read(layout.folder / "frontend.weights.ort"),
        )
    return GraphMap(OrtFile.read(layout.folder / "frontend.ort"))


def _frontend(graph: GraphMap) -> Iterator[NamedTensor]:
    stem = f"{_ENCODER}.embedder"
    linear = _only(graph, list(graph.linears.values()), "the projection of the frames")
    yield _matrix(graph, f"{stem}.linear.weight", linear)
    convolutions = graph.in_order(("Conv", "FusedConv"))
    _expect(graph, len(convolutions) == 2, "two convolutions")
    for index, node in enumerate(convolutions, 1):
        for kind, name in (("weight", node.inputs[1]), ("bias", node.inputs[2])):
            tensor = graph.stored(name)
            if tensor is None:
                raise _not_found(graph, f"convolution {index}")
            key = f"{stem}.conv{index}.{kind}"
            yield NamedTensor(key, graph.file_of(tensor), tensor, "plain")


def _encoder(graph: GraphMap) -> Iterator[NamedTensor]:
    attentions = _attentions(graph)
    rest = _other_linears(graph, attentions)
    _expect(graph, len(rest) == 2 * len(attentions), "two feed-forward matrices per layer")
    norms = graph.in_order(_NORMS)
    _expect(graph, len(norms) == 2 * len(attentions) + 1, "two norms per layer and one more")
    for index, attention in enumerate(attentions):
        stem = f"{_ENCODER}.layers.{index}"
        yield from _attention_tensors(graph, f"{stem}.self_attn", attention)
        yield from _feed_forward(graph, stem, rest[2 * index :])
        for offset, name in enumerate(("input_layernorm", "post_attention_layernorm")):
            yield _unit_offset_norm(graph, f"{stem}.{name}.gamma", norms[2 * index + offset])
    yield _unit_offset_norm(graph, f"{_ENCODER}.final_norm.gamma", norms[-1])


def _unit_offset_norm(graph: GraphMap, key: str, node: Node) -> NamedTensor:
    """A norm of the encoder: plain, then multiplied by gamma + 1; or both in one."""
    scale = _norm_scale(graph, key, node)
    product = graph.after(node, ("Mul",))
    gamma = graph.vector(product.inputs, scale.values.shape[0]) if product is not None else None
    return NamedTensor(key, graph.file, gamma or scale, "plus-one")


def _adapter_graph(graph: GraphMap) -> Iterator[NamedTensor]:
    yield _table(graph, f"{_DECODER}.pos_emb.weight")
    # Where encoder and decoder are equally wide there is no projection.
    if graph.linears:
        linear = _only(graph, list(graph.linears.values()), "the projection")
        yield _matrix(graph, f"{_DECODER}.proj.weight", linear)


def _cross(graph: GraphMap) -> Iterator[NamedTensor]:
    for output, kind in (("k_cross", "k_proj"), ("v_cross", "v_proj")):
        stacked = graph.producers.get(output)
        if stacked is None or stacked.op != "Concat":
            raise _not_found(graph, f"the stacked {output}")
        for index, name in enumerate(stacked.inputs):
            linear = _only(graph, graph.linears_before(name), f"{kind} of layer {index}")
            yield _matrix(graph, f"{_DECODER}.layers.{index}.encoder_attn.{kind}.weight", linear)


def _decoder(graph: GraphMap) -> Iterator[NamedTensor]:
    yield _table(graph, f"{_DECODER}.embed_tokens.weight")
    attentions = _attentions(graph)
    layers = len(attentions) // 2
    # Self-attention has its own keys; cross-attention gets them from outside.
    has_keys = [set(attention) == set("qkvo") for attention in attentions]
    _expect(graph, layers > 0 and has_keys == [True, False] * layers, "two attentions per layer")
    rest = _other_linears(graph, attentions)
    _expect(graph, len(rest) == 2 * layers + 1, "two feed-forward matrices per layer")
    norms = graph.in_order(_NORMS)
    _expect(graph, len(norms) == 3 * layers + 1, "three norms per layer and one more")
    names = ("input_layernorm", "post_attention_layernorm", "final_layernorm")
    for index in range(layers):
        stem = f"{_DECODER}.layers.{index}"
        yield from _attention_tensors(graph, f"{stem}.self_attn", attentions[2 * index])
        yield from _attention_tensors(graph, f"{stem}.encoder_attn", attentions[2 * index + 1])
        yield from _feed_forward(graph, stem, rest[2 * index :])
        for offset, name in enumerate(names):
            yield _norm(graph, f"{stem}.{name}.weight", norms[3 * index + offset])
    yield _norm(graph, f"{_DECODER}.norm.weight", norms[-1])
    yield _matrix(graph, "proj_out.weight", rest[-1])


def _attentions(graph: GraphMap) -> list[dict[str, Linear]]:
    """Query, key, value and output matrices of each attention, in order; keys "q", "k", "v", "o".

    Key and value are left out where they come from outside the graph.
    """
    attentions = []
    for softmax in graph.in_order(("Softmax",)):
        scores = [
            node
            for node in graph.upstream(softmax.inputs[0], lambda n: n.op in _MULTIPLY)
            if id(node) not in graph.linears
        ]
        mixed = graph.after(softmax, _MULTIPLY)
        if len(scores) != 1 or mixed is None:
            raise _not_found(graph, "an attention")
        inputs = {"q": scores[0].inputs[0], "k": scores[0].inputs[1], "v": mixed.inputs[1]}
        attention = {}
        for role, name in inputs.items():
            linears = graph.linears_before(name)
            if linears or role == "q":
                attention[role] = _only(graph, linears, f"the {role} projection")
        attention["o"] = _next_linear(graph, mixed)
        attentions.append(attention)
    return attentions


def _other_linears(graph: GraphMap, attentions: list[dict[str, Linear]]) -> list[Linear]:
    """The linear layers outside the attentions, in order."""
    taken = {id(linear.node) for attention in attentions for linear in attention.values()}
    rest = [linear for key, linear in graph.linears.items() if key not in taken]
    return sorted(rest, key=lambda linear: linear.depth)


def _next_linear(graph: GraphMap, node: Node) -> Linear:
    """The first linear layer after a node."""
    waiting, visited = [node], {node.outputs[0]}
    reached: list[Linear] = []
    while waiting:
        for name in waiting.pop().outputs:
            for user in graph.users(name):
                if id(user) in graph.linears:
                    reached.append(graph.linears[id(user)])
                elif user.outputs[0] not in visited and user.op != "Shape":
                    visited.add(user.outputs[0])
                    waiting.append(user)
    if not reached:
        raise _not_found(graph, "an output projection")
    return min(reached, key=lambda linear: linear.depth)


def _attention_tensors(
    graph: GraphMap, stem: str, attention: dict[str, Linear]
) -> Iterator[NamedTensor]:
    for role, linear in attention.items():
        yield _matrix(graph, f"{stem}.{role}_proj.weight", linear)


def _matrix(graph: GraphMap, key: str, linear: Linear) -> NamedTensor:
    return NamedTensor(key, graph.file_of(linear.weight), linear.weight, "transposed")


def _feed_forward(graph: GraphMap, stem: str, linears: Sequence[Linear]) -> Iterator[NamedTensor]:
    for name, linear in zip((f"{stem}.mlp.fc1", f"{stem}.mlp.fc2"), linears, strict=False):
        yield _matrix(graph, f"{name}.weight", linear)
        names = [linear.bias] if linear.bias else _added(graph, linear.node)
        bias = graph.vector(names, linear.weight.values.shape[1])
        if bias is None:
            raise _not_found(graph, f"{name}.bias")
        yield NamedTensor(f"{name}.bias", graph.file, bias, "plain")


def _added(graph: GraphMap, node: Node) -> Sequence[str]:
    """The inputs of the addition after a product."""
    step: Node | None = node
    # After an integer product come its scales first.
    while step is not None:
        addition = graph.after(step, _ADDITIONS)
        if addition is not None:
            return addition.inputs
        step = graph.after(step, ("Cast", "Mul"))
    return ()


def _norm(graph: GraphMap, key: str, node: Node) -> NamedTensor:
    return NamedTensor(key, graph.file, _norm_scale(graph, key, node), "plain")


def _norm_scale(graph: GraphMap, key: str, node: Node) -> FloatTensor:
    scale = graph.stored(node.inputs[2 if node.op == "SkipLayerNormalization" else 1])
    if not isinstance(scale, FloatTensor):
        raise _not_found(graph, key)
    return scale


def _table(graph: GraphMap, key: str) -> NamedTensor:
    """The table that a Gather reads rows from."""
    for node in graph.nodes:
        tensor = graph.stored(node.inputs[0]) if node.op == "Gather" else None
        if tensor is not None and len(tensor.values.shape) == 2:
            return NamedTensor(key, graph.file, tensor, "plain")
    raise _not_found(graph, key)


def _only(graph: GraphMap, linears: Sequence[Linear], what: str) -> Linear:
    """The single linear layer that must be there."""
    if len(linears) != 1:
        raise unknown_layout(f"{len(linears)} matrices instead of {what}", graph.file.path)
    return linears[0]


def _expect(graph: GraphMap, holds: bool, what: str) -> None:
    if not holds:
        raise _not_found(graph, what)


def _not_found(graph: GraphMap, what: str) -> RequestError:
    return unknown_layout(f"{what} not found", graph.file.path)
