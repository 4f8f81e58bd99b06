"""Peak memory of a run, and the largest clips and batches that fit, before anything is loaded."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from moonshine_tune.config.settings import RunSettings
from moonshine_tune.core.device import (
    choose_device,
    choose_frozen_format,
    heap_keeps_freed_memory,
    mps_memory_bytes,
)
from moonshine_tune.core.errors import MachineError, RequestError
from moonshine_tune.core.hardware import available_memory_mb, total_memory_mb
from moonshine_tune.core.names import home_expanded
from moonshine_tune.core.progress import Progress
from moonshine_tune.inference.batching import encode_batch_s
from moonshine_tune.inference.dataset import TrainingData
from moonshine_tune.inference.scored_set import score_batch_s
from moonshine_tune.memory.duration import Duration, estimate_duration
from moonshine_tune.memory.model import MemoryEstimate, MemoryModel
from moonshine_tune.memory.run_shape import RunShape
from moonshine_tune.models.base import TOKENS_PER_SECOND
from moonshine_tune.models.checkpoint import is_checkpoint_folder
from moonshine_tune.models.lora import TARGET_MODULES
from moonshine_tune.registry.catalog import lookup_model, nearest_hint
from moonshine_tune.registry.published_configs import config_of_folder, published_config

GIB = 1 << 30
MAC_16_GB_GIB = 9.5
# What Metal recommends as the most on a Mac with 16 GB (`recommended_max_memory`).
_METAL_16_GB = 11_453_246_464
# What the system, the screen and other programs keep at least; it bounds a Mac with 8 GB.
_SYSTEM_GIB = 4.5
_MAX_CLIP_S, _MAX_BATCH = 60, 64
# Of replay audio, if nothing is known: 150 clips of 12 s.
_REPLAY_S = 1800.0
_KINDS = ("cpu", "mps", "cuda")
TIGHT_HEAP = "freed memory goes back to the system at once: half the memory, up to a third slower"


@dataclass(frozen=True)
class Workload:
    """The audio of a run, as far as its memory depends on it.

    Attributes:
        clip_s: longest clip, seconds; None assumes the longest that the settings allow.
        tokens: in its transcript; None assumes the most that decoding allows for that length.
        audio_s: seconds of audio (training, dev, canary and replay) whose encoder states are
            stored; None assumes that they fill `device.state_cache_mb`.
        replays: the run has replay audio.
        replay_s: seconds of it that are used; None assumes half an hour.
        scores: the dev set is scored during the run.
        score_s: seconds of audio in the largest set that is scored during the run; None assumes
            that it fills a batch of the scorer.
    """

    clip_s: float | None = None
    tokens: int | None = None
    audio_s: float | None = None
    replays: bool = False
    replay_s: float | None = None
    scores: bool = True
    score_s: float | None = None


@dataclass(frozen=True)
class Budget:
    """Memory that a run may take, and the reason for it."""

    bytes: int
    reason: str


@dataclass(frozen=True)
class EstimateResult:
    """An estimate, and what would fit the budget.

    Attributes:
        longest_clip_s: with the present batch size; 0 if not even one second fits.
        largest_batch: with the present clip length; 0 if not even one clip fits.
        remarks: assumptions and their reasons.
        instead: of full fine-tuning that does not fit, what takes less, and how much.
        disk: bytes by what a run leaves there: `run folder`, and `encoder states` in the cache.
        duration: expected time; None where it was not measured.
    """

    model: str
    device: str
    estimate: MemoryEstimate
    budget: Budget
    fits: bool
    longest_clip_s: int
    largest_batch: int
    remarks: tuple[str, ...]
    disk: Mapping[str, int]
    duration: Duration | None = None
    instead: tuple[str, ...] = ()


def estimate_run(
    settings: RunSettings,
    workload: Workload,
    progress: Progress,
    *,
    device: str | None = None,
    budget_gib: float | None = None,
    timed: TrainingData | None = None,
) -> EstimateResult:
    """The peak memory of a run by phase and part, and what would fit; reads no weights.

    Args:
        device: `cpu`, `mps` or `cuda`, whether this machine has it or not; None as in training.
        budget_gib: memory that the run may take; None chooses by device.
        timed: the manifests of the run, where its time is measured too: for some seconds with
            random weights, if the run fits and its device is this machine's CPU.

    Raises:
        RequestError: no such model, device or clip length.
        MachineError: no budget, and the device is not on this machine.
    """
    kind = device_kind(device or settings.device.name)
    budget = choose_budget(kind, settings.device.budget_gib if budget_gib is None else budget_gib)
    shape, remarks = run_shape(settings, workload, kind)
    config = model_config(settings.model)
    model = MemoryModel(config, shape)
    estimate = model.estimate().within(budget.bytes)
    if shape.loose_heap and not estimate.shape.loose_heap:
        remarks += (TIGHT_HEAP,)
    progress.say("looking for the longest clip and the largest batch that fit")
    search = _SizeSearch(model, estimate.tightened(), budget.bytes)
    duration = None
    if timed is not None and estimate.total <= budget.bytes:
        progress.say("measuring some steps")
        duration = estimate_duration(config, shape, settings, timed)
    return EstimateResult(
        model=settings.model,
        device=kind,
        estimate=estimate,
        budget=budget,
        fits=estimate.total <= budget.bytes,
        longest_clip_s=search.longest_clip(partial(_tokens, settings, workload)),
        largest_batch=search.largest_batch(),
        remarks=remarks,
        disk=_disk_bytes(settings, estimate),
        duration=duration,
        instead=less_than_full(settings, workload, kind) if estimate.total > budget.bytes else (),
    )


def less_than_full(settings: RunSettings, workload: Workload, kind: str) -> tuple[str, ...]:
    """What takes less memory than full fine-tuning, with its peak; empty for an adapter."""
    if settings.adapter.kind != "full":
        return ()
    lora = {"kind": "lora"}
    tried = {"a LoRA adapter (without --full)": lora}
    if settings.adapter.sites == "all":
        decoder = {"sites": "decoder"}
        name = "the decoder alone (--set train.encoder_learning_rate=0)"
        tried = {name: decoder, **tried}
    lines = []
    for name, changes in tried.items():
        adapter = settings.adapter.model_copy(update=changes)
        smaller = settings.model_copy(update={"adapter": adapter})
        total = estimate_memory(smaller, workload, kind).tightened().total
        lines.append(f"{name}: {total / GIB:.2f} GiB")
    return tuple(lines)


def _disk_bytes(settings: RunSettings, estimate: MemoryEstimate) -> dict[str, int]:
    """What a run writes: its folder, and stored states that memory does not hold."""
    adapter = 4 * estimate.adapter_parameters
    # In each of two saved states: the adapter, the best, the chosen one, and two moments.
    copies = 1 + 2 * 5 + settings.select.average_last
    disk = {"run folder": copies * adapter}
    shape, device = estimate.shape, settings.device
    if not math.isfinite(shape.stored_s):
        return disk
    states = estimate.states_bytes
    fits = states <= device.state_cache_mb * 1_000_000 and device.state_storage == "auto"
    if shape.stored_s and not fits and device.state_storage != "memory":
        itemsize = getattr(torch, device.state_format).itemsize
        states = states * itemsize // shape.frozen_dtype.itemsize
        disk["encoder states"] = min(states, device.state_disk_mb * 1_000_000)
    return disk


_estimates: dict[tuple[str, RunShape], MemoryEstimate] = {}


def estimate_memory(settings: RunSettings, workload: Workload, kind: str) -> MemoryEstimate:
    """The peak memory of a run on a kind of device.

    Estimates are cached for the life of the process: the trials of a search share their shapes.
    """
    shape, _ = run_shape(settings, workload, kind)
    config = model_config(settings.model)
    key = (config.to_json_string(use_diff=False), shape)
    if key not in _estimates:
        _estimates[key] = MemoryModel(config, shape).estimate()
    return _estimates[key]


class _SizeSearch:
    """Searches the largest sizes that fit, counting as few phases as possible.

    A phase that fits at the largest size is not counted again.
    """

    def __init__(self, model: MemoryModel, estimate: MemoryEstimate, budget: int) -> None:
        self._model, self._estimate, self._budget = model, estimate, budget

    def longest_clip(self, tokens: Callable[[float], int]) -> int:
        """Seconds, with the present batch size; `tokens` of a clip by its seconds."""

        def totals(seconds: int, only: str | None = None) -> dict[str, int]:
            return self._totals(clip_s=float(seconds), tokens=tokens(seconds), only=only)

        return self._largest(_MAX_CLIP_S, self._estimate.shape.clip_s, totals)

    def largest_batch(self) -> int:
        """Clips in a micro-batch, with the present clip length."""
        # Only the step depends on the micro-batch.
        if any(p.total > self._budget for p in self._estimate.phases if p.name != "step"):
            return 0

        def totals(size: int, only: str | None = None) -> dict[str, int]:
            return self._totals(batch_size=size, only="step")

        return self._largest(_MAX_BATCH, self._estimate.shape.batch_size, totals)

    def _largest(
        self, most: int, present: float, totals: Callable[[int, str | None], dict[str, int]]
    ) -> int:
        known = {phase.name: phase.total for phase in self._estimate.phases}
        best = most
        for name, total in totals(most, None).items():
            if total > self._budget and best:
                seen = {most: total}
                if present == int(present) and present < most:
                    seen[int(present)] = known[name]

                def total_at(size: int, phase: str = name) -> int:
                    return totals(size, phase)[phase]

                best = min(best, _largest(most, self._budget, total_at, seen))
        return best

    def _totals(self, **changes: Any) -> dict[str, int]:
        estimate = self._model.estimate(**changes).tightened()
        return {phase.name: phase.total for phase in estimate.phases}


def _largest(
    most: int, budget: int, total: Callable[[int], int], known: Mapping[int, int] | None = None
) -> int:
    """The largest size from 1 to `most` whose total is within the budget; 0 if there is none.

    Totals grow with the size, nearly linearly: interpolation between a size that fits and one that
    does not needs far fewer evaluations than bisection.

    Args:
        known: totals that need no evaluation.
    """
    totals = dict(known or {})

    def fits(size: int) -> bool:
        if size not in totals:
            totals[size] = total(size)
        return totals[size] <= budget

    if fits(most):
        return most
    low = max((size for size, value in totals.items() if value <= budget), default=0)
    high = min(size for size, value in totals.items() if value > budget)
    while high - low > 1:
        # Through two known points; until a size is known to fit, through the two smallest.
        anchors = [low, high] if low else (sorted(totals) if len(totals) > 1 else [0, high])[:2]
        start = totals.get(anchors[0], 0)
        rise = (totals[anchors[1]] - start) / (anchors[1] - anchors[0])
        guess = anchors[0] + math.floor((budget - start) / rise) if rise > 0 else low + 1
        middle = min(max(guess, low + 1), high - 1)
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def choose_budget(kind: str, budget_gib: float | None) -> Budget:
    """The memory that a run may take on a kind of device.

    Raises:
        RequestError: not a positive number.
        MachineError: no budget, and the memory of the device is not known here.
    """
    if budget_gib is not None:
        if not (math.isfinite(budget_gib) and budget_gib > 0):
            raise RequestError(f"a budget of {budget_gib} GiB", hint="such as: --budget-gib 9.5")
        return Budget(round(budget_gib * GIB), "requested")
    if kind == "mps":
        recommended = mps_memory_bytes()
        if recommended is None:
            reason = (
                "for a 16 GB Mac: macOS has stopped runs from 9.1 to 9.5 GiB on, because the "
                "system and the screen need the rest"
            )
            return Budget(round(MAC_16_GB_GIB * GIB), reason)
        share = MAC_16_GB_GIB * GIB / _METAL_16_GB
        rest = total_memory_mb() * 1_000_000 - _SYSTEM_GIB * GIB
        reason = (
            f"of the {recommended / GIB:.1f} GiB that Metal recommends as the most on this Mac, "
            "because the system and the screen need the rest"
        )
        return Budget(round(max(min(share * recommended, rest), recommended / 4)), reason)
    if kind == "cuda":
        if not torch.cuda.is_available():
            raise MachineError(
                "there is no CUDA device here, so its memory is not known",
                hint="give it: --budget-gib 24",
            )
        total = int(torch.cuda.get_device_properties(0).total_memory)
        return Budget(round(0.9 * total), "nine tenths of the device's memory")
    available = available_memory_mb()
    if available is None:
        raise MachineError("the free memory is not known", hint="give it: --budget-gib 8")
    return Budget(round(0.9 * available * 1_000_000), "nine tenths of the memory that is free now")


def device_kind(name: str) -> str:
    """`cpu`, `mps` or `cuda`; for `auto`, the kind of this machine's best device.

    Raises:
        RequestError: no device has that name.
    """
    kind = name.strip().lower().partition(":")[0]
    if kind == "auto":
        return choose_device(None).device.type
    if kind not in _KINDS:
        raise RequestError(f"no device is called {name!r}", hint="use auto, cpu, mps or cuda")
    return kind


def model_config(model: str) -> Any:
    """The configuration of a catalog name or of a checkpoint folder.

    Raises:
        RequestError: a folder without a configuration, or a name whose shape is not known.
    """
    record = lookup_model(model)
    folder = home_expanded(model)
    if folder.is_dir() and (record is None or "/" in model):
        if not is_checkpoint_folder(folder):
            raise RequestError(
                "not a checkpoint folder",
                where=folder,
                hint="make one from a runtime folder: moonshine-tune models rebuild",
            )
        return config_of_folder(folder)
    if record is None:
        raise RequestError(f"the shape of {model!r} is not known", hint=nearest_hint(model))
    return published_config(record.name)


def _tokens(settings: RunSettings, workload: Workload, clip_s: float) -> int:
    """Tokens of a clip of that length: as the workload says, else the most that decoding allows."""
    if workload.tokens is not None:
        return workload.tokens
    record = lookup_model(settings.model)
    rate = record.tokens_per_second if record else TOKENS_PER_SECOND
    return max(math.ceil(clip_s * rate), 1)


def run_shape(
    settings: RunSettings, workload: Workload, kind: str
) -> tuple[RunShape, tuple[str, ...]]:
    """Everything that a run's memory depends on, and the assumptions in it."""
    train, adapter, device = settings.train, settings.adapter, settings.device
    clip_s = longest_clip(settings, workload)
    if not (math.isfinite(clip_s) and clip_s > 0):
        raise RequestError(f"a clip of {clip_s} s", hint="such as: --clip-s 15")
    if workload.tokens is not None and workload.tokens < 1:
        raise RequestError(f"{workload.tokens} tokens in a clip", hint="such as: --tokens 60")
    remarks = []
    if workload.clip_s is None:
        remarks.append(f"clips of {clip_s:g} s, the longest that data.max_clip_s allows")
    elif workload.clip_s > clip_s:
        remarks.append(f"clips longer than data.max_clip_s = {clip_s:g} s are skipped")
    tokens = _tokens(settings, workload, clip_s)
    if workload.tokens is None:
        remarks.append(f"{tokens} tokens a clip, the most that decoding allows for that length")
    frozen = choose_frozen_format(torch.device(kind), device.frozen_weights)
    if frozen.dtype != getattr(torch, device.frozen_weights):
        remarks.append(frozen.reason)
    on_disk = device.state_storage == "disk"
    stores = device.state_cache_mb > 0 or on_disk
    skips_encoder = stores and not _touches_encoder(adapter.sites)
    audio_s = math.inf if workload.audio_s is None else workload.audio_s
    if stores and workload.audio_s is None and not on_disk:
        remarks.append(f"stored states fill device.state_cache_mb = {device.state_cache_mb}")
    replays = workload.replays and settings.retain.weight > 0
    score_s = math.inf if workload.score_s is None else max(workload.score_s, clip_s)
    retain = settings.retain
    pulled_s = _REPLAY_S if workload.replay_s is None else workload.replay_s
    pulls = replays and _touches_encoder(adapter.sites) and retain.encoder_weight > 0
    shape = RunShape(
        device=kind,
        sites=adapter.sites,
        rank=adapter.rank,
        dropout=adapter.dropout,
        dora=adapter.dora,
        full=adapter.kind == "full",
        copies=settings.select.average_last,
        loose_heap=kind == "cpu" and heap_keeps_freed_memory(),
        frozen_dtype=frozen.dtype,
        mixed=_is_mixed(device.dtype, kind),
        batch_size=train.batch_size,
        clip_s=clip_s,
        tokens=tokens,
        gradient_checkpointing=train.gradient_checkpointing,
        stored_s=audio_s if stores else 0.0,
        stored_limit_mb=0 if on_disk else device.state_cache_mb,
        releases_encoder=skips_encoder and device.state_storage != "memory",
        replay_clips=min(retain.clips_per_step, train.batch_size) if replays else 0,
        replay_window_s=retain.window_s or math.inf,
        pulled_s=pulled_s if pulls else 0.0,
        score_batch_s=min(score_batch_s(skips_encoder=skips_encoder), score_s)
        if workload.scores
        else 0.0,
        prepare_batch_s=min(encode_batch_s(torch.device(kind)), max(audio_s, clip_s)),
    )
    return shape, tuple(remarks)


def longest_clip(settings: RunSettings, workload: Workload) -> float:
    """Seconds of the longest clip of any step."""
    allowed = settings.data.max_clip_s
    if settings.train.stages:
        allowed = min(allowed, max(stage.max_clip_s for stage in settings.train.stages))
    return allowed if workload.clip_s is None else min(workload.clip_s, allowed)


def _touches_encoder(sites: str) -> bool:
    layer = "model.encoder.layers.0."
    names = [f"{layer}self_attn.{name}_proj" for name in "qkvo"] + [f"{layer}mlp.fc1"]
    return any(re.fullmatch(TARGET_MODULES[sites], name) for name in names)


def _is_mixed(dtype: str, kind: str) -> bool:
    # As `core.device.choose_dtype` chooses, also for devices that are not on this machine.
    return dtype in ("bfloat16", "float16") or (dtype == "auto" and kind == "cuda")
