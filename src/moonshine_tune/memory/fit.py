"""Whether a run fits its memory, asked before anything loads, and settings that do."""

import math
from dataclasses import dataclass, replace
from typing import Any

from moonshine_tune.config.resolve import ResolvedSettings
from moonshine_tune.config.settings import RunSettings
from moonshine_tune.core.device import return_freed_memory_to_os
from moonshine_tune.core.errors import RequestError
from moonshine_tune.corpus.manifest import Manifest
from moonshine_tune.inference.dataset import TrainingData
from moonshine_tune.memory.estimate import (
    GIB,
    TIGHT_HEAP,
    Budget,
    Workload,
    choose_budget,
    device_kind,
    estimate_memory,
    longest_clip,
    model_config,
    settled,
)
from moonshine_tune.memory.model import MemoryEstimate


@dataclass(frozen=True)
class FittedSettings:
    """Settings that fit the budget, and each change with its reason (none where all fitted)."""

    settings: RunSettings
    changes: tuple[str, ...]
    estimate: MemoryEstimate
    budget: Budget


@dataclass(frozen=True)
class MemoryCheck:
    """What was found out before a run: the settings to take, and what to say about them.

    Attributes:
        estimate: None where the model's shape is not known before it is fetched.
    """

    resolved: ResolvedSettings
    estimate: MemoryEstimate | None
    remarks: tuple[str, ...]

    @property
    def expected_mb(self) -> int | None:
        """The estimated peak, in MB."""
        return None if self.estimate is None else self.estimate.total // 1_000_000


