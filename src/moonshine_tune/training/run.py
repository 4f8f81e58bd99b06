"""`moonshine-tune train`: from settings and manifests to an adapter in a run folder."""

import time
from contextlib import suppress
from pathlib import Path

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
from moonshine_tune.training.distributed import Distributed, launched_as_rank_zero
from moonshine_tune.training.prepare import PreparedTraining, prepare_training
from moonshine_tune.training.result import TrainResult
from moonshine_tune.training.trainer import Trainer

# run.json says with this that the folder is a training run.
_JOB = "train"


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
        try:
            return _train(resolved, out, progress, resume=resume, fit=fit)
        except KeyboardInterrupt:
            # Before the first step, or after the last one: the steps end by themselves.
            _record_interrupt(RunFolder(out))
            raise


def _train(
    resolved: ResolvedSettings, out: Path, progress: Progress, *, resume: bool, fit: bool
) -> TrainResult:
    start_time = time.monotonic()
    device = choose_device(resolved.settings.device.name)
    dtype = choose_dtype(device.device, resolved.settings.device.dtype)
    distributed = Distributed(device.device, dtype.dtype)
    progress = progress if distributed.is_rank_zero else SilentProgress()
    data = read_training_data(resolved.settings.data)
    memory = check_memory(
        resolved, data, fit=fit, refuse=not resume, processes=distributed.world_size
    )
    settings = memory.resolved.settings
    for remark in memory.remarks:
        progress.say(remark)
    run = _open_run_folder(out, resume=resume, creates=distributed.is_rank_zero)
    model = open_model(
        # A resumed run finds its base itself, wherever it is started.
        None
        if resume and settings.model == run.read_record().settings.get("model")
        else settings.model,
        base_of=run.path if resume else None,
        device=device,
        dtype=dtype,
        frozen_weights=settings.device.frozen_weights,
        progress=progress,
    )
    progress.say(f"model {model.base['name']} on {device.device}: {device.reason}")
    prepared = prepare_training(settings, data, model, progress, scores=distributed.is_rank_zero)
    if resume:
        _check_same_run(run, model, prepared)
    elif distributed.is_rank_zero:
        _write_record(run, memory, model, prepared, num_processes=distributed.world_size)
    trainer = Trainer(settings, model, prepared, run, distributed, progress)
    return trainer.fit(resume=resume, start_time=start_time)


def _record_interrupt(run: RunFolder) -> None:
    """Record that a run was interrupted; a folder without a record is removed if it is empty."""
    with suppress(TuneError, OSError):
        if not run.record_path.is_file():
            run.path.rmdir()
        elif run.read_record().status == "running":
            run.update_record(status="interrupted")


def _open_run_folder(out: Path, *, resume: bool, creates: bool) -> RunFolder:
    """A new folder, made by the process that `creates`; or that of a run to resume."""
    if not resume:
        return RunFolder.create(out) if creates else RunFolder(out)
    run = RunFolder.open(out)
    if run.read_record().job != _JOB:
        raise RequestError(
            "this folder was not made by `moonshine-tune train`",
            where=run.path,
            hint="name the folder that was given to it as --out",
        )
    return run


def _write_record(
    run: RunFolder,
    memory: MemoryCheck,
    model: OpenedModel,
    prepared: PreparedTraining,
    *,
    num_processes: int,
) -> None:
    """run.json of a run that starts."""
    settings = memory.resolved.settings
    run.write_record(
        job=_JOB,
        settings=settings.model_dump(mode="json"),
        sources=memory.resolved.sources,
        base=model.base_record,
        device={"name": str(model.device.device), "reason": model.device.reason},
        dtype={"name": str(model.dtype.dtype), "reason": model.dtype.reason},
        processes=num_processes,
        normalizer=prepared.normalizer,
        data=prepared.fingerprints,
        remarks=(*memory.remarks, *prepared.remarks),
        expected_memory_mb=memory.expected_mb,
        adapter=vars(prepared.adapter),
        seed=settings.train.seed,
        status="running",
    )


def _check_same_run(run: RunFolder, model: OpenedModel, prepared: PreparedTraining) -> None:
    """Refuse to resume with another base model or other manifests."""
    record = run.read_record()
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
