"""How much memory a run will take, what would fit, and settings that do: before anything loads."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch

from moonshine_tune.config.settings import RunSettings
from moonshine_tune.core.device import choose_device, heap_keeps_freed_memory
from moonshine_tune.core.errors import MachineError, RequestError
from moonshine_tune.core.hardware import available_memory_mb
from moonshine_tune.core.progress import Progress
from moonshine_tune.inference.batching import encode_batch_s
from moonshine_tune.inference.scored_set import _BATCH_S, _STORED_BATCH_S
from moonshine_tune.memory.model import MemoryEstimate, MemoryModel, RunShape
from moonshine_tune.models.base import TOKENS_PER_SECOND
from moonshine_tune.models.checkpoint import is_checkpoint_folder
from moonshine_tune.models.lora import SITES
from moonshine_tune.registry.catalog import lookup_model, nearest_hint
from moonshine_tune.registry.published_configs import config_of_folder, published_config

GIB = 1 << 30
MAC_16_GB_GIB = 9.5
_MAX_CLIP_S, _MAX_BATCH = 60, 64
_KINDS = ("cpu", "mps", "cuda")
TIGHT_HEAP = "the heap is kept tight: about half the memory, up to a third more time"


@dataclass(frozen=True)
class Workload:
    """What a run works on, as far as memory goes.

    Attributes:
        clip_s: longest clip, seconds; None takes what the settings allow.
        tokens: of its text; None takes the most that a clip of that length can have.
        audio_s: seconds of audio (training, dev, canary and replay) whose encoder states would be
            kept; None assumes that they fill `device.state_cache_mb`.
        score_s: seconds of audio in the largest set that is scored during the run; None assumes
            that it fills a batch of the scorer.
        replays: the run has replay audio.
        scores: the dev set is scored during the run.
    """

    clip_s: float | None = None
    tokens: int | None = None
    audio_s: float | None = None
    replays: bool = False
    scores: bool = True
    score_s: float | None = None


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
    kind = device_kind(device or settings.device.name)
    told = settings.device.budget_gib if budget_gib is None else budget_gib
    budget = choose_budget(kind, told)
    shape, remarks = run_shape(settings, workload, kind)
    model = MemoryModel(model_config(settings.model), shape)
    found = settled(model.estimate(), budget)
    if shape.loose_heap and not found.shape.loose_heap:
        remarks += (TIGHT_HEAP,)
    search = _BatchSearch(model, settings, workload, found, budget.bytes)
    progress.say("looking for the longest clip and the largest batch that fit")
    return EstimateResult(
        model=settings.model,
        device=kind,
        estimate=found,
        budget=budget,
        fits=found.total <= budget.bytes,
        longest_clip_s=search.longest_clip(),
        largest_batch=search.largest_batch(),
        remarks=remarks,
    )


def estimate_memory(settings: RunSettings, workload: Workload, kind: str) -> MemoryEstimate:
    """The peak memory of a run, without looking for what else would fit.

    What was counted once in this process is remembered: the trials of a search share their shapes.
    """
    shape, _ = run_shape(settings, workload, kind)
    config = model_config(settings.model)
    return _counted(_Counting(config.to_json_string(use_diff=False), shape, config))


@dataclass(frozen=True)
class _Counting:
    text: str
    shape: RunShape
    config: Any = field(compare=False)


@lru_cache(maxsize=64)
def _counted(what: _Counting) -> MemoryEstimate:
    return MemoryModel(what.config, what.shape).estimate()


def settled(found: MemoryEstimate, budget: Budget) -> MemoryEstimate:
    """With the allocator that the run would take: the tight one where the fast one is too wide."""
    return found if found.total <= budget.bytes else found.tightened()


class _BatchSearch:
    """Looks for the largest sizes that fit, with few and partial counts.

    Phases that fit at the largest size are not counted again, nor those that a size does not move.
    """

    def __init__(
        self,
        model: MemoryModel,
        settings: RunSettings,
        workload: Workload,
        found: MemoryEstimate,
        budget: int,
    ) -> None:
        self._model, self._settings, self._workload = model, settings, workload
        self._found, self._budget = found.tightened(), budget
        self._shape = found.shape

    def longest_clip(self) -> int:
        """Seconds, with the batch size as it is."""

        def totals(seconds: int) -> dict[str, int]:
            tokens = _tokens(self._settings, self._workload.tokens, seconds)
            return self._totals(clip_s=float(seconds), tokens=tokens)

        def at(name: str, seconds: int) -> int:
            tokens = _tokens(self._settings, self._workload.tokens, seconds)
            return self._totals(clip_s=float(seconds), tokens=tokens, only=name)[name]

        seconds = self._shape.clip_s
        here = int(seconds) if seconds == int(seconds) else 0
        return self._within(_MAX_CLIP_S, totals(_MAX_CLIP_S), at, here)

    def largest_batch(self) -> int:
        """Clips in a micro-batch, with the clip length as it is."""
        # The other phases do not depend on the micro-batch.
        if any(p.total > self._budget for p in self._found.phases if p.name != "step"):
            return 0
        most = self._totals(batch_size=_MAX_BATCH, only="step")

        def at(name: str, size: int) -> int:
            return self._totals(batch_size=size, only=name)[name]

        return self._within(_MAX_BATCH, most, at, self._shape.batch_size)

    def _within(
        self, most: int, at_most: dict[str, int], at: Callable[[str, int], int], here: int
    ) -> int:
        known = {phase.name: phase.total for phase in self._found.phases}
        best = most
        for name, total in at_most.items():
            if total > self._budget and best:
                seen = {most: total} | ({here: known[name]} if 0 < here < most else {})
                best = min(best, _largest(most, self._budget, partial(at, name), seen))
        return best

    def _totals(self, **changes: Any) -> dict[str, int]:
        found = self._model.estimate(**changes).tightened()
        return {phase.name: phase.total for phase in found.phases}


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


def device_kind(name: str) -> str:
    """`cpu`, `mps` or `cuda`; what `auto` comes to is this machine's best.

    Raises:
        RequestError: no such device.
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


