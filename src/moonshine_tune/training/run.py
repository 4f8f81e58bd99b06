"""LoRA training of a Moonshine model: one loop in plain sight.

Forward, backward, clip, step, log, evaluate, save, stop, in that order, in `_loop`.
"""

import math
import time
from pathlib import Path

import torch

from moonshine_tune.config.resolve import ResolvedSettings
from moonshine_tune.core.device import (
    choose_device,
    choose_dtype,
    is_out_of_memory,
    supports_foreach,
)
from moonshine_tune.core.errors import MachineError, RequestError
from moonshine_tune.core.progress import Progress, SilentProgress
from moonshine_tune.core.signals import GracefulInterrupt
from moonshine_tune.corpus.normalizers import normalizer_for
from moonshine_tune.inference.train_data import read_training_data
from moonshine_tune.memory.fit import check_memory
from moonshine_tune.models.lora import (
    adapter_disabled,
    adapter_parameters,
    adapter_state,
)
from moonshine_tune.registry.open import OpenedModel, open_model
from moonshine_tune.runs.folder import RunFolder
from moonshine_tune.training.distributed import Distributed
from moonshine_tune.training.finish import TrainResult, finish_training, in_words, result_record
from moonshine_tune.training.prepare import TrainingSetup, prepare_training
from moonshine_tune.training.selection import SelectionRule
from moonshine_tune.training.trainer import Trainer