def check_memory(
    resolved: ResolvedSettings,
    data: TrainingData,
    *,
    fit: bool = False,
    refuse: bool = True,
    processes: int = 1,
) -> MemoryCheck:
    """The estimate of a run on its own manifests, and its settings made to fit where asked for.

    On Linux's CPU the process's heap is kept tight from here on where the run needs that.

    Args:
        fit: change the settings where they do not fit; else that is an error.
        refuse: a resumed run is only warned: it has found its micro-batch by itself.
        processes: that share this machine's memory.

    Raises:
        RequestError: it does not fit, or nothing does.
    """
    settings = resolved.settings
    try:
        model_config(settings.model)
    except RequestError as error:
        return MemoryCheck(resolved, None, (f"memory: not estimated, {error.message}",))
    workload = workload_of(settings, data)
    kind = device_kind(settings.device.name)
    budget = choose_budget(kind, settings.device.budget_gib)
    if kind == "cpu" and processes > 1:
        budget = Budget(budget.bytes // processes, f"{budget.reason}, for {processes} processes")
    found = settled(estimate_memory(settings, workload, kind), budget)
    changes: tuple[str, ...] = ()
    if found.total > budget.bytes:
        if fit:
            fitted = fit_settings(settings, workload, budget_gib=budget.bytes / GIB)
            resolved = _with_sources(resolved, fitted.settings)
            found, changes = fitted.estimate, fitted.changes
        elif refuse:
            raise _does_not_fit(settings, found, budget)
    remarks = [
        f"memory: {found.total / GIB:.2f} GiB expected at the peak ({found.peak.name}) of "
        f"{budget.bytes / GIB:.2f} GiB: {budget.reason}",
        *(f"memory: {change}" for change in changes),
    ]
    if kind == "cpu" and not found.shape.loose_heap and return_freed_memory_to_os():
        remarks.append(f"memory: {TIGHT_HEAP}")
    return MemoryCheck(resolved, found, tuple(remarks))


def _does_not_fit(settings: RunSettings, found: MemoryEstimate, budget: Budget) -> RequestError:
    shape = found.shape
    return RequestError(
        f"{settings.model} would need {found.total / GIB:.2f} GiB ({found.peak.name}) of "
        f"{budget.bytes / GIB:.2f} GiB: {budget.reason}; batch {shape.batch_size}, clips of "
        f"{shape.clip_s:g} s, sites {shape.sites}",
        hint="let it choose settings that fit with --fit, see the parts with `moonshine-tune "
        "estimate`, or allow more with --set device.budget_gib=12",
    )


def _with_sources(resolved: ResolvedSettings, fitted: RunSettings) -> ResolvedSettings:
    before, after = resolved.settings.model_dump(), fitted.model_dump()
    changed = {
        f"{section}.{name}": "--fit"
        for section, values in after.items()
        if isinstance(values, dict)
        for name, value in values.items()
        if before[section][name] != value
    }
    return ResolvedSettings(fitted, resolved.sources | changed)


def workload_of(settings: RunSettings, data: TrainingData) -> Workload:
    """What a run works on, by the lengths of its utterances."""
    longest = settings.data.max_clip_s
    lengths = {name: _lengths(manifest, longest) for name, manifest in data.by_name.items()}
    every = [length for found in lengths.values() for length in found]
    # Stored states of changed versions take room as the clips' own do.
    augment = settings.augment
    versions = {"train": 1 + augment.variants, "dev": 1 + augment.dev} if augment.share else {}
    replays = data.replay is not None
    if not every:
        return Workload(replays=replays)
    # The teacher listens to replay in the scorer's batches. Without a dev manifest any clips of
    # train are held out: no bound then.
    scored = [sum(found) for name, found in lengths.items() if name != "train"]
    return Workload(
        clip_s=max(every),
        audio_s=sum(versions.get(name, 1) * sum(found) for name, found in lengths.items()),
        replays=replays,
        score_s=max(scored) if data.dev is not None else None,
    )


def _lengths(manifest: Manifest, longest: float) -> list[float]:
    known = (utterance.known_seconds for utterance in manifest.utterances)
    return [length for length in known if length is not None and 0 < length <= longest]


def fit_settings(
    settings: RunSettings,
    workload: Workload,
    *,
    device: str | None = None,
    budget_gib: float | None = None,
) -> FittedSettings:
    """Settings nearest to these that fit the budget, cheapest change first.

    In this order: encoder states on disk instead of in memory (in 16 bits), fewer clips at a time
    with more accumulation (the same effective batch, only slower), activations recomputed (a third
    more time), frozen weights in 16 bits, shorter clips (data is left out). A change is kept only
    as far as it is needed.

    Raises:
        RequestError: nothing fits; names the smallest estimate.
    """
    kind = device_kind(device or settings.device.name)
    allowed = settings.device.budget_gib if budget_gib is None else budget_gib
    budget = choose_budget(kind, allowed)
    changes: list[str] = []
    current, load = settings, workload
    found = settled(estimate_memory(current, load, kind), budget)
    for change in (_states_on_disk, _smaller_batch, _recompute, _sixteen_bits, _shorter_clips):
        while found.total > budget.bytes:
            step = change(current, load)
            if step is None:
                break
            before = found.total
            current, load, told = step
            found = settled(estimate_memory(current, load, kind), budget)
            changes.append(f"{told}: {before / GIB:.2f} → {found.total / GIB:.2f} GiB")
    if found.total > budget.bytes:
        raise RequestError(
            f"{settings.model} does not fit {budget.bytes / GIB:.1f} GiB ({budget.reason}): "
            f"{found.total / GIB:.2f} GiB with every saving",
            hint="take a smaller model or adapter sites in the decoder only, or give more memory "
            "with --budget-gib",
        )
    return FittedSettings(current, tuple(changes), found, budget)


# States of ten minutes are small beside everything else, even of medium (92 MB).
_FEW_SECONDS = 600.0

_Step = tuple[RunSettings, Workload, str]


def _states_on_disk(settings: RunSettings, workload: Workload) -> _Step | None:
    few = workload.audio_s is not None and workload.audio_s <= _FEW_SECONDS
    if few or settings.device.state_storage == "disk" or not settings.device.state_cache_mb:
        return None
    device = settings.device.model_copy(update={"state_storage": "disk"})
    changed = settings.model_copy(update={"device": device})
    return changed, workload, "device.state_storage=disk (mapped, in 16 bits)"


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
    longest = longest_clip(settings, workload)
    if longest <= 1:
        return None
    seconds = float(max(math.floor(longest * 0.8), 1))
    data = settings.data.model_copy(update={"max_clip_s": seconds})
    changed = settings.model_copy(update={"data": data})
    tokens = None if workload.tokens is None else math.ceil(workload.tokens * seconds / longest)
    # What is scored loses its long clips too: as much as if all lengths were equally common.
    scored = None if workload.score_s is None else workload.score_s * seconds / longest
    shorter = replace(workload, clip_s=seconds, tokens=tokens, score_s=scored)
    return changed, shorter, f"data.max_clip_s={seconds:g} (longer clips are left out)"


def _with_train(settings: RunSettings, **values: Any) -> RunSettings:
    return settings.model_copy(update={"train": settings.train.model_copy(update=values)})