def run_shape(
    settings: RunSettings, workload: Workload, kind: str
) -> tuple[RunShape, tuple[str, ...]]:
    """What a run's memory depends on, and what was assumed."""
    train, adapter = settings.train, settings.adapter
    clip_s = longest_clip(settings, workload)
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
    skips_encoder = keeps and not _touches_encoder(adapter.sites)
    audio_s = math.inf if workload.audio_s is None else workload.audio_s
    if keeps and workload.audio_s is None and storage != "disk":
        room = settings.device.state_cache_mb
        remarks.append(f"what is stored fills device.state_cache_mb = {room}")
    replays = workload.replays and settings.retain.weight > 0
    scored = math.inf if workload.score_s is None else max(workload.score_s, clip_s)
    if not workload.scores:
        scored = 0.0
    shape = RunShape(
        device=kind,
        sites=adapter.sites,
        rank=adapter.rank,
        dropout=adapter.dropout,
        dora=adapter.dora,
        loose_heap=kind == "cpu" and heap_keeps_freed_memory(),
        frozen_dtype=getattr(torch, settings.device.frozen_weights),
        mixed=_is_mixed(settings.device.dtype, kind),
        batch_size=train.batch_size,
        clip_s=clip_s,
        tokens=tokens,
        gradient_checkpointing=train.gradient_checkpointing,
        stored_s=audio_s if keeps else 0.0,
        stored_limit_mb=0 if storage == "disk" else settings.device.state_cache_mb,
        releases_encoder=skips_encoder and storage != "memory",
        replay_clips=min(settings.retain.clips_per_step, train.batch_size) if replays else 0,
        score_batch_s=min(_STORED_BATCH_S if skips_encoder else _BATCH_S, scored),
        prepare_batch_s=min(encode_batch_s(torch.device(kind)), max(audio_s, clip_s)),
    )
    return shape, tuple(remarks)


def longest_clip(settings: RunSettings, workload: Workload) -> float:
    """Seconds of the longest clip that a step can see."""
    allowed = settings.data.max_clip_s
    if settings.train.stages:
        # The clips of the longest stage that is reached.
        allowed = min(allowed, max(stage.max_clip_s for stage in settings.train.stages))
    return allowed if workload.clip_s is None else min(workload.clip_s, allowed)


def _touches_encoder(sites: str) -> bool:
    layer = "model.encoder.layers.0."
    names = [f"{layer}self_attn.{name}_proj" for name in "qkvo"] + [f"{layer}mlp.fc1"]
    return any(re.fullmatch(SITES[sites], name) for name in names)


def _is_mixed(dtype: str, kind: str) -> bool:
    # As `device.choose_dtype` chooses, for devices that are not here too.
    return dtype in ("bfloat16", "float16") or (dtype == "auto" and kind == "cuda")


def _largest(
    most: int, budget: int, total: Callable[[int], int], known: Mapping[int, int] | None = None
) -> int:
    """The largest number from 1 to `most` whose total is within the budget, 0 where none is.

    Totals grow with the number: a straight line between what fits and what does not tells where
    to look next, which takes far fewer looks than halving.

    Args:
        known: totals that need no look.
    """
    seen = dict(known or {})

    def look(size: int) -> int:
        if size not in seen:
            seen[size] = total(size)
        return seen[size]

    if look(most) <= budget:
        return most
    low = max((size for size, found in seen.items() if found <= budget), default=0)
    high = min(size for size, found in seen.items() if found > budget)
    while high - low > 1:
        # Through two known points; before a size is known to fit, through the two smallest.
        anchors = sorted(seen) if not low else [low, high]
        one, other = (anchors[0], anchors[1]) if len(anchors) > 1 else (0, high)
        rise = (seen[other] - seen.get(one, 0)) / (other - one)
        guess = one + math.floor((budget - seen.get(one, 0)) / rise) if rise > 0 else low + 1
        middle = min(max(guess, low + 1), high - 1)
        if look(middle) <= budget:
            low = middle
            # A straight line is right: the next size decides.
            if high - low > 1 and look(low + 1) > budget:
                return low
            low = low + 1 if high - low > 1 else low
        else:
            high = middle
    return low
