"""Exact resume: adapter, optimizer, random generators and counters, in safetensors and JSON.

Nothing is pickled. A run that is stopped at step k and resumed does what an unbroken run does. The
folder holds the newest state and, in `previous/`, the one before it; each names the hash of its
tensors, so a torn one is found out and the last whole one is taken.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import complete_folder, sha256_of, write_json_atomic
from moonshine_tune.models.base import SpeechModel
from moonshine_tune.models.lora import adapter_parameters, adapter_state, load_adapter_state

_TENSORS, _COUNTERS, _PREVIOUS = "state.safetensors", "state.json", "previous"
# Folders that a process leaves behind when it is killed while it swaps a state in.
_UNFINISHED = (".partial-", ".old-")


@dataclass(frozen=True)
class TrainingState:
    """What the loop needs to go on.

    Attributes:
        step: the next step, from 0.
        counters: the loop's own, JSON data.
        best: matrices of the best adapter so far.
        remark: what a person should know about a state that was loaded; empty if nothing.
    """

    step: int
    counters: dict[str, Any]
    best: dict[str, Tensor] = field(default_factory=dict, compare=False)
    remark: str = field(default="", compare=False)


def save_state(
    folder: Path, model: SpeechModel, optimizer: torch.optim.Optimizer, state: TrainingState
) -> None:
    """Write the state; the one before it is kept, and replaced only when the new one is whole.

    Raises:
        MachineError: the disk is full; the states that were there stay.
    """
    tensors: dict[str, Tensor] = {
        f"adapter/{name}": value for name, value in adapter_state(model).items()
    }
    tensors |= {f"best/{name}": value for name, value in state.best.items()}
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
        with safetensors_errors():
            save_file(
                {name: value.contiguous() for name, value in tensors.items()}, scratch / _TENSORS
            )
        write_json_atomic(
            scratch / _COUNTERS,
            {
                "step": state.step,
                "counters": state.counters,
                "optimizer": steps,
                "sha256": sha256_of(scratch / _TENSORS),
            },
        )
        _keep_previous(folder, scratch)
    for left in _unfinished(folder):
        shutil.rmtree(left, ignore_errors=True)


def has_state(folder: Path) -> bool:
    """Whether anything was ever saved at `folder`, whole or not."""
    return any((place / _COUNTERS).is_file() for place in _places(folder))


def load_state(folder: Path, model: SpeechModel, optimizer: torch.optim.Optimizer) -> TrainingState:
    """Put everything back, from the newest state that is whole; `remark` says if another is torn.

    Raises:
        RequestError: there is no state, none is whole, or it belongs to another adapter shape.
    """
    document, tensors, remark = _newest_whole(folder)
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
    if "random/cuda" in tensors and model.device.type == "cuda":
        torch.cuda.set_rng_state(tensors["random/cuda"], model.device)
    if "random/mps" in tensors and model.device.type == "mps":
        torch.mps.set_rng_state(tensors["random/mps"])
    return TrainingState(
        int(document["step"]), document["counters"], _below(tensors, "best/"), remark
    )


@contextmanager
def safetensors_errors() -> Iterator[None]:
    """Give safetensors' own error for a failed write its system error number back.

    It reports a full disk as text only, so that nothing above could tell it from a broken file.
    """
    try:
        yield
    except SafetensorError as error:
        _, found, rest = str(error).partition("(os error ")
        number = rest.split(")")[0]
        if found and number.isdigit():
            raise OSError(int(number), str(error)) from error
        raise


def _newest_whole(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor], str]:
    found = _read(folder)
    if found is not None:
        return *found, ""
    if not has_state(folder):
        raise RequestError(
            "this run has no saved state to go on from",
            where=folder,
            hint="start it anew with another --out",
        )
    others = [state for place in _places(folder)[1:] if (state := _read(place)) is not None]
    if not others:
        raise RequestError(
            "the saved state is damaged, and no earlier one is whole",
            where=folder,
            hint="start it anew with another --out; the best adapter so far is in adapter/",
        )
    document, tensors = max(others, key=lambda state: int(state[0]["step"]))
    remark = f"the newest saved state is damaged: going on from step {document['step']} instead"
    return document, tensors, remark


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    document = _document(folder)
    return None if document is None else (document, load_file(folder / _TENSORS))


def _document(folder: Path) -> dict[str, Any] | None:
    """A state's document where its tensors are those that it was written with, else None."""
    try:
        document: dict[str, Any] = json.loads((folder / _COUNTERS).read_text(encoding="utf-8"))
        is_whole = document["sha256"] == sha256_of(folder / _TENSORS)
        int(document["step"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return document if is_whole else None


def _places(folder: Path) -> list[Path]:
    """Where a state can be, the newest first."""
    return [folder, *_unfinished(folder), folder / _PREVIOUS]


def _unfinished(folder: Path) -> list[Path]:
    if not folder.parent.is_dir():
        return []
    starts = tuple(f".{folder.name}{mark}" for mark in _UNFINISHED)
    return sorted(path for path in folder.parent.iterdir() if path.name.startswith(starts))


def _keep_previous(folder: Path, scratch: Path) -> None:
    """Put the last whole state into the new folder: linked, since a copy would cost its size."""
    last = next((place for place in (folder, folder / _PREVIOUS) if _document(place)), None)
    if last is None:
        return
    kept = scratch / _PREVIOUS
    kept.mkdir()
    for name in (_TENSORS, _COUNTERS):
        try:
            os.link(last / name, kept / name)
        except OSError:
            # A file system without hard links.
            shutil.copy2(last / name, kept / name)


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): value for n, value in tensors.items() if n.startswith(prefix)}


def _device_generators(device: torch.device) -> dict[str, Tensor]:
    if device.type == "cuda":
        return {"cuda": torch.cuda.get_rng_state(device)}
    if device.type == "mps":
        return {"mps": torch.mps.get_rng_state()}
    return {}
