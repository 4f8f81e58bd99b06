"""Names of the stored tensors of the five streaming graphs, by the way that the data takes.

An attention is known by its softmax: the product before it has the query on its left and the key on
its right, the product after it has the value on its right and leads to the output projection. What
is left in between, in order, are the two layers of the feed-forward part.
"""

from collections.abc import Iterator, Sequence

from moonshine_tune.core.errors import RequestError
from moonshine_tune.runtime.graph_map import GraphMap, Linear, NamedTensor, only
from moonshine_tune.runtime.layout import RuntimeLayout
from moonshine_tune.runtime.ort_file import Node, OrtFile
from moonshine_tune.runtime.quantized import FloatTensor

_MULTIPLY = ("MatMul", "FusedMatMul")
# onnxruntime fuses a bias with the activation behind it.
_ADDITIONS = ("Add", "BiasGelu")
_NORMS = ("LayerNormalization", "SkipLayerNormalization")
_ENCODER, _DECODER = "model.encoder", "model.decoder"


def name_streaming_tensors(layout: RuntimeLayout) -> list[NamedTensor]:
    """Every weight of a streaming runtime folder with its name in the checkpoint.

    Raises:
        RequestError: a graph is laid out otherwise than those of the public exporter.
    """
    folder = layout.folder
    decoder = GraphMap(OrtFile.read(folder / "decoder_kv.ort"))
    return [
        *_frontend(frontend_map(layout)),
        *_encoder(GraphMap(OrtFile.read(folder / "encoder.ort"))),
        *_adapter_graph(GraphMap(OrtFile.read(folder / "adapter.ort"))),
        *_cross(GraphMap(OrtFile.read(folder / "cross_kv.ort"))),
        *_decoder(decoder),
    ]


def frontend_map(layout: RuntimeLayout) -> GraphMap:
    """The front end's graph, with the weights that newer folders keep in a file of their own."""
    if "frontend.model.ort" in layout.files:
        return GraphMap(
            OrtFile.read(layout.folder / "frontend.model.ort"),
            OrtFile.read(layout.folder / "frontend.weights.ort"),
        )
    return GraphMap(OrtFile.read(layout.folder / "frontend.ort"))


def _frontend(graph: GraphMap) -> Iterator[NamedTensor]:
    stem = f"{_ENCODER}.embedder"
    linear = only(list(graph.linears.values()), "the frames' projection", graph.file)
    yield _matrix(graph, f"{stem}.linear.weight", linear)
    convolutions = graph.in_order(("Conv", "FusedConv"))
    _expect(len(convolutions) == 2, "two convolutions", graph.file)
    for index, node in enumerate(convolutions, 1):
        kernel, bias = graph.stored(node.inputs[1]), graph.stored(node.inputs[2])
        _expect(kernel is not None and bias is not None, f"convolution {index}", graph.file)
        for kind, stored in (("weight", kernel), ("bias", bias)):
            if stored is not None:
                key = f"{stem}.conv{index}.{kind}"
                yield NamedTensor(key, graph.file_of(stored), stored, "plain")


def _encoder(graph: GraphMap) -> Iterator[NamedTensor]:
    attentions = _attentions(graph)
    taken = {id(linear.node) for attention in attentions for linear in attention.values()}
    rest = [linear for linear in _by_depth(graph) if id(linear.node) not in taken]
    _expect(len(rest) == 2 * len(attentions), "two feed-forward matrices a layer", graph.file)
    norms = graph.in_order(_NORMS)
    _expect(len(norms) == 2 * len(attentions) + 1, "two norms a layer and one more", graph.file)
    for index, attention in enumerate(attentions):
        stem = f"{_ENCODER}.layers.{index}"
        yield from _attention_tensors(graph, f"{stem}.self_attn", attention)
        for place in (1, 2):
            yield from _biased(graph, f"{stem}.mlp.fc{place}", rest[2 * index + place - 1])
        for place, name in enumerate(("input_layernorm", "post_attention_layernorm")):
            yield _unit_offset_norm(graph, f"{stem}.{name}.gamma", norms[2 * index + place])
    yield _unit_offset_norm(graph, f"{_ENCODER}.final_norm.gamma", norms[-1])


