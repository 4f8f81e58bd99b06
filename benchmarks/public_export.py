"""A streaming runtime folder by the public tools: exporter, quantizer, converter.

    pip install --no-deps --target tools onnx_shrink_ray onnx_graphsurgeon onnxscript onnx_ir \
        pyarrow scipy
    python -m benchmarks.public_export CHECKPOINT OUT --tools tools [--split-frontend]

moonshine-voice's exporter writes five float graphs, onnx_shrink_ray makes them 8-bit (one scale an
output channel; the front end's weights only), onnxruntime converts them. `--split-frontend` lays
the front end out as newer folders have it: a graph, and a file of 8-bit weights that runs once.
Prints one line of JSON: seconds of each step and peak memory of its process.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnxruntime

from moonshine_tune.models.checkpoint import load_tokenizer
from moonshine_tune.runtime.tokenizer import write_tokenizer_bin

GRAPHS = ("frontend", "encoder", "adapter", "cross_kv", "decoder_kv")
_SUFFIX = {"integer_weights": "quantized_weights", "integer_activations": "quantized_activations"}


@dataclass(frozen=True)
class Step:
    """A command that ran: wall time in seconds and the peak memory of its process in MB."""

    name: str
    seconds: float
    peak_mb: float


def measured(name: str, command: list[str], *, tools: Path | None = None) -> Step:
    """Run a command to its end; its output goes to stderr.

    Raises:
        RuntimeError: it failed.
    """
    environment = dict(os.environ)
    if tools is not None:
        paths = [str(tools), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    # A public tool that looks for a hub would wait for it.
    environment["HF_HUB_OFFLINE"] = "1"
    begun = time.monotonic()
    process = subprocess.Popen(command, env=environment, stdout=sys.stderr)
    _pid, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{name} failed with exit code {process.returncode}")
    scale = 1e6 if sys.platform == "darwin" else 1e6 / 1024
    return Step(name, time.monotonic() - begun, usage.ru_maxrss / scale)


def export_publicly(
    checkpoint: Path, out: Path, *, tools: Path, split_frontend: bool = False
) -> list[Step]:
    """Fill `out` (created) with a runtime folder of the checkpoint, by public tools alone."""
    out.mkdir(parents=True)
    steps = []
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        steps.append(
            measured(
                "export",
                [sys.executable, "-m", "moonshine_voice.lora", "--export",
                 "--model", str(checkpoint), "--output-dir", str(place)],
                tools=tools,
            )
        )  # fmt: skip
        for graph in GRAPHS:
            method = "integer_weights" if graph == "frontend" else "integer_activations"
            steps.append(
                measured(
                    f"quantize {graph}",
                    [sys.executable, "-m", "onnx_shrink_ray.shrink", "--ir-version", "10",
                     "--method", method, "--per-channel", str(place / f"{graph}.onnx")],
                    tools=tools,
                )
            )  # fmt: skip
            quantized = place / f"{graph}_{_SUFFIX[method]}.onnx"
            if graph == "frontend" and split_frontend:
                begun = time.monotonic()
                _split(quantized, out / "frontend.model.ort", out / "frontend.weights.ort")
                steps.append(Step(f"convert {graph}", time.monotonic() - begun, 0.0))
                continue
            steps.append(
                measured(
                    f"convert {graph}",
                    [sys.executable, "-m", "onnxruntime.tools.convert_onnx_models_to_ort",
                     str(quantized)],
                )
            )  # fmt: skip
            shutil.copyfile(quantized.with_suffix(".ort"), out / f"{graph}.ort")
        shutil.copyfile(place / "streaming_config.json", out / "streaming_config.json")
    write_tokenizer_bin(load_tokenizer(checkpoint).raw, out / "tokenizer.bin")
    return steps


def _split(source: Path, graph_out: Path, weights_out: Path) -> None:
    """A graph that takes its 8-bit weights, dequantized, as inputs; and one that makes them."""
    whole = onnx.load(source)
    stored = {item.name: item for item in whole.graph.initializer}
    stems = [
        name.removesuffix("_quantized")
        for name, item in stored.items()
        if name.endswith("_quantized") and item.data_type == onnx.TensorProto.INT8
    ]
    made = {f"{stem}_{part}_tensor" for stem in stems for part in ("cast", "mul", "add")}
    inputs = {f"{stem}_{part}" for stem in stems for part in ("quantized", "scale", "zero_point")}
    rims = [
        onnx.helper.make_tensor_value_info(
            f"{stem}_add_tensor", onnx.TensorProto.FLOAT, list(stored[f"{stem}_quantized"].dims)
        )
        for stem in stems
    ]
    for keeps_chains, target in ((True, weights_out), (False, graph_out)):
        part = onnx.ModelProto()
        part.CopyFrom(whole)
        nodes = [node for node in whole.graph.node if (node.output[0] in made) == keeps_chains]
        tensors = [item for name, item in stored.items() if (name in inputs) == keeps_chains]
        del part.graph.node[:], part.graph.initializer[:], part.graph.value_info[:]
        part.graph.node.extend(nodes)
        part.graph.initializer.extend(tensors)
        if keeps_chains:
            del part.graph.input[:], part.graph.output[:]
            part.graph.output.extend(rims)
        else:
            part.graph.input.extend(rims)
        _convert(part, target)


def _convert(model: Any, target: Path) -> None:
    options = onnxruntime.SessionOptions()
    # Folding would turn the 8-bit weights into floats.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.optimized_model_filepath = str(target)
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def main() -> int:
    """Export one checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tools", type=Path, required=True, help="folder of the public tools")
    parser.add_argument("--split-frontend", action="store_true")
    given = parser.parse_args()
    steps = export_publicly(
        given.checkpoint, given.out, tools=given.tools, split_frontend=given.split_frontend
    )
    record = [{"step": s.name, "seconds": round(s.seconds, 1), "peak_mb": round(s.peak_mb)}
              for s in steps]  # fmt: skip
    sys.stdout.write(json.dumps({"seconds": round(sum(s.seconds for s in steps), 1),
                                 "steps": record}) + "\n")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
