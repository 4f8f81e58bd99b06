"""Parity graph by graph: stored weights, outputs, tokens, the tokenizer.

Three questions, in this order. Does every graph hold the trained weights, each in its position?
Does every graph compute what torch computes from the same input? Do both choose the same tokens?
The first answer that is no names the graph, and where possible the layer and the clip.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from moonshine_tune.core.errors import RequestError
from moonshine_tune.export.parity.stages import (
    RuntimeGraphs,
    StageOutput,
    encode_clip,
    open_graphs,
)
from moonshine_tune.models.base import NormReaders, SpeechModel
from moonshine_tune.runs.records import (
    OutputDifference,
    ParityRecord,
    TokenParity,
    WeightDifference,
    WeightParity,
)
from moonshine_tune.runtime.layout import RuntimeLayout
from moonshine_tune.runtime.naming import NamedTensor, name_tensors
from moonshine_tune.runtime.ort_file import OrtFile
from moonshine_tune.runtime.quantized import (
    Floats,
    FloatTensor,
    float_tensors,
    folded_step,
    quantized_tensors,
)
from moonshine_tune.runtime.tokenizer import tokenizer_difference

# Root mean square of a rounding error, in steps: 0.3 to the nearest, 0.4 dithered; more where it
# is compensated.
_ERROR_STEPS = 2.0
_FLOAT_ERROR = 2e-3
# Relative error of a graph's output that 8-bit activations explain. Measured on real models: 0.03
# to 0.05; a scale that is off by two gives 0.12 to 0.7 where it shows at all.
_EIGHT_BIT_BAND, _FLOAT_BAND = 0.12, 0.005
_TOKEN_AGREEMENT = 0.8
_MAX_TOKENS = 40


@dataclass(frozen=True)
class ParityClip:
    """A clip for the comparison: mono float32 at 16 kHz, and torch's transcript."""

    name: str
    samples: Floats
    text: str


def check_graphs(
    layout: RuntimeLayout,
    model: SpeechModel,
    weights: Mapping[str, Floats],
    clips: Sequence[ParityClip],
) -> ParityRecord:
    """Compare a runtime folder with the model, which must be on the CPU in 32 bits.

    Args:
        weights: tensors by name, with an adapter's effect added.
        clips: a few real ones; without any, outputs are not compared.

    Raises:
        RequestError: a file is damaged, or onnxruntime cannot run it.
    """
    weights_parity = compare_weights(layout, weights, model.norm_readers())
    graphs = open_graphs(layout)
    rule = None
    if model.family == "streaming" and clips:
        rule = window_rule(graphs, model, clips[0].samples)
    with windows_read_as(model, rule):
        outputs, tokens, agreement = _compare_outputs(graphs, model, clips)
    tokenizer = tokenizer_difference(layout.folder / "tokenizer.bin", model.tokenizer.raw)
    first = tokenizer or first_difference(weights_parity, outputs, tokens, agreement)
    return ParityRecord(
        passed=first is None,
        first_difference=first,
        graphs=outputs,
        weights=weights_parity,
        tokens=TokenParity(count=tokens, agreement=round(agreement, 4)),
        window_rule=rule,
    )


def first_difference(
    weights: WeightParity, outputs: Sequence[OutputDifference], tokens: int, agreement: float
) -> str | None:
    """The first difference that the scheme does not explain, with graph, layer and clip, or None.

    Args:
        tokens, agreement: number of positions, and the share with the same next token.
    """
    for weight in weights.different[:1]:
        return (
            f"{weight.graph}: {weight.tensor} is not the trained tensor "
            f"(off by {100 * weight.relative:.0f} %)"
        )
    for output in outputs:
        if not output.passed:
            return (
                f"{output.graph}: {output.output} differs from torch by "
                f"{100 * output.relative:.1f} % (bound {100 * output.bound:g} %), most on clip "
                f"{output.clip}"
            )
    if tokens and agreement < _TOKEN_AGREEMENT:
        return (
            f"decoder: {100 * agreement:.0f} % of {tokens} tokens are torch's "
            f"(bound {100 * _TOKEN_AGREEMENT:g} %)"
        )
    return None


def compare_weights(
    layout: RuntimeLayout, weights: Mapping[str, Floats], norms: Sequence[NormReaders] = ()
) -> WeightParity:
    """Compare the stored tensors with the trained ones, or say why that is not possible.

    Tensors are matched by their position in the graph, so that swapped matrices are detected.

    Args:
        norms: normalizations that a file may hold smoothed: with another gain, and matrices whose
            columns make up for it.
    """
    try:
        tensors = name_tensors(layout)
    except RequestError as error:
        return WeightParity(checked=0, different=[], note=str(error))
    different = []
    checked = 0
    weights = _as_smoothed(tensors, weights, norms)
    for item in tensors:
        key = item.key
        if key == "proj_out.weight" and key not in weights:
            key = "model.decoder.embed_tokens.weight"
        if key not in weights:
            continue
        checked += 1
        stored, wanted = item.read(), weights[key]
        relative = None
        if stored.size != wanted.size:
            relative = 1.0
        else:
            norm = float(np.linalg.norm(wanted))
            away = float(np.linalg.norm(stored.reshape(wanted.shape) - wanted))
            if away > _weight_bound(item, wanted, away):
                relative = away / max(norm, 1e-9)
        if relative is not None:
            different.append(WeightDifference(graph=item.graph, tensor=item.key, relative=relative))
    return WeightParity(checked=checked, different=different, note=None)


