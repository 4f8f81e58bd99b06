"""Export without a base runtime folder: the graphs are built from the model, node by node.

No tracer is run: the five streaming graphs and the two of v1 are written down once, in terms of the
same few layers, and the parity gate proves each against torch. That takes seconds where a tracer
and a quantizer take a minute, needs nothing but onnx, and every tensor keeps its name.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import sha256_of
from moonshine_tune.export.graft import GraftReport
from moonshine_tune.export.graphs.streaming import write_streaming_graphs
from moonshine_tune.export.graphs.v1 import write_v1_graphs
from moonshine_tune.models.base import SpeechModel
from moonshine_tune.runtime.layout import read_layout
from moonshine_tune.runtime.tokenizer_writer import write_tokenizer_bin

Floats = npt.NDArray[np.float32]


def trace(
    model: SpeechModel, weights: Mapping[str, Floats], out: Path, *, scheme: str = "int8"
) -> GraftReport:
    """Fill the folder `out` (existing, empty) with runtime files of the model.

    Args:
        model: gives shapes and settings; its tokenizer becomes `tokenizer.bin`.
        weights: every tensor by its checkpoint name, with an adapter's effect added.
        scheme: "int8" (weights and activations; one scale an output channel; the front end stays
            in floats) or "none".

    Raises:
        RequestError: the model computes with something that the graphs do not have.
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
    """The graphs know what the published models use, and nothing else."""
    config = model.module.config
    encoder = getattr(config, "encoder_config", None)
    found: dict[str, Any] = {
        "encoder activation": getattr(encoder, "hidden_act", None)
        or getattr(config, "encoder_hidden_act", None),
        "decoder activation": getattr(config, "decoder_hidden_act", None)
        or getattr(config, "hidden_act", None),
        "attention bias": bool(config.attention_bias),
        "rotary embedding": config.rope_parameters["rope_type"],
    }
    known = {
        "encoder activation": "gelu",
        "decoder activation": "silu",
        "attention bias": False,
        "rotary embedding": "default",
    }
    wrong = [f"{name} {value!r}" for name, value in found.items() if value != known[name]]
    for stack in (model.encoder, model.decoder):
        attention = stack.layers[0].self_attn
        if attention.num_key_value_groups != 1:
            wrong.append("shared keys and values")
    if wrong:
        raise RequestError(
            f"this model cannot be traced: no runtime graph has {', '.join(wrong)}",
            hint="graft into the runtime folder that it came from instead",
        )
