"""`moonshine-tune train`: from settings and manifests to an adapter in a run folder."""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from moonshine_tune.config.resolve import ResolvedSettings
from moonshine_tune.core.device import choose_device, choose_dtype, limit_memory
from moonshine_tune.core.errors import RequestError, TuneError
from moonshine_tune.core.locks import one_writer
from moonshine_tune.core.power import keep_awake
from moonshine_tune.core.progress import Progress, SilentProgress
from moonshine_tune.core.scratch import remove_leftovers
from moonshine_tune.core.stopwatch import Stopwatch
from moonshine_tune.corpus.manifest import Utterance
from moonshine_tune.data.replay_audio import ReplayAudio, made_before, with_replay_audio
from moonshine_tune.inference.dataset import TrainingData, read_replay
from moonshine_tune.memory.fit import MemoryCheck, check_memory
from moonshine_tune.models.fingerprint import compare_weights
from moonshine_tune.registry.open import OpenedModel, open_model
from moonshine_tune.runs.folder import RunFolder
from moonshine_tune.runs.locations import relative_paths
from moonshine_tune.runs.recordings import check_recordings, keep_recordings
from moonshine_tune.runs.records import ReplayRecord
from moonshine_tune.training.continued import JOB, ContinuedRun, continue_run
from moonshine_tune.training.distributed import Distributed, launched_as_rank_zero
from moonshine_tune.training.folds import check_folds, train_folds
from moonshine_tune.training.prepare import PreparedTraining, prepare_training
from moonshine_tune.training.pseudo_labels import (
    check_pseudo_labels,
    label_for_run,
    train_again,
)
from moonshine_tune.training.result import TrainResult
from moonshine_tune.training.start import RunStart, earlier_fingerprint, start_of_run
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
    if not resume:
        check_pseudo_labels(resolved.settings)
    if not launched_as_rank_zero():
        return _train(resolved, out, progress, resume=resume, fit=fit)
    with one_writer(out), keep_awake(resolved.settings.device.keep_awake):
        if out.is_dir():
            remove_leftovers(out)
        if not resume:
            RunFolder.check_new(out)
            check_folds(resolved.settings)
        try:
            if resolved.settings.data.unlabelled is not None:
                run = RunFolder(out) if resume else RunFolder.create(out)
                resolved = label_for_run(resolved, run, progress)
            result = _train(resolved, out, progress, resume=resume, fit=fit)
            if result.stopped == "interrupted":
                return result
            if resolved.settings.train.folds > 1:
                return train_folds(result, progress, partial(_train_part, progress))
            if resolved.settings.data.unlabelled is not None:
                return train_again(result, progress, partial(_train_part, progress))
            return result
        except KeyboardInterrupt:
            # Before the first step, or after the last one: the steps end by themselves.
            _record_interrupt(RunFolder(out))
            raise


def _train_part(progress: Progress, resolved: ResolvedSettings, out: Path) -> TrainResult:
    """A further training of a run, in its own folder: a new one, or the rest of an earlier one."""
    resume = RunFolder(out).record_path.is_file()
    try:
        return _train(resolved, out, progress, resume=resume, fit=False)
    except KeyboardInterrupt:
        _record_interrupt(RunFolder(out))
        raise


