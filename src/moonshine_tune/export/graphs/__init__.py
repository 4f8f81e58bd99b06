"""Export without a base runtime folder: the graphs are built from the model, node by node.

No tracer runs: the five streaming graphs and the two of v1 are written in terms of the same few
layers, and the parity gate compares each with torch. That takes seconds instead of a minute for a
tracer and a quantizer, needs only onnx, and every tensor keeps its name.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import sha256_of
from moonshine_tune.export.graft import GraftReport
from moonshine_tune.export.graphs.streaming import write_streaming_graphs
from moonshine_tune.export.graphs.v1 import write_v1_graphs
from moonshine_tune.models.base import SpeechModel
from moonshine_tune.runtime.layout import read_layout
from moonshine_tune.runtime.quantized import Floats
from moonshine_tune.runtime.tokenizer import write_tokenizer_bin


def build_graphs(
    model: SpeechModel, weights: Mapping[str, Floats], out: Path, *, scheme: str = "int8"
) -> GraftReport:
    """Fill the folder `out` (existing, empty) with runtime files of the model.

    Args:
        model: its shapes and settings; its tokenizer becomes `tokenizer.bin`.
        weights: every tensor by its checkpoint name, with an adapter's effect added.
        scheme: "int8" (weights and activations; one scale per output channel; the front end stays
            in floats) or "none".

    Raises:
        RequestError: the model has a setting that the graphs do not support.
        MachineError: the package onnx is missing.
    """
    _check_settings(model)
    if model.family == "v1":
        write_v1_graphs(model, weights, out, scheme)
    else:
        write_streaming_graphs(model, weights, out, scheme)
    write_tokenizer_bin(model.tokenizer.raw, out / "tokenizer.bin")
    layout = read_layout(out)
    graphs = tuple(name for name in layout.files if name.endswith(".ort"))
    return GraftReport(
        matrices=len(weights),
        changed=len(weights),
        changed_files=graphs,
        worst_step_error=0.5 if scheme == "int8" else 0.0,
        sha256={name: sha256_of(out / name) for name in layout.files},
    )


def _check_settings(model: SpeechModel) -> None:
    """The graphs support the settings of the published models only."""
    config = model.module.config
    encoder = getattr(config, "encoder_config", None)
    settings: dict[str, tuple[Any, Any]] = {
        "encoder activation": (
            getattr(encoder, "hidden_act", None) or getattr(config, "encoder_hidden_act", None),
            "gelu",
        ),
        "decoder activation": (
            getattr(config, "decoder_hidden_act", None) or getattr(config, "hidden_act", None),
            "silu",
        ),
        "attention bias": (bool(config.attention_bias), False),
        "rotary embedding": (config.rope_parameters["rope_type"], "default"),
    }
    problems = [f"{name} {value!r}" for name, (value, known) in settings.items() if value != known]
    for side in (model.encoder, model.decoder):
        if side.layers[0].self_attn.num_key_value_groups != 1:
            problems.append("shared keys and values")
    if problems:
        raise RequestError(
            f"cannot build graphs for this model: no runtime graph has {', '.join(problems)}",
            hint="graft into the runtime folder that it came from instead",
        )