def _unit_offset_norm(graph: GraphMap, key: str, node: Node) -> NamedTensor:
    """A norm of the encoder: plain, then multiplied by gamma + 1; or both in one."""
    product = graph.after(node, ("Mul",))
    scale = node.inputs[2] if node.op == "SkipLayerNormalization" else node.inputs[1]
    own = graph.stored(scale)
    _expect(isinstance(own, FloatTensor), key, graph.file)
    size = own.values.shape[0] if own is not None else 0
    gamma = graph.vector(product.inputs, size) if product is not None else None
    if gamma is None and isinstance(own, FloatTensor):
        gamma = own
    if gamma is None:
        raise _otherwise(key, graph.file)
    return NamedTensor(key, graph.file, gamma, "plus-one")


def _adapter_graph(graph: GraphMap) -> Iterator[NamedTensor]:
    yield _table(graph, f"{_DECODER}.pos_emb.weight")
    # Where encoder and decoder are equally wide there is no projection.
    if graph.linears:
        linear = only(list(graph.linears.values()), "the projection", graph.file)
        yield _matrix(graph, f"{_DECODER}.proj.weight", linear)


def _cross(graph: GraphMap) -> Iterator[NamedTensor]:
    for output, kind in (("k_cross", "k_proj"), ("v_cross", "v_proj")):
        stack = graph.made_by.get(output)
        _expect(stack is not None and stack.op == "Concat", f"the stacked {output}", graph.file)
        for index, name in enumerate(stack.inputs if stack is not None else ()):
            linear = only(graph.linears_before(name), f"{kind} of layer {index}", graph.file)
            yield _matrix(graph, f"{_DECODER}.layers.{index}.encoder_attn.{kind}.weight", linear)


def _decoder(graph: GraphMap) -> Iterator[NamedTensor]:
    yield _table(graph, f"{_DECODER}.embed_tokens.weight")
    attentions = _attentions(graph)
    layers = len(attentions) // 2
    # Self-attention has its own keys; cross-attention gets them from outside.
    whole = [set(attention) == set("qkvo") for attention in attentions]
    _expect(layers > 0 and whole == [True, False] * layers, "two attentions a layer", graph.file)
    taken = {id(linear.node) for attention in attentions for linear in attention.values()}
    rest = [linear for linear in _by_depth(graph) if id(linear.node) not in taken]
    _expect(len(rest) == 2 * layers + 1, "two feed-forward matrices a layer", graph.file)
    norms = graph.in_order(_NORMS)
    _expect(len(norms) == 3 * layers + 1, "three norms a layer and one more", graph.file)
    for index in range(layers):
        stem = f"{_DECODER}.layers.{index}"
        yield from _attention_tensors(graph, f"{stem}.self_attn", attentions[2 * index])
        yield from _attention_tensors(graph, f"{stem}.encoder_attn", attentions[2 * index + 1])
        for place in (1, 2):
            yield from _biased(graph, f"{stem}.mlp.fc{place}", rest[2 * index + place - 1])
        names = ("input_layernorm", "post_attention_layernorm", "final_layernorm")
        for place, name in enumerate(names):
            yield _norm(graph, f"{stem}.{name}.weight", norms[3 * index + place])
    yield _norm(graph, f"{_DECODER}.norm.weight", norms[-1])
    yield _matrix(graph, "proj_out.weight", rest[-1])


