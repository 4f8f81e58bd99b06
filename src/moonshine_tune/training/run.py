"""`moonshine-tune train`: from settings and manifests to an adapter in a run folder."""

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from moonshine_tune.config.resolve import ResolvedSettings
from moonshine_tune.core.device import choose_device, choose_dtype
from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.progress import Progress, SilentProgress
from moonshine_tune.inference.dataset import read_training_data
from moonshine_tune.memory.fit import MemoryCheck, check_memory
from moonshine_tune.registry.open import OpenedModel, open_model
from moonshine_tune.runs.folder import RunFolder
from moonshine_tune.runs.locations import relative_paths
from moonshine_tune.training.continued import JOB, ContinuedRun, continue_run
from moonshine_tune.training.distributed import Distributed
from moonshine_tune.training.prepare import PreparedTraining, prepare_training
from moonshine_tune.training.result import TrainResult
from moonshine_tune.training.trainer import Trainer


def train(
    resolved: ResolvedSettings,
    out: Path,
    progress: Progress,
    *,
    resume: bool = False,
    fit: bool = False,
) -> TrainResult:
    """Train an adapter; the best one is in `out/adapter`, and the run can be resumed.

    Started by `accelerate launch` or `torchrun`, all processes train one adapter: each takes its
    share of every step, rank zero scores, logs and saves, and all return the same result.

    On MPS, with `device.budget_gib` or with `fit`, the memory of the run is estimated before the
    model is loaded.

    Args:
        fit: change settings that do not fit the memory until they do.

    Raises:
        RequestError: wrong input, an existing run folder without `resume`, another run's settings,
            or a run that would not fit.
        MachineError: no such device, the disk is full, or only non-finite steps.
    """
    start_time = time.monotonic()
    continued = continue_run(out, resolved) if resume else None
    resolved = continued.resolved if continued else resolved
    device = choose_device(resolved.settings.device.name)
    dtype = choose_dtype(device.device, resolved.settings.device.dtype)
    distributed = Distributed(device.device, dtype.dtype)
    progress = progress if distributed.is_rank_zero else SilentProgress()
    data = read_training_data(resolved.settings.data)
    memory = check_memory(
        resolved, data, fit=fit, refuse=not resume, processes=distributed.world_size
    )
    settings = memory.resolved.settings
    for remark in (*(continued.remarks if continued else ()), *memory.remarks):
        progress.say(remark)
    if continued is not None:
        run = continued.run
    else:
        run = RunFolder.create(out) if distributed.is_rank_zero else RunFolder(out)
    model = open_model(
        settings.model,
        device=device,
        dtype=dtype,
        frozen_weights=settings.device.frozen_weights,
        progress=progress,
    )
    progress.say(f"model {model.base['name']} on {device.device}: {device.reason}")
    prepared = prepare_training(
        settings,
        data,
        model,
        progress,
        scores=distributed.is_rank_zero,
        scored_clip_s=continued.scored_clip_s if continued else None,
    )
    content = _content(run, memory, model, num_processes=distributed.world_size)
    trainer = Trainer(settings, model, prepared, run, distributed, progress)
    if continued is None:
        if distributed.is_rank_zero:
            _write_record(run, content, memory, model, prepared)
        return trainer.fit(resume=False, start_time=start_time)
    _check_same_run(run, continued, model, prepared)
    begin_leg = partial(continued.begin_leg, memory.resolved, content, progress)
    return trainer.fit(resume=True, start_time=start_time, on_resume=begin_leg)


def _content(
    run: RunFolder, memory: MemoryCheck, model: OpenedModel, *, num_processes: int
) -> dict[str, Any]:
    """What run.json has of a leg: its settings, and what they became on this machine."""
    settings = memory.resolved.settings.model_dump(mode="json")
    return {
        "settings": settings,
        "relative_paths": relative_paths(run.path, settings),
        "device": {"name": str(model.device.device), "reason": model.device.reason},
        "dtype": {"name": str(model.dtype.dtype), "reason": model.dtype.reason},
        "processes": num_processes,
        "expected_memory_mb": memory.expected_mb,
        "status": "running",
    }


def _write_record(
    run: RunFolder,
    content: Mapping[str, Any],
    memory: MemoryCheck,
    model: OpenedModel,
    prepared: PreparedTraining,
) -> None:
    """run.json of a run that starts."""
    run.write_record(
        job=JOB,
        **content,
        sources=memory.resolved.sources,
        base=model.base,
        normalizer=prepared.normalizer,
        data=prepared.fingerprints,
        remarks=(*memory.remarks, *prepared.remarks),
        adapter=vars(prepared.adapter),
        seed=memory.resolved.settings.train.seed,
    )


def _check_same_run(
    run: RunFolder, continued: ContinuedRun, model: OpenedModel, prepared: PreparedTraining
) -> None:
    """Refuse to resume with another base model or other manifests."""
    record = continued.record
    if record.base.sha256 != model.base["sha256"]:
        raise RequestError(
            f"this run was started from another base model, {record.base.name}",
            where=run.path,
            hint="name that model with --model, or start a new run with another --out",
        )
    changed = {name for name, _ in record.data.items() ^ prepared.fingerprints.items()}
    if changed:
        raise RequestError(
            f"the manifests have changed since this run started: {', '.join(sorted(changed))}",
            where=run.path,
            hint="restore them, or start a new run with another --out",
        )
