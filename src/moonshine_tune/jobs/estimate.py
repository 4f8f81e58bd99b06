"""How much memory a run will take, what would fit, and settings that do: before anything loads."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from moonshine_tune.adapter import SITES
from moonshine_tune.catalog import lookup_model, nearest_hint
from moonshine_tune.checkpoints import is_checkpoint_folder
from moonshine_tune.config import RunSettings
from moonshine_tune.decode import TOKENS_PER_SECOND
from moonshine_tune.device import choose_device
from moonshine_tune.encoder_cache import _PREPARE_BATCH_S
from moonshine_tune.errors import MachineError, RequestError
from moonshine_tune.holdout import _BATCH_S, _STORED_BATCH_S
from moonshine_tune.machine import available_memory_mb
from moonshine_tune.memory import MemoryEstimate, MemoryModel, RunShape
from moonshine_tune.progress import Progress
from moonshine_tune.shapes import config_of_folder, published_config

GIB = 1 << 30
MAC_16_GB_GIB = 9.5
_MAX_CLIP_S, _MAX_BATCH = 60, 64
_KINDS = ("cpu", "mps", "cuda")


@dataclass(frozen=True)
class Workload:
    """What a run works on, as far as memory goes.

    Attributes:
        clip_s: longest clip, seconds; None takes what the settings allow.
        tokens: of its text; None takes the most that a clip of that length can have.
        audio_s: seconds of audio (training, dev, canary and replay) whose encoder states would be
            kept; None assumes that they fill `device.state_cache_mb`.
        replays: the run has replay audio.
        scores: the dev set is scored during the run.
    """

    clip_s: float | None = None
    tokens: int | None = None
    audio_s: float | None = None
    replays: bool = False
    scores: bool = True


@dataclass(frozen=True)
class Budget:
    """Memory that a run may take, and why that much."""

    bytes: int
    reason: str


@dataclass(frozen=True)
class EstimateResult:
    """The estimate with what would fit the budget.

    Attributes:
        longest_clip_s: with the batch size as it is; 0 where not even one second fits.
        largest_batch: with the clip length as it is; 0 where not even one clip fits.
        remarks: what was assumed, and why.
    """

    model: str
    device: str
    estimate: MemoryEstimate
    budget: Budget
    fits: bool
    longest_clip_s: int
    largest_batch: int
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class FittedSettings:
    """Settings that fit the budget, and each change with its reason (none where all fitted)."""

    settings: RunSettings
    changes: tuple[str, ...]
    estimate: MemoryEstimate
    budget: Budget


def estimate_run(
    settings: RunSettings,
    workload: Workload,
    progress: Progress,
    *,
    device: str | None = None,
    budget_gib: float | None = None,
) -> EstimateResult:
    """The peak memory of a run by phase and part, and what would fit; no weights are read.

    Args:
        device: `cpu`, `mps` or `cuda`, whether this machine has it or not; None as for training.
        budget_gib: memory that it may take; None decides by the device.

    Raises:
        RequestError: no such model, device or clip length.
        MachineError: a device that is not here, without a budget.
    """
    kind = _device_kind(device or settings.device.name)
    budget = choose_budget(kind, budget_gib)
    shape, remarks = _shape(settings, workload, kind)
    model = MemoryModel(_config(settings.model), shape)
    found = model.estimate()

    def with_clip(seconds: int) -> int:
        tokens = _tokens(settings, workload.tokens, seconds)
        return model.estimate(clip_s=float(seconds), tokens=tokens).total

    # The other phases do not depend on the micro-batch.
    others = max(phase.total for phase in found.phases if phase.name != "step")

    def with_batch(size: int) -> int:
        return max(others, model.estimate(batch_size=size, only="step").total)

    progress.say("looking for the longest clip and the largest batch that fit")
    clip = _largest(_MAX_CLIP_S, budget.bytes, with_clip)
    batch = _largest(_MAX_BATCH, budget.bytes, with_batch)
    return EstimateResult(
        model=settings.model,
        device=kind,
        estimate=found,
        budget=budget,
        fits=found.total <= budget.bytes,
        longest_clip_s=clip,
        largest_batch=batch,
        remarks=remarks,
    )


def fit_settings(
    settings: RunSettings,
    workload: Workload,
    *,
    device: str | None = None,
    budget_gib: float | None = None,
) -> FittedSettings:
    """Settings nearest to these that fit the budget, cheapest change first.

    In this order: fewer clips at a time with more accumulation (the same effective batch, only
    slower), activations recomputed (a third more time), frozen weights in 16 bits, shorter clips
    (data is left out). A change is kept only as far as it is needed.

    Raises:
        RequestError: nothing fits; names the smallest estimate.
    """
    kind = _device_kind(device or settings.device.name)
    budget = choose_budget(kind, budget_gib)
    changes: list[str] = []
    current, load = settings, workload
    found = _estimate(current, load, kind)
    for change in (_smaller_batch, _recompute, _sixteen_bits, _shorter_clips):
        while found.total > budget.bytes:
            step = change(current, load)
            if step is None:
                break
            before = found.total
            current, load, told = step
            found = _estimate(current, load, kind)
            changes.append(f"{told}: {before / GIB:.2f} → {found.total / GIB:.2f} GiB")
    if found.total > budget.bytes:
        raise RequestError(
            f"{settings.model} does not fit {budget.bytes / GIB:.1f} GiB ({budget.reason}): "
            f"{found.total / GIB:.2f} GiB with every saving",
            hint="take a smaller model or adapter sites in the decoder only, or give more memory "
            "with --budget-gib",
        )
    return FittedSettings(current, tuple(changes), found, budget)


_Step = tuple[RunSettings, Workload, str]


def _smaller_batch(settings: RunSettings, workload: Workload) -> _Step | None:
    train = settings.train
    if train.batch_size == 1:
        return None
    size = train.batch_size // 2
    factor = -(-train.batch_size // size)
    changed = _with_train(settings, batch_size=size, accumulation=train.accumulation * factor)
    told = f"train.batch_size={size}, train.accumulation={changed.train.accumulation}"
    return changed, workload, f"{told} (about the same effective batch)"


def _recompute(settings: RunSettings, workload: Workload) -> _Step | None:
    if settings.train.gradient_checkpointing:
        return None
    changed = _with_train(settings, gradient_checkpointing=True)
    return changed, workload, "train.gradient_checkpointing=true (a third more time)"


def _sixteen_bits(settings: RunSettings, workload: Workload) -> _Step | None:
    if settings.device.frozen_weights == "bfloat16":
        return None
    device = settings.device.model_copy(update={"frozen_weights": "bfloat16"})
    changed = settings.model_copy(update={"device": device})
    return changed, workload, "device.frozen_weights=bfloat16 (half the weights)"


def _shorter_clips(settings: RunSettings, workload: Workload) -> _Step | None:
    longest = _longest_clip(settings, workload)
    if longest <= 1:
        return None
    seconds = float(max(math.floor(longest * 0.8), 1))
    data = settings.data.model_copy(update={"max_clip_s": seconds})
    changed = settings.model_copy(update={"data": data})
    tokens = None if workload.tokens is None else math.ceil(workload.tokens * seconds / longest)
    shorter = Workload(seconds, tokens, workload.audio_s, workload.replays, workload.scores)
    return changed, shorter, f"data.max_clip_s={seconds:g} (longer clips are left out)"


def _with_train(settings: RunSettings, **values: Any) -> RunSettings:
    return settings.model_copy(update={"train": settings.train.model_copy(update=values)})


def _estimate(settings: RunSettings, workload: Workload, kind: str) -> MemoryEstimate:
    shape, _ = _shape(settings, workload, kind)
    return MemoryModel(_config(settings.model), shape).estimate()


def choose_budget(kind: str, budget_gib: float | None) -> Budget:
    """The memory that a run may take on a kind of device.

    Raises:
        RequestError: not a positive number.
        MachineError: a CUDA device that is not here, without a budget.
    """
    if budget_gib is not None:
        if not (math.isfinite(budget_gib) and budget_gib > 0):
            raise RequestError(f"a budget of {budget_gib} GiB", hint="such as: --budget-gib 9.5")
        return Budget(round(budget_gib * GIB), "asked for")
    if kind == "mps":
        reason = (
            "a 16 GB Mac: runs have been stopped by the system from 9.1 to 9.5 GiB on, "
            "the rest is the system's and the screen's"
        )
        return Budget(round(MAC_16_GB_GIB * GIB), reason)
    if kind == "cuda":
        if not torch.cuda.is_available():
            raise MachineError(
                "no CUDA device here to ask for its memory", hint="name it: --budget-gib 24"
            )
        total = int(torch.cuda.get_device_properties(0).total_memory)
        return Budget(round(0.9 * total), "nine tenths of the device's memory")
    available = available_memory_mb()
    if available is None:
        raise MachineError("the free memory is not known", hint="name it: --budget-gib 8")
    return Budget(round(0.9 * available * 1_000_000), "nine tenths of the memory free now")


def _device_kind(name: str) -> str:
    kind = name.strip().lower().partition(":")[0]
    if kind == "auto":
        return choose_device(None).device.type
    if kind not in _KINDS:
        raise RequestError(f"no device is called {name!r}", hint="use auto, cpu, mps or cuda")
    return kind


def _config(model: str) -> Any:
    record = lookup_model(model)
    folder = Path(model).expanduser()
    if folder.is_dir() and (record is None or "/" in model):
        if not is_checkpoint_folder(folder):
            raise RequestError(
                "not a checkpoint folder",
                where=folder,
                hint="of a runtime folder, make one: moonshine-tune models rebuild",
            )
        return config_of_folder(folder)
    if record is None:
        raise RequestError(f"the shape of {model!r} is not known", hint=nearest_hint(model))
    return published_config(record.name)


def _tokens(settings: RunSettings, told: int | None, clip_s: float) -> int:
    """The most tokens that decoding allows a clip of that length, unless told otherwise."""
    if told is not None:
        return told
    record = lookup_model(settings.model)
    rate = record.tokens_per_second if record else TOKENS_PER_SECOND
    return max(math.ceil(clip_s * rate), 1)


def _shape(
    settings: RunSettings, workload: Workload, kind: str
) -> tuple[RunShape, tuple[str, ...]]:
    train, adapter = settings.train, settings.adapter
    clip_s = _longest_clip(settings, workload)
    if not (math.isfinite(clip_s) and clip_s > 0):
        raise RequestError(f"a clip of {clip_s} s", hint="such as: --clip-s 15")
    if workload.tokens is not None and workload.tokens < 1:
        raise RequestError(f"{workload.tokens} tokens in a clip", hint="such as: --tokens 60")
    remarks = []
    if workload.clip_s is None:
        remarks.append(f"clips of {clip_s:g} s, the longest that data.max_clip_s lets in")
    elif workload.clip_s > clip_s:
        remarks.append(f"clips longer than data.max_clip_s = {clip_s:g} s are left out")
    tokens = _tokens(settings, workload.tokens, clip_s)
    if workload.tokens is None:
        remarks.append(f"{tokens} tokens a clip, the most that decoding allows for that length")
    storage = settings.device.state_storage
    keeps = settings.device.state_cache_mb > 0 or storage == "disk"
    stores = keeps and not _touches_encoder(adapter.sites)
    audio_s = math.inf if workload.audio_s is None else workload.audio_s
    if stores and workload.audio_s is None and storage != "disk":
        room = settings.device.state_cache_mb
        remarks.append(f"stored encoder states fill device.state_cache_mb = {room}")
    replays = workload.replays and settings.retain.weight > 0
    shape = RunShape(
        device=kind,
        sites=adapter.sites,
        rank=adapter.rank,
        dropout=adapter.dropout,
        frozen_dtype=getattr(torch, settings.device.frozen_weights),
        mixed=_is_mixed(settings.device.dtype, kind),
        batch_size=train.batch_size,
        clip_s=clip_s,
        tokens=tokens,
        gradient_checkpointing=train.gradient_checkpointing,
        stored_s=audio_s if stores else 0.0,
        stored_limit_mb=0 if storage == "disk" else settings.device.state_cache_mb,
        releases_encoder=stores and storage != "memory",
        replay_clips=min(settings.retain.clips_per_step, train.batch_size) if replays else 0,
        score_batch_s=(_STORED_BATCH_S if stores else _BATCH_S) if workload.scores else 0.0,
        prepare_batch_s=_PREPARE_BATCH_S,
    )
    return shape, tuple(remarks)


def _longest_clip(settings: RunSettings, workload: Workload) -> float:
    allowed = settings.data.max_clip_s
    return allowed if workload.clip_s is None else min(workload.clip_s, allowed)


def _touches_encoder(sites: str) -> bool:
    layer = "model.encoder.layers.0."
    names = [f"{layer}self_attn.{name}_proj" for name in "qkvo"] + [f"{layer}mlp.fc1"]
    return any(re.fullmatch(SITES[sites], name) for name in names)


def _is_mixed(dtype: str, kind: str) -> bool:
    # As `device.choose_dtype` chooses, for devices that are not here too.
    return dtype == "bfloat16" or (dtype == "auto" and kind == "cuda")


def _largest(most: int, budget: int, total: Callable[[int], int]) -> int:
    """The largest number from 1 to `most` whose total is within the budget, 0 where none is.

    Totals grow with the number: a straight line between what fits and what does not tells where
    to look next, which takes about half as many looks as halving.
    """
    low, low_total = 0, 0
    high, high_total = most, total(most)
    if high_total <= budget:
        return most
    while high - low > 1:
        guess = low + round((high - low) * (budget - low_total) / (high_total - low_total))
        middle = min(max(guess, low + 1), high - 1)
        found = total(middle)
        if found <= budget:
            low, low_total = middle, found
        else:
            high, high_total = middle, found
    return low
