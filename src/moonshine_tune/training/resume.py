"""Exact resume: adapter, optimizer, random generators and counters, in safetensors and JSON.

Nothing is pickled. A run that is stopped at step k and resumed computes what an uninterrupted run
computes. The folder holds the newest state and, in `previous/`, the one before it. Each records
the hash of its tensors, so that a damaged one is detected and the last complete one is used.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from pydantic import AliasChoices, ConfigDict, Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from moonshine_tune.core.bounded_files import read_bounded
from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import complete_folder, sha256_of, write_json_atomic
from moonshine_tune.core.flat_adamw import FlatAdamW, load_slots, read_slots
from moonshine_tune.core.json_text import MAX_FILE_BYTES
from moonshine_tune.models.base import SpeechModel
from moonshine_tune.models.lora import adapter_parameters, adapter_state, load_adapter_state
from moonshine_tune.runs.records import Record, StateRecord
from moonshine_tune.training.selection import Candidate

_TENSORS, _COUNTERS, _PREVIOUS = "state.safetensors", "state.json", "previous"
# Folders that a process leaves behind when it is killed while it swaps a state in.
_UNFINISHED = (".partial-", ".old-")


class Counters(StateRecord):
    """The trainer's counters. They are part of the saved state, so their size must not grow.

    Attributes:
        time: seconds by activity.
        micro_batch: most clips in a forward pass after running out of memory; 0 before.
        baseline_hypotheses: transcripts of the base model, by id, for a canary without texts.
        drafts: tokens of the last score by set, from which the next one is decoded.
        baseline, parent, best: the scores of the base model, of the adapter that the run started
            at (None for the base), and of the best adapter so far.
        chosen: of the strength or mean that was chosen at the end of an earlier leg and is still
            in adapter/; None where adapter/ holds the best adapter so far.
    """

    # Counters of another version are ignored.
    model_config = ConfigDict(extra="ignore")

    skipped: int = 0
    micro_batch: int = 0
    out_of_memory: int = 0
    skipped_in_a_row: int = 0
    scores_without_best: int = 0
    train_seconds: float = 0.0
    time: dict[str, float] = Field(default={})
    # `first_heard` in states saved before 0.1.0 was released.
    baseline_hypotheses: dict[str, str] = Field(
        default={}, validation_alias=AliasChoices("baseline_hypotheses", "first_heard")
    )
    drafts: dict[str, list[list[int]]] = Field(default={})
    baseline: Candidate | None = None
    parent: Candidate | None = None
    best: Candidate | None = None
    chosen: Candidate | None = None


class _StateFile(Record):
    """`state.json`.

    Attributes:
        step: the next step, from 0.
        optimizer: the optimizer's numbers, by parameter and name.
        sha256: of the tensors.
    """

    step: int
    counters: Counters
    optimizer: dict[str, float]
    sha256: str


@dataclass(frozen=True)
class TrainingState:
    """Everything that a resumed run continues from.

    Attributes:
        step: the next step, from 0.
        best, chosen: matrices of the adapters with these scores.
        remark: about a state that was loaded although a newer one is damaged; else empty.
    """

    step: int
    counters: Counters
    best: dict[str, Tensor] = field(default_factory=dict, compare=False)
    chosen: dict[str, Tensor] = field(default_factory=dict, compare=False)
    remark: str = field(default="", compare=False)


def save_state(
    folder: Path, model: SpeechModel, optimizer: torch.optim.Optimizer, state: TrainingState
) -> None:
    """Write the state. The one before it is kept until the new one is complete.

    Raises:
        MachineError: the disk is full; the states that were there stay.
    """
    tensors: dict[str, Tensor] = {
        f"adapter/{name}": value for name, value in adapter_state(model).items()
    }
    tensors |= {f"best/{name}": value for name, value in state.best.items()}
    tensors |= {f"chosen/{name}": value for name, value in state.chosen.items()}
    steps: dict[str, float] = {}
    slots = read_slots(optimizer)
    # A file cannot hold two parts of one tensor. Others are not copied: full fine-tuning has many.
    is_shared = isinstance(optimizer, FlatAdamW)
    for name, parameter in adapter_parameters(model.module):
        for key, value in slots.get(parameter, {}).items():
            if isinstance(value, Tensor) and value.dim():
                tensors[f"optimizer/{name}/{key}"] = value.detach().to("cpu", copy=is_shared)
            else:
                steps[f"{name}/{key}"] = float(value)
    tensors["random/cpu"] = torch.random.get_rng_state()
    if model.device.type == "cuda":
        tensors["random/cuda"] = torch.cuda.get_rng_state(model.device)
    elif model.device.type == "mps":
        tensors["random/mps"] = torch.mps.get_rng_state()
    with complete_folder(folder, replace=True) as scratch:
        with safetensors_errors():
            save_file(
                {name: value.contiguous() for name, value in tensors.items()}, scratch / _TENSORS
            )
        document = _StateFile(
            step=state.step,
            counters=state.counters,
            optimizer=steps,
            sha256=sha256_of(scratch / _TENSORS),
        )
        write_json_atomic(scratch / _COUNTERS, document.to_json())
        _keep_previous(folder, scratch)


def has_state(folder: Path) -> bool:
    """Whether anything was ever saved at `folder`, complete or not."""
    return any((path / _COUNTERS).is_file() for path in _state_folders(folder))


def load_state(folder: Path, model: SpeechModel, optimizer: torch.optim.Optimizer) -> TrainingState:
    """Restore the newest complete state; `remark` tells if a newer one is damaged.

    Raises:
        RequestError: there is no state, none is complete, or it belongs to another adapter shape.
    """
    document, tensors, remark = _newest_complete(folder)
    load_adapter_state(model, _below(tensors, "adapter/"))
    moments = _below(tensors, "optimizer/")
    slots: dict[Tensor, dict[str, Tensor]] = {}
    for name, parameter in adapter_parameters(model.module):
        own = _below(moments, f"{name}/")
        for key, value in document.optimizer.items():
            if key.startswith(f"{name}/"):
                own[key.removeprefix(f"{name}/")] = torch.tensor(value)
        if own:
            slots[parameter] = own
    load_slots(optimizer, slots)
    torch.random.set_rng_state(tensors["random/cpu"])
    if "random/cuda" in tensors and model.device.type == "cuda":
        torch.cuda.set_rng_state(tensors["random/cuda"], model.device)
    if "random/mps" in tensors and model.device.type == "mps":
        torch.mps.set_rng_state(tensors["random/mps"])
    return TrainingState(
        document.step,
        document.counters,
        best=_below(tensors, "best/"),
        chosen=_below(tensors, "chosen/"),
        remark=remark,
    )


@contextmanager
def safetensors_errors() -> Iterator[None]:
    """Turn safetensors' error for a failed write back into an OSError with its number.

    It reports a full disk as text only, so a caller cannot tell it from a damaged file.
    """
    try:
        yield
    except SafetensorError as error:
        _, mark, rest = str(error).partition("(os error ")
        number = rest.split(")")[0]
        if mark and number.isdigit():
            raise OSError(int(number), str(error)) from error
        raise


def _newest_complete(folder: Path) -> tuple[_StateFile, dict[str, Tensor], str]:
    """Document and tensors of the state to resume from, and a remark if it is not the newest."""
    if not has_state(folder):
        raise RequestError(
            "this run has no saved state to resume from",
            where=folder,
            hint="start again with another --out",
        )
    path, document, remark = folder, _read_document(folder), ""
    if document is None:
        older = [(path, _read_document(path)) for path in _state_folders(folder)[1:]]
        complete = [(path, document) for path, document in older if document is not None]
        if not complete:
            raise RequestError(
                "the saved state is damaged, and no earlier one is complete",
                where=folder,
                hint="start again with another --out; the best adapter so far is in adapter/",
            )
        path, document = max(complete, key=lambda state: state[1].step)
        remark = f"the newest saved state is damaged: resuming from step {document.step} instead"
    return document, load_file(path / _TENSORS), remark


def _read_document(folder: Path) -> _StateFile | None:
    """A state's document if its tensors are those that it was written with, else None."""
    try:
        document = _StateFile.model_validate_json(read_bounded(folder / _COUNTERS, MAX_FILE_BYTES))
        return document if document.sha256 == sha256_of(folder / _TENSORS) else None
    except (OSError, ValueError, RequestError):
        return None


def _state_folders(folder: Path) -> list[Path]:
    """Folders that may hold a state, the newest first."""
    return [folder, *_unfinished(folder), folder / _PREVIOUS]


def _unfinished(folder: Path) -> list[Path]:
    if not folder.parent.is_dir():
        return []
    starts = tuple(f".{folder.name}{mark}" for mark in _UNFINISHED)
    return sorted(path for path in folder.parent.iterdir() if path.name.startswith(starts))


def _keep_previous(folder: Path, scratch: Path) -> None:
    """Put the last complete state into the new folder: linked, since a copy would double it."""
    candidates = (folder, folder / _PREVIOUS)
    last = next((path for path in candidates if _read_document(path)), None)
    if last is None:
        return
    previous = scratch / _PREVIOUS
    previous.mkdir()
    for name in (_TENSORS, _COUNTERS):
        try:
            os.link(last / name, previous / name)
        except OSError:
            # A file system without hard links.
            shutil.copy2(last / name, previous / name)


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): value for n, value in tensors.items() if n.startswith(prefix)}