def _attentions(graph: GraphMap) -> list[dict[str, Linear]]:
    """Query, key, value and output matrices of each attention, in order; keys "q", "k", "v", "o".

    Key and value are left out where they come from outside the graph.
    """
    found = []
    for softmax in graph.in_order(("Softmax",)):
        scores = [
            node
            for node in graph.upstream(softmax.inputs[0], lambda n: n.op in _MULTIPLY)
            if id(node) not in graph.linears
        ]
        mixed = graph.after(softmax, _MULTIPLY)
        if len(scores) != 1 or mixed is None:
            raise _otherwise("an attention", graph.file)
        places = {"q": scores[0].inputs[0], "k": scores[0].inputs[1], "v": mixed.inputs[1]}
        attention = {}
        for role, name in places.items():
            linears = graph.linears_before(name)
            if linears or role == "q":
                attention[role] = only(linears, f"the {role} projection", graph.file)
        attention["o"] = _next_linear(graph, mixed)
        found.append(attention)
    return found


def _next_linear(graph: GraphMap, node: Node) -> Linear:
    """The first linear layer after a node."""
    waiting, seen = [node], {node.outputs[0]}
    reached: list[Linear] = []
    while waiting:
        for name in waiting.pop().outputs:
            for user in graph.users(name):
                if id(user) in graph.linears:
                    reached.append(graph.linears[id(user)])
                elif user.outputs[0] not in seen and user.op != "Shape":
                    seen.add(user.outputs[0])
                    waiting.append(user)
    if not reached:
        raise _otherwise("an output projection", graph.file)
    return min(reached, key=lambda linear: linear.depth)


def _attention_tensors(
    graph: GraphMap, stem: str, attention: dict[str, Linear]
) -> Iterator[NamedTensor]:
    for role, linear in attention.items():
        yield _matrix(graph, f"{stem}.{role}_proj.weight", linear)


def _matrix(graph: GraphMap, key: str, linear: Linear) -> NamedTensor:
    return NamedTensor(key, graph.file_of(linear.weight), linear.weight, "transposed")


def _biased(graph: GraphMap, stem: str, linear: Linear) -> Iterator[NamedTensor]:
    yield _matrix(graph, f"{stem}.weight", linear)
    width = linear.weight.values.shape[1]
    names: Sequence[str] = [linear.bias] if linear.bias else _added(graph, linear.node)
    bias = graph.vector(names, width)
    if bias is None:
        raise _otherwise(f"{stem}.bias", graph.file)
    yield NamedTensor(f"{stem}.bias", graph.file, bias, "plain")


def _added(graph: GraphMap, node: Node) -> Sequence[str]:
    """Names beside a product's result in the addition after it."""
    step: Node | None = node
    # Behind an integer product come its scales first.
    while step is not None:
        addition = graph.after(step, _ADDITIONS)
        if addition is not None:
            return addition.inputs
        step = graph.after(step, ("Cast", "Mul"))
    return ()


def _norm(graph: GraphMap, key: str, node: Node) -> NamedTensor:
    scale = graph.stored(node.inputs[2 if node.op == "SkipLayerNormalization" else 1])
    if not isinstance(scale, FloatTensor):
        raise _otherwise(key, graph.file)
    return NamedTensor(key, graph.file, scale, "plain")


def _table(graph: GraphMap, key: str) -> NamedTensor:
    """The table that rows are looked up in."""
    for node in graph.nodes:
        if node.op == "Gather":
            stored = graph.stored(node.inputs[0])
            if stored is not None and len(stored.values.shape) == 2:
                return NamedTensor(key, graph.file, stored, "plain")
    raise _otherwise(key, graph.file)


def _by_depth(graph: GraphMap) -> list[Linear]:
    return sorted(graph.linears.values(), key=lambda linear: linear.depth)


def _expect(holds: bool, what: str, file: OrtFile) -> None:
    if not holds:
        raise _otherwise(what, file)


def _otherwise(what: str, file: OrtFile) -> RequestError:
    return RequestError(
        f"this graph is not laid out as known: {what} not found",
        where=file.path,
        hint="start from the model's save_pretrained folder or its hub id instead",
    )