# run.json says with this that the folder is a training run.
_JOB = "train"
_ENDINGS = ("finished", "early stop", "interrupted")


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
    share of every step, the first one scores, logs and saves, and all return the same result.

    Its memory is estimated before anything loads.

    Args:
        fit: where the settings do not fit the memory, change them until they do.

    Raises:
        RequestError: wrong input, an existing run folder without `resume`, another run's settings,
            or a run that would not fit.
        MachineError: no such device, the disk is full, or only non-finite steps.
    """
    begun = time.monotonic()
    device = choose_device(resolved.settings.device.name).device
    dtype = choose_dtype(device, resolved.settings.device.dtype).dtype
    processes = Distributed(device, dtype)
    progress = progress if processes.is_rank_zero else SilentProgress()
    data = read_training_data(resolved.settings.data)
    memory = check_memory(resolved, data, fit=fit, refuse=not resume, processes=processes.count)
    resolved = memory.resolved
    settings = resolved.settings
    for remark in memory.remarks:
        progress.say(remark)
    if resume:
        run = _open_run(out)
    else:
        run = RunFolder.create(out) if processes.is_rank_zero else RunFolder(out)
    opened = open_model(
        settings.model,
        device=settings.device.name,
        dtype=settings.device.dtype,
        frozen_weights=settings.device.frozen_weights,
        progress=progress,
    )
    normalizer = normalizer_for(settings.data.normalizer, opened.language)
    progress.say(f"model {opened.base['name']} on {opened.device.device}: {opened.device.reason}")
    preparing = time.monotonic()
    setup = prepare_training(
        settings, data, opened, normalizer, progress, scores=processes.is_rank_zero
    )
    prepare_seconds = time.monotonic() - preparing
    for remark in setup.remarks:
        progress.say(remark)
    if resume:
        _check_same_run(run, opened, setup)
    elif processes.is_rank_zero:
        run.write_record(
            job=_JOB,
            settings=settings.model_dump(mode="json"),
            sources=resolved.sources,
            base=opened.base,
            device={"name": str(opened.device.device), "reason": opened.device.reason},
            dtype={"name": str(opened.dtype.dtype), "reason": opened.dtype.reason},
            processes=processes.count,
            normalizer=normalizer.name,
            data=setup.fingerprints,
            remarks=(*memory.remarks, *setup.remarks),
            expected_memory_mb=memory.expected_mb,
            adapter=vars(setup.adapter),
            seed=settings.train.seed,
            status="running",
        )
    trainer = Trainer(settings, opened, setup, run, processes, progress)
    stopped, steps = _loop(trainer, resume)
    result: TrainResult | None = None
    if processes.is_rank_zero:
        result = finish_training(trainer, stopped, steps, time.monotonic() - begun, prepare_seconds)
        run.update_record(status=stopped, result=result_record(result))
    trainer.close()
    shared: TrainResult = processes.from_main(result)
    processes.finish()
    return shared


def _open_run(out: Path) -> RunFolder:
    """The folder of a run that `train` has begun, and of nothing else."""
    run = RunFolder.open(out)
    record = run.read_record()
    if record.get("job") != _JOB:
        raise RequestError(
            "this folder was not made by `moonshine-tune train`",
            where=run.path,
            hint="name the folder that was given to it as --out",
        )
    return run


def _check_same_run(run: RunFolder, opened: OpenedModel, setup: TrainingSetup) -> None:
    record = run.read_record()
    if record["base"]["sha256"] != opened.base["sha256"]:
        raise RequestError(
            f"this run was started from another base model, {record['base']['name']}",
            where=run.path,
            hint="name that one with --model, or start a new run with another --out",
        )
    names = sorted(record["data"].keys() | setup.fingerprints.keys())
    changed = [name for name in names if record["data"].get(name) != setup.fingerprints.get(name)]
    if changed:
        raise RequestError(
            f"the manifests have changed since this run began: {', '.join(changed)}",
            where=run.path,
            hint="restore them, or start a new run with another --out",
        )


def _loop(trainer: Trainer, resume: bool) -> tuple[str, int]:
    """The training loop. Returns why it stopped and how many steps are done."""
    settings, model, counters = trainer.settings, trainer.model, trainer.counters
    processes = trainer.processes
    parameters = [value for _, value in adapter_parameters(model.module)]
    step = _begin(trainer, resume)
    total = settings.train.steps
    ending = 0
    with trainer.progress.stage("training", total) as stage, GracefulInterrupt() as stop:
        stage.advance(step)
        while step < total and not (ending := processes.highest(_ending(trainer, stop))):
            begun = time.monotonic()
            model.module.train()
            share = trainer.start_step(step)
            sums = dict.fromkeys(trainer.term_names, 0.0)
            shortage = ""
            try:
                for name, loss, reported in trainer.terms(step):
                    trainer.accelerator.backward(loss * processes.loss_scale)
                    sums[name] += float(loss.detach()) * reported
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                shortage = str(error) or type(error).__name__
            if processes.highest(bool(shortage)):
                # Outside of the except block: the traceback holds the tensors that must go.
                trainer.back_off(step, shortage)
                continue
            sums = processes.add_up(parameters, sums)
            processes.unscale(parameters)
            norm = float(
                torch.nn.utils.clip_grad_norm_(
                    parameters, settings.train.clip_norm, foreach=supports_foreach(model.device)
                )
            )
            if math.isfinite(norm) and math.isfinite(sum(sums.values())):
                trainer.optimizer.step()
                counters.skipped_in_a_row = 0
            else:
                counters.skipped += 1
                counters.skipped_in_a_row += 1
            trainer.optimizer.zero_grad(set_to_none=True)
            step += 1
            seconds = time.monotonic() - begun
            counters.train_seconds += seconds
            memory = trainer.memory()
            trainer.log(
                step,
                {
                    **sums,
                    "gradient_norm": norm,
                    "learning_rate": settings.train.learning_rate * share,
                    "step_seconds": seconds,
                    "skipped_steps": counters.skipped,
                    "memory_resident_mb": memory.resident_mb,
                    "memory_device_mb": memory.device_driver_mb or memory.device_mb,
                },
            )
            stage.advance(
                1, f"loss {sums['loss']:.3f}, {1 / seconds:.1f} steps/s, {memory.resident_mb} MB"
            )
            trainer.clear_cache(step)
            if counters.skipped_in_a_row >= settings.train.max_skipped_steps:
                trainer.save_state(step)
                raise MachineError(
                    f"{counters.skipped_in_a_row} steps in a row gave non-finite gradients",
                    where=trainer.run.path,
                    hint="lower the rate: --set train.learning_rate=1e-4, or --set device.name=cpu",
                )
            if step % settings.select.every_steps == 0 or step == total:
                _evaluate(trainer, step)
            else:
                trainer.save_state_when_due(step)
        if ending:
            trainer.save_state(step)
    return _ENDINGS[ending], step


def _begin(trainer: Trainer, resume: bool) -> int:
    """Go on from the saved state, or score the base; returns the first step to do."""
    step = trainer.resume() if resume else None
    if step is None:
        if not resume:
            trainer.start_log()
        _score_baseline(trainer)
        trainer.save_state(0)
    baseline = trainer.counters.candidate("baseline")
    trainer.rule = SelectionRule(
        baseline.canary_wer if baseline else None, trainer.settings.select.canary_bound
    )
    return step or 0


def _ending(trainer: Trainer, stop: GracefulInterrupt) -> int:
    """Why this process would stop now, as a place in `_ENDINGS`; 0 goes on."""
    if stop.wanted:
        return 2
    return int(trainer.counters.scores_without_best >= trainer.settings.select.patience)


def _score_baseline(trainer: Trainer) -> None:
    """Score the base first: with B = 0 the adapter changes nothing, but disabled is faster."""
    if not trainer.processes.is_rank_zero:
        return
    with adapter_disabled(trainer.model):
        scored = trainer.score(0)
    trainer.counters.baseline = scored.candidate.to_record()
    trainer.log(0, scored.figures())
    trainer.progress.say(f"baseline: {in_words(scored.candidate)}")


def _evaluate(trainer: Trainer, step: int) -> None:
    """Score, keep the adapter if it is the best so far, save the state; the main process does."""
    if not trainer.processes.is_rank_zero:
        return
    scored = trainer.score(step)
    candidate = scored.candidate
    trainer.log(step, scored.figures())
    is_best = trainer.rule.is_better(candidate, trainer.counters.candidate("best"))
    trainer.late.keep(step, adapter_state(trainer.model))
    if is_best:
        trainer.counters.best = candidate.to_record()
        trainer.counters.scores_without_best = 0
        trainer.best_state = adapter_state(trainer.model)
        trainer.save_best(scored, trainer.best_state)
    else:
        trainer.counters.scores_without_best += 1
    trainer.save_state(step)
    trainer.progress.say(f"step {step}: {in_words(candidate)}{', best so far' if is_best else ''}")