def _as_smoothed(
    tensors: Sequence[NamedTensor], weights: Mapping[str, Floats], norms: Sequence[NormReaders]
) -> dict[str, Floats]:
    """The trained tensors as a file must hold them that has these gains of normalizations.

    A wrong gain then shows in the matrices that read it.
    """
    expected = dict(weights)
    stored = {item.key: item for item in tensors}
    for norm in norms:
        if norm.gain not in stored or any(name not in weights for name in norm.matrices):
            continue
        gain, offset = stored[norm.gain].read(), np.float32(norm.offset)
        trained = weights[norm.gain]
        if gain.shape != trained.shape or np.any(gain + offset == 0):
            continue
        for name in norm.matrices:
            expected[name] = weights[name] * ((trained + offset) / (gain + offset))
        expected[norm.gain] = gain
    return expected


def _weight_bound(item: NamedTensor, wanted: Floats, away: float) -> float:
    """The norm of the difference that the tensor's scheme explains."""
    shape = item.tensor.values.shape
    if isinstance(item.tensor, FloatTensor):
        bound = _FLOAT_ERROR * float(np.linalg.norm(wanted)) + 1e-6
        folded = folded_step(item.tensor.dequantize(item.file)) if away > bound else None
        if folded is None:
            return bound
        step: Any = folded
    else:
        laid_out = wanted.T if item.form == "transposed" else wanted
        step = item.tensor.fitting_grid(laid_out.reshape(shape), item.file).scale
    return _ERROR_STEPS * float(np.linalg.norm(np.broadcast_to(step, shape))) + 1e-6


def window_rule(graphs: RuntimeGraphs, model: SpeechModel, clip: Floats) -> str:
    """Which reading of the configured windows the encoder graph follows, by its outputs."""
    errors = {}
    for rule in ("exclusive", "inclusive"):
        with windows_read_as(model, rule):
            outputs = graphs.compare_encoder(model, clip)
        encoded = next(item for item in outputs if item.graph == "encoder.ort")
        errors[rule] = _relative(encoded)[2]
    return min(errors, key=lambda rule: errors[rule])


@contextmanager
def windows_read_as(model: SpeechModel, rule: str | None) -> Iterator[None]:
    """Read the model's windows by this rule inside the block; transformers reads "exclusive"."""
    if rule != "inclusive":
        yield
        return
    config = model.encoder.config
    before = config.sliding_windows
    config.sliding_windows = [[behind + 1, ahead + 1] for behind, ahead in before]
    try:
        yield
    finally:
        config.sliding_windows = before


def _compare_outputs(
    graphs: RuntimeGraphs, model: SpeechModel, clips: Sequence[ParityClip]
) -> tuple[list[OutputDifference], int, float]:
    """The worst difference of each output, the number of tokens, and the share that agrees."""
    worst: dict[tuple[str, str], OutputDifference] = {}
    tokens = agreeing = 0
    for clip in clips:
        states = encode_clip(model, clip.samples)
        ids = model.tokenizer.encode(clip.text)[:_MAX_TOKENS]
        outputs = graphs.compare_encoder(model, clip.samples)
        outputs += graphs.compare_decoder(model, states, ids)
        for item in outputs:
            if item.output == "logits":
                tokens += len(item.from_torch)
                same = item.from_graph.argmax(axis=-1) == item.from_torch.argmax(axis=-1)
                agreeing += int(same.sum())
            maximum, mean, relative = _relative(item)
            bound = _band(graphs.layout, item.graph)
            difference = OutputDifference(
                graph=item.graph, output=item.output, max=maximum, mean=mean, relative=relative,
                bound=bound, clip=clip.name, passed=relative <= bound,
            )  # fmt: skip
            before = worst.get((item.graph, item.output), difference)
            worst[item.graph, item.output] = (
                difference if relative > before.relative else before
            ).model_copy(update={"max": max(maximum, before.max), "mean": max(mean, before.mean)})
    return list(worst.values()), tokens, agreeing / tokens if tokens else 1.0


def _relative(item: StageOutput) -> tuple[float, float, float]:
    """Largest and mean absolute difference, and the relative norm."""
    ours, torchs = item.from_graph.astype(np.float64), item.from_torch.astype(np.float64)
    if ours.shape != torchs.shape:
        return float("inf"), float("inf"), float("inf")
    if item.output == "logits":
        # A constant added to all logits of a position changes no probability.
        ours = ours - ours.mean(axis=-1, keepdims=True)
        torchs = torchs - torchs.mean(axis=-1, keepdims=True)
    away = np.abs(ours - torchs)
    norm = float(np.linalg.norm(torchs)) or 1.0
    relative = float(np.linalg.norm(away)) / norm
    return float(away.max()), float(away.mean()), relative if np.isfinite(relative) else np.inf


def _band(layout: RuntimeLayout, graph: str) -> float:
    names = [graph]
    if graph == "frontend.model.ort":
        names.append("frontend.weights.ort")
    for file in (OrtFile.read(layout.folder / name) for name in names):
        if next(iter(quantized_tensors(file)), None) is not None:
            return _EIGHT_BIT_BAND
        if graph.startswith("frontend") and any(
            folded_step(tensor.dequantize(file)) is not None for tensor in float_tensors(file)
        ):
            return _EIGHT_BIT_BAND
    return _FLOAT_BAND
