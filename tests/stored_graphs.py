"""Graph files made for one scheme of storing tensors alone."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from onnx import helper, numpy_helper

from moonshine_tune.runtime.layout import RuntimeLayout

Floats = npt.NDArray[np.float32]


def write_graph(folder: Path, tensors: dict[str, npt.NDArray[Any]]) -> RuntimeLayout:
    """A graph file that hands each of its constants out, and nothing else."""
    nodes, outputs = [], []
    for name, value in tensors.items():
        kind = helper.np_dtype_to_tensor_dtype(value.dtype)
        nodes.append(helper.make_node("Identity", [name], [f"{name}_out"]))
        outputs.append(helper.make_tensor_value_info(f"{name}_out", kind, list(value.shape)))
    graph = helper.make_graph(
        nodes, "stored", [], outputs,
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 10
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.optimized_model_filepath = str(folder / "graph.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return RuntimeLayout(folder, "v1", ("graph.ort",))


def quantized_parts(
    weights: Floats, dtype: str, axis: int | None, *, symmetric: bool, scale_type: str = "f4"
) -> dict[str, npt.NDArray[Any]]:
    """Stored parts of a tensor by the usual rule, written down once more."""
    least, most = (0, 255) if dtype == "u1" else (-128, 127)
    others = None if axis is None else tuple(i for i in range(weights.ndim) if i != axis)
    low = np.minimum(weights.min(axis=others, keepdims=True), 0)
    high = np.maximum(weights.max(axis=others, keepdims=True), 0)
    if symmetric:
        scale = np.maximum(-low, high) / most
        zero = np.zeros_like(scale)
    else:
        scale = (high - low) / (most - least)
        zero = np.rint(least - low / scale)
    scale = scale.astype(scale_type).astype(np.float32)
    levels = np.clip(np.rint(weights / scale) + zero, least, most)
    shape = () if axis is None else (-1,)
    return {
        "w_quantized": levels.astype(dtype),
        "w_scale": scale.reshape(shape).astype(scale_type),
        "w_zero_point": zero.reshape(shape).astype(dtype),
    }


def spread_weights(shape: tuple[int, ...], seed: int = 0) -> Floats:
    rng = np.random.default_rng(seed)
    # Channels of different ranges: with one scale for all of them they would look alike.
    return (rng.standard_normal(shape) * np.exp(rng.uniform(-1, 1, shape[-1]))).astype("f4")