def _train(
    resolved: ResolvedSettings, out: Path, progress: Progress, *, resume: bool, fit: bool
) -> TrainResult:
    start_time, stopwatch = time.monotonic(), Stopwatch()
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
    start = start_of_run(resolved, continued)
    inputs = _read_inputs(
        start, progress, fit=fit, refuse=not resume, processes=distributed.world_size
    )
    memory, data, replay = inputs.memory, inputs.data, inputs.replay
    settings = memory.resolved.settings
    if memory.budget_bytes is not None:
        limit_memory(device.device, memory.budget_bytes)
    before = continued.remarks if continued else ()
    for remark in (*before, *start.remarks, replay.remark, *memory.remarks):
        progress.say(remark)
    if continued is not None:
        run = continued.run
        check_recordings(run, _by_manifest(data), progress)
    else:
        run = RunFolder.create(out) if distributed.is_rank_zero else RunFolder(out)
    # A resumed run finds its base itself, wherever it is started.
    is_own = continued and settings.model == continued.record.settings.get("model")
    model = open_model(
        None if is_own else settings.model,
        base_of=run.path if resume else start.adapter_dir,
        device=device,
        dtype=dtype,
        frozen_weights=settings.device.frozen_weights,
        progress=progress,
    )
    progress.say(f"model {model.base['name']} on {device.device}: {device.reason}")
    stopwatch.add("starting", time.monotonic() - start_time)
    with stopwatch.measure("reading"):
        prepared = prepare_training(
            settings,
            data,
            model,
            progress,
            scores=distributed.is_rank_zero,
            scored_clip_s=continued.scored_clip_s if continued else None,
            parent_dir=start.adapter_dir,
            stopwatch=stopwatch,
        )
    content = _content(run, memory, model, num_processes=distributed.world_size)
    trainer = Trainer(settings, model, prepared, run, distributed, progress, stopwatch)
    if continued is None:
        if distributed.is_rank_zero:
            # Before run.json: a run that has one can be resumed.
            content |= start.keep_in(run)
            remarks = (*start.remarks, replay.remark)
            _write_record(run, content, memory, model, prepared, replay.record, remarks)
            keep_recordings(run, _by_manifest(data), prepared.used, progress)
        result = trainer.fit(resume=False, start_time=start_time)
    else:
        _check_same_run(run, continued, model, prepared)
        if distributed.is_rank_zero:
            # Of more steps than before.
            keep_recordings(run, _by_manifest(data), prepared.used, progress)
        begin_leg = partial(continued.begin_leg, memory.resolved, content, progress)
        result = trainer.fit(resume=True, start_time=start_time, on_resume=begin_leg)
    return result.model_copy(update={"replay": replay.record})


@dataclass(frozen=True)
class _Inputs:
    """The manifests of a run, what it replays, and the settings after the check of its memory."""

    memory: MemoryCheck
    data: TrainingData
    replay: ReplayAudio


def _read_inputs(
    start: RunStart, progress: Progress, *, fit: bool, refuse: bool, processes: int
) -> _Inputs:
    """Make replay audio, and check the memory, as of `check_memory`."""
    wanted = start.resolved.settings.data.replay
    train = start.data.train.utterances
    made, replay = with_replay_audio(start.resolved, progress, train)
    data = _with_replay(start.data, replay)
    trained = replace(data, train=data.all_trained)
    memory = check_memory(made, trained, fit=fit, refuse=refuse, processes=processes)
    fitted = memory.resolved.settings
    if fitted.data.max_clip_s < made.settings.data.max_clip_s:
        # Replay audio that is made here is cut to what fits now.
        asked = fitted.model_copy(
            update={"data": fitted.data.model_copy(update={"replay": wanted})}
        )
        made, replay = with_replay_audio(replace(memory.resolved, settings=asked), progress, train)
        data, memory = _with_replay(data, replay), replace(memory, resolved=made)
    return _Inputs(memory, data, replay)


def _with_replay(data: TrainingData, replay: ReplayAudio) -> TrainingData:
    manifest = replay.manifest
    if manifest is None or (data.replay is not None and data.replay.path == manifest):
        return data
    return replace(data, replay=read_replay(manifest))


def _by_manifest(data: TrainingData) -> dict[str, tuple[Utterance, ...]]:
    """All utterances by their manifest, without replay audio that this program made.

    That is made again where it is gone, perhaps by another version of a codec.
    """
    utterances = {name: manifest.utterances for name, manifest in data.by_name.items()}
    if data.replay is not None and made_before(data.replay.path):
        del utterances["replay"]
    return utterances | ({"earlier": data.earlier} if data.earlier else {})


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
    replay: ReplayRecord,
    remarks: Sequence[str],
) -> None:
    """run.json of a run that starts; `remarks` are those on its start."""
    run.write_record(
        job=JOB,
        **content,
        sources=memory.resolved.sources,
        base=model.base_record,
        normalizer=prepared.normalizer,
        data=prepared.fingerprints | earlier_fingerprint(run),
        **({"voices": prepared.voices} if prepared.voices else {}),
        replay=replay,
        **({"synthetic": prepared.synthetic} if prepared.synthetic else {}),
        **({"pseudo_labels": prepared.pseudo_labels} if prepared.pseudo_labels else {}),
        remarks=(*remarks, *memory.remarks, *prepared.remarks),
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
    now = prepared.fingerprints | earlier_fingerprint(run)
    changed = {name for name, _ in record.data.items() ^ now.items()}
    if changed:
        raise RequestError(
            f"the manifests have changed since this run started: {', '.join(sorted(changed))}",
            where=run.path,
            hint="restore them, or start a new run with another --out",
        )
