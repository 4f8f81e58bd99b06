"""Whether a run fits its memory, before anything is loaded, and settings that make it fit."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from moonshine_tune.config.resolve import ResolvedSettings
from moonshine_tune.config.settings import RunSettings
from moonshine_tune.core.device import choose_frozen_format, return_freed_memory_to_os
from moonshine_tune.core.errors import MachineError, RequestError
from moonshine_tune.core.nested import flatten
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
    less_than_full,
    longest_clip,
    model_config,
)
from moonshine_tune.memory.model import MemoryEstimate


@dataclass(frozen=True)
class FittedSettings:
    """Settings that fit the budget, and each change with its reason (none if all fitted)."""

    settings: RunSettings
    changes: tuple[str, ...]
    estimate: MemoryEstimate
    budget: Budget


@dataclass(frozen=True)
class MemoryCheck:
    """The settings of a run after the check of its memory, and remarks for its log.

    Attributes:
        estimate: None if nothing was estimated.
        budget_bytes: most memory that the run may take; None if it is not bounded.
    """

    resolved: ResolvedSettings
    estimate: MemoryEstimate | None
    remarks: tuple[str, ...]
    budget_bytes: int | None = None

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
    """Estimate a run on its own manifests, and change its settings until it fits, with `fit`.

    The check runs on MPS, whose memory the system shares and defends, with `device.budget_gib`, and
    with `fit`. Without it a run that does not fit halves its micro-batch when memory runs out. On
    Linux's CPU, freed memory goes back to the system at once from now on if the run needs that.

    Args:
        fit: change settings that do not fit; without it they are an error.
        refuse: raise that error; a resumed run is only warned, because it has found a micro-batch
            that fits.
        processes: number of processes that share this machine's memory.

    Raises:
        MachineError: the run does not fit, or with `fit`, no settings do.
    """
    kind = device_kind(resolved.settings.device.name)
    resolved, format_remarks = _with_verified_weights(resolved, kind)
    settings = resolved.settings
    if kind != "mps" and settings.device.budget_gib is None and not fit:
        return MemoryCheck(resolved, None, format_remarks)
    budget = choose_budget(kind, settings.device.budget_gib)
    try:
        model_config(settings.model)
    except RequestError as error:
        remark = f"memory: not estimated, {error.message}"
        return MemoryCheck(resolved, None, (*format_remarks, remark), budget.bytes)
    workload = workload_of(settings, data)
    if kind == "cpu" and processes > 1:
        budget = Budget(budget.bytes // processes, f"{budget.reason}, for {processes} processes")
    estimate = estimate_memory(settings, workload, kind).within(budget.bytes)
    changes: tuple[str, ...] = ()
    if estimate.total > budget.bytes:
        if fit:
            fitted = fit_settings(settings, workload, budget_gib=budget.bytes / GIB)
            resolved = _with_sources(resolved, fitted.settings, "--fit")
            estimate, changes = fitted.estimate, fitted.changes
        elif refuse:
            instead = less_than_full(settings, workload, kind)
            raise _does_not_fit(settings, estimate, budget, instead)
    remarks = [
        *format_remarks,
        f"memory: {estimate.total / GIB:.2f} GiB expected at the peak ({estimate.peak.name}) of "
        f"{budget.bytes / GIB:.2f} GiB: {budget.reason}",
        *(f"memory: {change}" for change in changes),
    ]
    if kind == "cpu" and not estimate.shape.loose_heap and return_freed_memory_to_os():
        remarks.append(f"memory: {TIGHT_HEAP}")
    return MemoryCheck(resolved, estimate, tuple(remarks), budget.bytes)


def _does_not_fit(
    settings: RunSettings, estimate: MemoryEstimate, budget: Budget, instead: Sequence[str]
) -> MachineError:
    shape = estimate.shape
    kind = ", full fine-tuning" if shape.full else ""
    less = f"train less: {'; '.join(instead)}; or " if instead else ""
    return MachineError(
        f"{settings.model} would need {estimate.total / GIB:.2f} GiB ({estimate.peak.name}) of "
        f"{budget.bytes / GIB:.2f} GiB: {budget.reason}; batch {shape.batch_size}, clips of "
        f"{shape.clip_s:g} s, sites {shape.sites}{kind}",
        hint=f"{less}choose settings that fit with --fit, list the parts with "
        "`moonshine-tune estimate`, or allow more with --set device.budget_gib=12",
    )


def _with_verified_weights(
    resolved: ResolvedSettings, kind: str
) -> tuple[ResolvedSettings, tuple[str, ...]]:
    """The settings with a format of frozen weights that is verified here, and what changed.

    The run is recorded with it: a resume goes on with the same weights.
    """
    requested = resolved.settings.device.frozen_weights
    frozen = choose_frozen_format(torch.device(kind), requested)
    if frozen.dtype == getattr(torch, requested):
        return resolved, ()
    changed = _changed(resolved.settings, "device", frozen_weights="float32")
    return _with_sources(resolved, changed, "not verified on MPS"), (frozen.reason,)


def _with_sources(resolved: ResolvedSettings, fitted: RunSettings, source: str) -> ResolvedSettings:
    before = dict(flatten(resolved.settings.model_dump()))
    after = flatten(fitted.model_dump())
    changed = {name: source for name, value in after if before[name] != value}
    return ResolvedSettings(fitted, resolved.sources | changed)


# Manifests whose clips are learned; all versions of their states are stored.
_TRAINED = ("train", "synthetic", "pseudo_labels")


def workload_of(settings: RunSettings, data: TrainingData) -> Workload:
    """The workload of a run, by the known lengths of its utterances."""
    longest = settings.data.max_clip_s
    lengths = {name: _lengths(manifest, longest) for name, manifest in data.by_name.items()}
    replays, window_s = data.replay is not None, settings.retain.window_s
    seconds_of = {name: sum(values) for name, values in lengths.items()}
    replay_s = sum(lengths.get("replay", ())[: settings.retain.max_clips])
    if replays and window_s:
        lengths["replay"] = [min(seconds, window_s) for seconds in lengths["replay"]]
    every = [seconds for values in lengths.values() for seconds in values]
    if not every:
        return Workload(replays=replays)
    # Augmented versions are stored as the clips themselves are.
    augment = settings.augment
    versions = {"dev": 1 + augment.dev} if augment.share else {}
    if augment.highest_share:
        versions |= dict.fromkeys(_TRAINED, 1 + augment.variants)
    # The teacher transcribes replay audio in the scorer's batches. Without a dev manifest any
    # training clips are held out: what is scored is not known.
    scored = [total for name, total in seconds_of.items() if name not in _TRAINED]
    return Workload(
        clip_s=max(every),
        audio_s=sum(versions.get(name, 1) * total for name, total in seconds_of.items()),
        replays=replays,
        replay_s=replay_s,
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
    """The nearest settings that fit the budget, cheapest change first.

    In this order: encoder states on disk instead of in memory (in 16 bits); smaller micro-batches
    with more accumulation (the same effective batch, slower); recomputed activations (a third more
    time); frozen weights in 16 bits; shorter clips (data is skipped). A change goes only as far as
    the budget needs.

    Raises:
        MachineError: nothing fits; with the smallest estimate.
    """
    kind = device_kind(device or settings.device.name)
    budget = choose_budget(kind, settings.device.budget_gib if budget_gib is None else budget_gib)
    changes: list[str] = []
    estimate = estimate_memory(settings, workload, kind).within(budget.bytes)
    takes_bfloat16 = choose_frozen_format(torch.device(kind), "bfloat16").dtype == torch.bfloat16
    while estimate.total > budget.bytes and (
        step := _cheapest_change(settings, workload, takes_bfloat16=takes_bfloat16)
    ):
        before = estimate.total
        settings, workload, summary = step
        estimate = estimate_memory(settings, workload, kind).within(budget.bytes)
        changes.append(f"{summary}: {before / GIB:.2f} → {estimate.total / GIB:.2f} GiB")
    if estimate.total > budget.bytes:
        raise MachineError(
            f"{settings.model} does not fit {budget.bytes / GIB:.1f} GiB ({budget.reason}): "
            f"{estimate.total / GIB:.2f} GiB with every saving",
            hint="choose a smaller model, adapter sites in the decoder only or, with --full, a "
            "LoRA adapter instead; or allow more memory with --budget-gib",
        )
    return FittedSettings(settings, tuple(changes), estimate, budget)


# Ten minutes of states are small beside everything else, even of medium (92 MB).
_FEW_SECONDS = 600.0


def _cheapest_change(
    settings: RunSettings, workload: Workload, *, takes_bfloat16: bool
) -> tuple[RunSettings, Workload, str] | None:
    """The next change in the order of `fit_settings`, and a summary of it; None if all are made."""
    train, device = settings.train, settings.device
    few = workload.audio_s is not None and workload.audio_s <= _FEW_SECONDS
    if device.state_storage != "disk" and device.state_cache_mb and not few:
        changed = _changed(settings, "device", state_storage="disk")
        return changed, workload, "device.state_storage=disk (memory-mapped, in 16 bits)"
    if train.batch_size > 1:
        size = train.batch_size // 2
        accumulation = train.accumulation * -(-train.batch_size // size)
        changed = _changed(settings, "train", batch_size=size, accumulation=accumulation)
        summary = f"train.batch_size={size}, train.accumulation={accumulation}"
        return changed, workload, f"{summary} (about the same effective batch)"
    if not train.gradient_checkpointing:
        changed = _changed(settings, "train", gradient_checkpointing=True)
        return changed, workload, "train.gradient_checkpointing=true (a third more time)"
    if takes_bfloat16 and device.frozen_weights != "bfloat16":
        changed = _changed(settings, "device", frozen_weights="bfloat16")
        return changed, workload, "device.frozen_weights=bfloat16 (half the weights)"
    longest = longest_clip(settings, workload)
    if longest <= 1:
        return None
    seconds = float(max(math.floor(longest * 0.8), 1))
    tokens = None if workload.tokens is None else math.ceil(workload.tokens * seconds / longest)
    # The scored sets lose their long clips too: by as much as if all lengths were equally common.
    score_s = None if workload.score_s is None else workload.score_s * seconds / longest
    shorter = replace(workload, clip_s=seconds, tokens=tokens, score_s=score_s)
    changed = _changed(settings, "data", max_clip_s=seconds)
    return changed, shorter, f"data.max_clip_s={seconds:g} (longer clips are skipped)"


def _changed(settings: RunSettings, section: str, **values: Any) -> RunSettings:
    update = getattr(settings, section).model_copy(update=values)
    return settings.model_copy(update={section: update})
