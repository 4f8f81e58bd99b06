"""Exact resume: adapter, optimizer, random generators and counters, in safetensors and JSON.

Nothing is pickled. A run that is stopped at step k and resumed does what an unbroken run does.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from moonshine_tune.adapter import adapter_parameters, adapter_state, load_adapter_state
from moonshine_tune.errors import RequestError
from moonshine_tune.families.interface import SpeechModel
from moonshine_tune.files import complete_folder, write_json_atomic

_TENSORS, _COUNTERS = "state.safetensors", "state.json"


@dataclass(frozen=True)
class TrainingState:
    """What the loop needs to go on. `step` is the next step; `counters` are the loop's own."""

    step: int
    counters: dict[str, Any]


def save_state(
    folder: Path, model: SpeechModel, optimizer: torch.optim.Optimizer, state: TrainingState
) -> None:
    """Write the state; an earlier one is replaced only when the new one is whole."""
    tensors: dict[str, Tensor] = {
        f"adapter/{name}": value for name, value in adapter_state(model).items()
    }
    steps: dict[str, float] = {}
    for name, parameter in adapter_parameters(model.module):
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor) and value.dim():
                tensors[f"optimizer/{name}/{key}"] = value.detach().to("cpu", copy=True)
            else:
                steps[f"{name}/{key}"] = float(value)
    tensors["random/cpu"] = torch.random.get_rng_state()
    for kind, generator in _device_generators(model.device).items():
        tensors[f"random/{kind}"] = generator
    with complete_folder(folder, replace=True) as scratch:
        save_file({name: value.contiguous() for name, value in tensors.items()}, scratch / _TENSORS)
        write_json_atomic(
            scratch / _COUNTERS,
            {"step": state.step, "counters": state.counters, "optimizer": steps},
        )


def load_state(folder: Path, model: SpeechModel, optimizer: torch.optim.Optimizer) -> TrainingState:
    """Put everything back.

    Raises:
        RequestError: there is no state, or it belongs to another adapter shape.
    """
    if not (folder / _COUNTERS).is_file():
        raise RequestError(
            "this run has no saved state to go on from",
            where=folder,
            hint="start it anew with another --out",
        )
    document = json.loads((folder / _COUNTERS).read_text(encoding="utf-8"))
    tensors = load_file(folder / _TENSORS)
    load_adapter_state(model, _below(tensors, "adapter/"))
    moments = _below(tensors, "optimizer/")
    for name, parameter in adapter_parameters(model.module):
        slots: dict[str, Any] = {
            key.removeprefix(f"{name}/"): value.to(parameter.device)
            for key, value in moments.items()
            if key.startswith(f"{name}/")
        }
        for key, value in document["optimizer"].items():
            if key.startswith(f"{name}/"):
                slots[key.removeprefix(f"{name}/")] = torch.tensor(value)
        if slots:
            optimizer.state[parameter] = slots
    torch.random.set_rng_state(tensors["random/cpu"])
    if "random/cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random/cuda"], model.device)
    if "random/mps" in tensors:
        torch.mps.set_rng_state(tensors["random/mps"])
    return TrainingState(int(document["step"]), document["counters"])


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): value for n, value in tensors.items() if n.startswith(prefix)}


def _device_generators(device: torch.device) -> dict[str, Tensor]:
    if device.type == "cuda":
        return {"cuda": torch.cuda.get_rng_state(device)}
    if device.type == "mps":
        return {"mps": torch.mps.get_rng_state()}
    return {}
