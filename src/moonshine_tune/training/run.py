"""`moonshine-tune train`: from settings and manifests to an adapter in a run folder."""

import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from moonshine_tune.config.resolve import ResolvedSettings
from moonshine_tune.core.device import choose_device, choose_dtype
from moonshine_tune.core.errors import RequestError, TuneError
from moonshine_tune.core.locks import one_writer
from moonshine_tune.core.progress import Progress, SilentProgress
from moonshine_tune.core.scratch import remove_leftovers
from moonshine_tune.inference.dataset import read_training_data
from moonshine_tune.memory.fit import MemoryCheck, check_memory
from moonshine_tune.models.fingerprint import compare_weights
from moonshine_tune.registry.open import OpenedModel, open_model
from moonshine_tune.runs.folder import RunFolder
from moonshine_tune.runs.locations import relative_paths
from moonshine_tune.training.continued import JOB, ContinuedRun, continue_run
from moonshine_tune.training.distributed import Distributed, launched_as_rank_zero
from moonshine_tune.training.folds import check_folds, train_folds
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
            a run that would not fit, or another process that works in the folder.
        MachineError: no such device, the disk is full, or only non-finite steps.
    """
    if not launched_as_rank_zero():
        return _train(resolved, out, progress, resume=resume, fit=fit)
    with one_writer(out):
        if out.is_dir():
            remove_leftovers(out)
        if not resume:
            check_folds(resolved.settings)
        try:
            result = _train(resolved, out, progress, resume=resume, fit=fit)
            if resolved.settings.train.folds == 1 or result.stopped == "interrupted":
                return result
            return train_folds(result, progress, partial(_train_fold, progress))
        except KeyboardInterrupt:
            # Before the first step, or after the last one: the steps end by themselves.
            _record_interrupt(RunFolder(out))
            raise


def _train_fold(progress: Progress, resolved: ResolvedSettings, out: Path) -> TrainResult:
    try:
        return _train(resolved, out, progress, resume=out.exists(), fit=False)
    except KeyboardInterrupt:
        _record_interrupt(RunFolder(out))
        raise


def _train(
    resolved: ResolvedSettings, out: Path, progress: Progress, *, resume: bool, fit: bool
) -> TrainResult:
    start_time = time.monotonic()
    continued = continue_run(out, resolved) if resume else None
    resolved = continued.resolved if continued else resolved
    device = choose_device(resolved.settings.device.name)
    dtype = choose_dtype(device.device, resolved.settings.device.dtype)
    distributed = Distributed(device.device, dtype.dtype)
    if resolved.settings.train.folds > 1 and distributed.world_size > 1:
        raise RequestError(
            "train.folds needs one process", hint="start it without accelerate launch or torchrun"
        )
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
        # A resumed run finds its base itself, wherever it is started.
        None
        if continued and settings.model == continued.record.settings.get("model")
        else settings.model,
        base_of=run.path if resume else None,
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


def _record_interrupt(run: RunFolder) -> None:
    """Record that a run was interrupted; a folder without a record is removed if it is empty."""
    with suppress(TuneError, OSError):
        if not run.record_path.is_file():
            run.path.rmdir()
        elif run.read_record().status == "running":
            run.update_record(status="interrupted")


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
        base=model.base_record,
        normalizer=prepared.normalizer,
        data=prepared.fingerprints,
        **({"voices": prepared.voices} if prepared.voices else {}),
        **({"synthetic": prepared.synthetic} if prepared.synthetic else {}),
        remarks=(*memory.remarks, *prepared.remarks),
        adapter=vars(prepared.adapter),
        seed=memory.resolved.settings.train.seed,
    )


def _check_same_run(
    run: RunFolder, continued: ContinuedRun, model: OpenedModel, prepared: PreparedTraining
) -> None:
    """Refuse to resume with another base model or other manifests."""
    record = continued.record
    if compare_weights(record.base.to_json(), model.base) not in ("same", "unknown"):
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
