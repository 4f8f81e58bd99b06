"""The training loop, and what it scores, keeps and saves."""

import hashlib
import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from moonshine_tune.config.settings import RunSettings
from moonshine_tune.core.device import (
    clear_cache_every,
    is_out_of_memory,
    memory_mb,
    release_memory,
    trim_heap,
)
from moonshine_tune.core.errors import MachineError, RequestError
from moonshine_tune.core.files import complete_folder, write_jsonl_atomic
from moonshine_tune.core.flat_adamw import clip_gradients
from moonshine_tune.core.power import is_on_battery
from moonshine_tune.core.progress import Progress
from moonshine_tune.core.signals import GracefulInterrupt
from moonshine_tune.core.stopwatch import Stopwatch
from moonshine_tune.core.text import first_line
from moonshine_tune.corpus.voices import is_tiny
from moonshine_tune.inference.scored_set import SetScore
from moonshine_tune.models.input_covariance import FINAL_CLIPS, SCORE_CLIPS
from moonshine_tune.models.lora import (
    adapter_disabled,
    adapter_parameters,
    adapter_scale,
    adapter_state,
    load_adapter_state,
    save_adapter,
)
from moonshine_tune.registry.open import OpenedModel
from moonshine_tune.runs.folder import RunFolder
from moonshine_tune.runs.kept_adapter import with_checksums, write_selection
from moonshine_tune.runs.records import BETTER, NOT_BETTER_THAN_PARENT, verdict_on
from moonshine_tune.training.distributed import Distributed, read_sums
from moonshine_tune.training.drift import GeneralDrift
from moonshine_tune.training.general_filter import filtered_adapter
from moonshine_tune.training.late_average import LateAdapters
from moonshine_tune.training.loggers import RunLogger
from moonshine_tune.training.objective import Objective
from moonshine_tune.training.optimizer import build_optimizer, set_learning_rate
from moonshine_tune.training.prepare import PreparedTraining
from moonshine_tune.training.result import TrainResult, first_and_last_losses
from moonshine_tune.training.resume import (
    Counters,
    TrainingState,
    has_state,
    load_state,
    safetensors_errors,
    save_state,
)
from moonshine_tune.training.selection import Candidate, SelectionRule, strength_within
from moonshine_tune.training.sentinel import Sentinel

# On battery the state from which a run resumes is no older than this.
_BATTERY_SAVE_S = 60.0
# Hard speech of the language of a model is rarely this hard.
_DOUBTFUL_WER = 80.0
# By the number that the processes agree on; 0 goes on.
_ENDINGS = ("finished", "early stop", "interrupted")


class Trainer:
    """Trains the adapter of a prepared model. The process of rank zero scores, logs and saves.

    Attributes:
        counters: what has happened so far; part of the saved state.
        stopwatch: where the time goes, over all legs of the run.
        rule: which adapter is the best.
        best_state: matrices of the best adapter so far.
        chosen_state: matrices of the choice of an earlier leg, while adapter/ holds it.
    """

    def __init__(
        self,
        settings: RunSettings,
        opened: OpenedModel,
        prepared: PreparedTraining,
        run: RunFolder,
        distributed: Distributed,
        progress: Progress,
        stopwatch: Stopwatch,
    ) -> None:
        self.settings, self.opened, self.prepared = settings, opened, prepared
        self.run, self.distributed, self.progress = run, distributed, progress
        self.model, self.stopwatch = opened.model, stopwatch
        self.optimizer = distributed.accelerator.prepare(
            build_optimizer(self.model, settings.train)
        )
        self.objective = Objective(settings.retain, self.model, prepared, distributed)
        self.sentinel = Sentinel(settings, self.model, prepared, self.objective, distributed)
        self.counters = Counters()
        self.rule = SelectionRule(None, settings.select.canary_bound)
        self.best_state: dict[str, Tensor] = {}
        self.chosen_state: dict[str, Tensor] = {}
        self._late = LateAdapters(run.path, settings.select.average_last)
        self._logger: RunLogger | None = None
        self._saved_at = time.monotonic()
        self._save_every_s = settings.train.save_every_minutes * 60

    def fit(
        self,
        *,
        resume: bool,
        start_time: float,
        on_resume: Callable[[int], None] = lambda _: None,
    ) -> TrainResult:
        """Train to the end, from the first step or from the saved state.

        Args:
            start_time: of the whole command, on the monotonic clock.
            on_resume: called with the number of steps that are done when a run is resumed; rank
                zero does.

        Raises:
            RequestError: the saved state is damaged, or belongs to another adapter shape, or more
                steps are done than the settings ask for.
            MachineError: the disk is full, a single clip does not fit, or only non-finite steps.
        """
        train, distributed, device = self.settings.train, self.distributed, self.model.device
        parameters = [value for _, value in adapter_parameters(self.model.module)]
        step, ending = self._begin(resume, on_resume), 0
        counters = self.counters
        with self.progress.stage("training", train.steps) as stage, GracefulInterrupt() as stop:
            stage.advance(step)
            while step < train.steps and not (ending := distributed.highest(self._ending(stop))):
                self.sentinel.compare(step, counters.micro_batch, self.run, self.progress)
                step_start = time.monotonic()
                self.model.module.train()
                self._seed(step)
                rate = set_learning_rate(self.optimizer, step, train)
                values: dict[str, list[Tensor]] = {name: [] for name in self.objective.names}
                shortage = self._add_gradients(step, values)
                if distributed.highest(bool(shortage)):
                    self._back_off(step, shortage)
                    continue
                with self.stopwatch.measure("steps"):
                    sums = distributed.reduce(parameters, values)
                    norm = clip_gradients(self.optimizer.optimizer, parameters, train.clip_norm)
                    # One process reads from the device only here: it waits for everything above.
                    figures = read_sums({**sums, "gradient_norm": [norm]})
                    if all(map(math.isfinite, figures.values())):
                        self.optimizer.step()
                        counters.skipped_in_a_row = 0
                    else:
                        counters.skipped += 1
                        counters.skipped_in_a_row += 1
                    self.optimizer.zero_grad(set_to_none=True)
                step += 1
                seconds = time.monotonic() - step_start
                counters.train_seconds += seconds
                memory = memory_mb(device)
                self.log(
                    step,
                    {
                        **figures,
                        "learning_rate": rate,
                        "step_seconds": seconds,
                        "skipped_steps": counters.skipped,
                        "memory_resident_mb": memory.resident_mb,
                        "memory_device_mb": memory.device_driver_mb or memory.device_mb,
                    },
                )
                stage.advance(
                    1,
                    f"loss {figures['loss']:.3f}, {1 / seconds:.1f} steps/s, "
                    f"{memory.resident_mb} MB",
                )
                clear_cache_every(device, step, self.settings.device.clear_cache_steps)
                if counters.skipped_in_a_row >= train.max_skipped_steps:
                    self._save_state(step)
                    raise MachineError(
                        f"{counters.skipped_in_a_row} steps in a row gave non-finite gradients",
                        where=self.run.path,
                        hint="lower the rate: --set train.learning_rate=1e-4, or "
                        "--set device.name=cpu",
                    )
                if step % self.settings.select.every_steps == 0 or step == train.steps:
                    self._evaluate(step)
                elif time.monotonic() - self._saved_at >= self._save_every_s:
                    self._save_state(step)
            if ending:
                self._save_state(step)
        result = None
        if self._logger is not None:
            result = self._finish(_ENDINGS[ending], step, start_time)
            self.run.update_record(status=result.stopped, result=result.to_json())
            self._logger.close()
        shared: TrainResult = distributed.broadcast(result)
        distributed.close()
        return shared

    def log(self, step: int, record: Mapping[str, Any]) -> None:
        """Write one record to the run's logs; rank zero does."""
        if self._logger is not None:
            self._logger.log(step, record)

    # --- the beginning

    def _begin(self, resume: bool, on_resume: Callable[[int], None]) -> int:
        """Restore the saved state, or score the base model; returns the first step to do."""
        step = resumed_after = None
        if resume and has_state(self.run.state_dir):
            step = resumed_after = self._restore()
        elif resume:
            self.progress.say("nothing was saved yet: starting at the first step")
            resumed_after = -1
        if self.distributed.is_rank_zero:
            if resume:
                on_resume(step or 0)
            self._save_more_on_battery()
            self._logger = RunLogger(
                self.run, self.settings, self.progress, resumed_after=resumed_after
            )
        if step is None:
            with self.stopwatch.measure("baseline"):
                self._score_baseline()
            self._save_state(0)
        if self.counters.baseline is not None:
            self.rule = replace(self.rule, base_canary=self.counters.baseline.canary_wer)
        return step or 0

    @property
    def _is_filtered(self) -> bool:
        """Whether the adapter loses what it does to general speech alone."""
        settings = self.settings
        has_general = self.prepared.replay is not None
        return has_general and settings.retain.filter_weight > 0 and not settings.adapter.dora

    def _save_more_on_battery(self) -> None:
        if is_on_battery() and self._save_every_s > _BATTERY_SAVE_S:
            self._save_every_s = _BATTERY_SAVE_S
            self.progress.say(
                "on battery: the state is saved every minute, so that a run that ends with the "
                "battery loses no more"
            )

    def _restore(self) -> int:
        """Put the saved state back; returns the next step."""
        state = load_state(self.run.state_dir, self.model, self.optimizer.optimizer)
        self.stopwatch.add_all(state.counters.time)
        if state.remark:
            self.progress.say(state.remark)
        if state.step > self.settings.train.steps:
            raise RequestError(
                f"{state.step} steps are done, more than train.steps={self.settings.train.steps}",
                where=self.run.path,
                hint=f"name as many or more: --set train.steps={state.step}",
            )
        self.counters = state.counters
        self.best_state, self.chosen_state = state.best, state.chosen
        for scored in self.prepared.scored_sets:
            scored.restore_drafts(self.counters.drafts.get(scored.name, []))
        if self.prepared.canary is not None:
            self.prepared.canary.restore_baseline_hypotheses(self.counters.baseline_hypotheses)
        if self.distributed.is_rank_zero:
            self._restore_adapter()
        if self.counters.scores_without_best >= self.settings.select.patience:
            self.progress.say(
                f"{self.counters.scores_without_best} scores in a row without a new best ended "
                "this run: more steps need a larger select.patience"
            )
        return state.step

    def _restore_adapter(self) -> None:
        """Write the adapter that the state knows: a kill may have come before the state's writing.

        What was chosen at the end of an earlier leg stays until a better adapter is scored.
        """
        counters = self.counters
        if counters.best is None:
            return
        if counters.chosen is None:
            # States of earlier versions do not name their choice; its folder does.
            with suppress(RequestError, ValueError):
                candidate = Candidate.read(self.run.selection_path)
                counters.chosen = candidate if candidate.is_choice else None
        if counters.chosen is None:
            self._write_adapter(counters.best, self.best_state)
        elif self.chosen_state:
            self._write_adapter(counters.chosen, self.chosen_state)

    def _score_baseline(self) -> None:
        """Score the base model, and the adapter that the run starts at if it is another one.

        With B = 0 the adapter changes nothing; disabled is faster.
        """
        if not self.distributed.is_rank_zero:
            return
        with adapter_disabled(self.model):
            candidate, _ = self._score(0)
        self.counters.baseline = candidate
        self.log(0, candidate.figures())
        self.progress.say(f"baseline: {candidate.summary}")
        if candidate.dev_wer >= _DOUBTFUL_WER:
            self.progress.say(
                f"the base gets {candidate.dev_wer:.0f} % of dev wrong: so it is with very hard "
                "speech, and with texts of other recordings, another language, or a wrong sample "
                "rate or channel; listen to a few clips, or run: moonshine-tune data audit"
            )
        if self.prepared.has_parent:
            parent, _ = self._score(0)
            self.counters.parent = parent
            self.log(0, parent.figures("parent_"))
            self.progress.say(f"adapter before: {parent.summary}")

    # --- one step

    def _ending(self, stop: GracefulInterrupt) -> int:
        """Why this process would stop now, as an index into `_ENDINGS`; 0 goes on."""
        if stop.wanted:
            return 2
        return int(self.counters.scores_without_best >= self.settings.select.patience)

    def _seed(self, step: int) -> None:
        """Seed the random numbers of a step by the run's seed, the step and the rank.

        Neither a resume nor a step that is retried in smaller batches draws others.
        """
        text = f"{self.settings.train.seed}/{step}/{self.distributed.rank}"
        torch.manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big"))

    def _add_gradients(self, step: int, values: dict[str, list[Tensor]]) -> str:
        """Run the forward and backward passes of a step; why memory ran out, else an empty text.

        The caller releases memory: in the except block, the traceback and the last term hold the
        tensors that must go.

        Args:
            values: the losses are added here, by name.
        """
        batch = self.counters.micro_batch
        # Another device works on its own, and ends this part of the work with the step.
        replay = "replay" if self.model.device.type == "cpu" else "steps"
        try:
            for activity, terms in (
                ("steps", self.objective.domain_terms(step, batch)),
                (replay, self.objective.replay_terms(step, batch)),
            ):
                with self.stopwatch.measure(activity):
                    for term in terms:
                        loss = term.loss * self.distributed.loss_scale
                        self.distributed.accelerator.backward(loss)
                        for name, value in term.values.items():
                            values[name].append(value)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return str(error) or type(error).__name__
        return ""

    def _back_off(self, step: int, reason: str) -> None:
        """After running out of memory: halve the micro-batch; the effective batch stays.

        Args:
            reason: empty in a process that had enough memory.

        Raises:
            MachineError: one clip at a time does not fit; everything is saved before.
        """
        self.optimizer.zero_grad(set_to_none=True)
        release_memory(self.model.device)
        counters = self.counters
        tried = self.objective.largest_batch(step, counters.micro_batch) or 1
        tried = self.distributed.highest(tried)
        if tried == 1:
            self._save_state(step)
            dataset = self.prepared.dataset
            indices = self.prepared.sampler.plan(step).indices
            longest = max(indices, key=lambda index: dataset.seconds[index])
            cause = first_line(reason) if reason else "in another process"
            raise MachineError(
                f"out of memory with one clip at a time; the longest clip of step {step + 1} is "
                f"{dataset.utterances[longest].id} ({dataset.seconds[longest]:.1f} s)",
                where=self.run.path,
                hint="leave long clips out: --resume --set data.max_clip_s=10; or ask what fits: "
                f"moonshine-tune estimate ({cause})",
            )
        counters.micro_batch = max(tried // 2, 1)
        counters.out_of_memory += 1
        self.log(step, {"out_of_memory": 1, "micro_batch": counters.micro_batch})
        self.progress.say(
            f"out of memory at step {step + 1}: continuing with {counters.micro_batch} clips at a "
            "time and the same effective batch"
        )

    # --- scores, and what is saved

    def _evaluate(self, step: int) -> None:
        """Filter the adapter, score it, keep it if it is the best so far, save the state.

        Rank zero does; all processes go on with the filtered adapter.
        """
        self._filter(step)
        if not self.distributed.is_rank_zero:
            return
        with self.stopwatch.measure("scoring"):
            candidate, dev = self._score(step)
        if candidate.dev_loss is not None and not math.isfinite(candidate.dev_loss):
            # The state on the disk stays the one before: a resume can go on from there.
            raise MachineError(
                f"the loss on dev is not finite after step {step}: the training diverged",
                where=self.run.path,
                hint="continue from the step before with a lower rate: --resume --set "
                "train.learning_rate=1e-4, or start again",
            )
        state = adapter_state(self.model)
        self.log(step, candidate.figures())
        self._late.keep(step, state)
        is_best = self.rule.is_better(candidate, self.counters.best)
        if is_best:
            counters = self.counters
            counters.best, counters.scores_without_best = candidate, 0
            self.best_state = state
            if counters.chosen is None or self.rule.is_better(candidate, counters.chosen):
                counters.chosen, self.chosen_state = None, {}
                self._keep_adapter(candidate, dev, state)
        else:
            self.counters.scores_without_best += 1
        self._save_state(step)
        self.progress.say(f"step {step}: {candidate.summary}{', best so far' if is_best else ''}")

    def _filter(self, step: int) -> None:
        """Filter the adapter that trains, by the share of the run since the last score.

        What it takes out and the domain needs is learned again until the end, where the finished
        adapter is filtered with the full weight.
        """
        if not self._is_filtered:
            return
        state = None
        if self.distributed.is_rank_zero:
            share = min(self.settings.select.every_steps / self.settings.train.steps, 1.0)
            state = self._filtered_state(step, share, SCORE_CLIPS)
        state = self.distributed.broadcast(state)
        if state is not None:
            load_adapter_state(self.model, state)

    def _filtered_state(self, steps: int, share: float, num_clips: int) -> dict[str, Tensor] | None:
        """The model's adapter after `steps` steps, filtered by a share of the weight.

        None where that does not fit in memory, not even clip by clip without what a training step
        left there.
        """
        for max_batch in (0, 1):
            try:
                with self.stopwatch.measure("filter"):
                    return filtered_adapter(
                        self.model,
                        self.objective,
                        steps,
                        weight=share * self.settings.retain.filter_weight,
                        num_clips=num_clips,
                        max_batch=max_batch,
                        progress=self.progress,
                    )
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            release_memory(self.model.device)
        self.progress.say("out of memory: the adapter is not filtered this time")
        return None

    def _score(
        self, step: int, strength: float = 1.0, averaged: int = 0, filter_weight: float = 0.0
    ) -> tuple[Candidate, SetScore]:
        """Score the adapter as it is on every held-out set; returns the details of dev too."""
        self.model.module.eval()
        trim_heap()
        prepared, progress = self.prepared, self.progress
        with adapter_scale(self.model, strength):
            dev = prepared.dev.score(self.model, progress)
            augmented = canary = None
            if prepared.dev_augmented is not None:
                augmented = prepared.dev_augmented.score(self.model, progress).score.wer
            if prepared.canary is not None:
                canary = prepared.canary.score(self.model, progress).score.wer
                self.counters.baseline_hypotheses = prepared.canary.baseline_hypotheses
            loss = None
            if is_tiny(prepared.dev.utterances):
                # Smaller changes say nothing: patience would wait for them.
                loss = round(prepared.dev.word_loss(self.model, progress), 3)
        self.counters.drafts = {scored.name: scored.drafts for scored in prepared.scored_sets}
        words = dev.score.words.reference * (1 if augmented is None else 2)
        self.rule = replace(self.rule, dev_words=words)
        progress.transcripts([(item.reference, item.hypothesis) for item in dev.scored[:12]])
        candidate = Candidate(
            step=step,
            dev_wer=dev.score.wer,
            canary_wer=canary,
            strength=strength,
            averaged=averaged,
            filter_weight=filter_weight,
            dev_augmented_wer=augmented,
            canary=prepared.canary.title if prepared.canary is not None else "",
        )
        if loss is not None:
            candidate = candidate.model_copy(update={"dev_loss": loss})
        return candidate, dev

    def _keep_adapter(self, candidate: Candidate, dev: SetScore, state: dict[str, Tensor]) -> None:
        """Replace the adapter on disk, and its transcripts of dev."""
        with self.stopwatch.measure("writing"):
            self._write_adapter(candidate, state)
        write_jsonl_atomic(self.run.dev_hypotheses_path, [item.to_record() for item in dev.scored])

    def _write_adapter(self, candidate: Candidate, state: dict[str, Tensor]) -> None:
        with complete_folder(self.run.adapter_dir, replace=True) as scratch, safetensors_errors():
            save_adapter(
                scratch, self.model, state, scale=candidate.strength, base=self.opened.base
            )
            write_selection(scratch, candidate)

    def _save_state(self, next_step: int) -> None:
        """Write everything that an exact resume needs; rank zero does."""
        if not self.distributed.is_rank_zero:
            return
        seconds = self.stopwatch.seconds.items()
        self.counters.time = {name: round(taken, 3) for name, taken in seconds}
        state = TrainingState(next_step, self.counters, self.best_state, self.chosen_state)
        with self.stopwatch.measure("writing"):
            save_state(self.run.state_dir, self.model, self.optimizer.optimizer, state)
        self._saved_at = time.monotonic()

    # --- the end

    def _finish(self, stopped: str, steps: int, start_time: float) -> TrainResult:
        """Choose the strength of the best adapter and build the result."""
        best, baseline = self.counters.best, self.counters.baseline
        if baseline is None:
            raise RequestError("the saved state has no baseline", where=self.run.state_dir)
        if best is None:
            # Interrupted before the first score. The adapter so far is written, but it does not
            # count as a score of the run, so that a resumed run equals an uninterrupted one.
            best, dev = self._score(steps)
            self._keep_adapter(best, dev, adapter_state(self.model))
        elif stopped == "interrupted":
            best = self.counters.chosen or best
        else:
            with self.stopwatch.measure("choice"):
                best = self._choose(best, steps)
        sealed = with_checksums(best, self.run.adapter_dir)
        parent = self.counters.parent
        verdict = verdict_on(baseline, best, self.rule.allows(best), parent)
        first_loss, last_loss = first_and_last_losses(self.run)
        result = TrainResult(
            run=self.run.path,
            adapter=self.run.adapter_dir,
            stopped=stopped,
            steps=steps,
            skipped_steps=self.counters.skipped,
            baseline=baseline,
            best=sealed,
            canary_held=self.rule.allows(best),
            verdict=verdict,
            first_loss=first_loss,
            last_loss=last_loss,
            seconds=round(time.monotonic() - start_time, 1),
            train_seconds=round(self.counters.train_seconds, 1),
            prepare_seconds=round(self.prepared.seconds, 1),
            time={name: round(taken, 1) for name, taken in self.stopwatch.seconds.items()},
            peak_memory_mb=memory_mb(self.model.device).peak_resident_mb,
            voices=self.prepared.voices,
            synthetic=self.prepared.synthetic,
            pseudo_labels=self.prepared.pseudo_labels,
            remarks=(*self.prepared.remarks, *_verdict_remarks(verdict, baseline, best, parent)),
        )
        return result if parent is None else result.model_copy(update={"parent": parent})

    def _choose(self, best: Candidate, steps: int) -> Candidate:
        """Choose mean and strength, and keep that adapter if no earlier choice is as good."""
        counters, trained = self.counters, adapter_state(self.model)
        candidate, dev, state = self._try_average(best, steps)
        candidate, dev, state = self._try_filter(candidate, dev, state, steps)
        candidate, dev = self._choose_strength(candidate, dev, state)
        load_adapter_state(self.model, trained)
        earlier = counters.chosen
        is_other = candidate != earlier
        if earlier is not None and is_other and not self.rule.is_better(candidate, earlier):
            self.progress.say(f"the adapter that was chosen before stays: {earlier.summary}")
            return earlier
        if dev is None:
            # The adapter is there already; its drift is new.
            write_selection(self.run.adapter_dir, candidate)
            return candidate
        counters.chosen, self.chosen_state = None, {}
        if candidate.is_choice:
            # A copy: one file cannot hold two names of one tensor.
            copied = {name: value.clone() for name, value in state.items()}
            counters.chosen, self.chosen_state = candidate, copied
        # The state first: a resume after a kill writes the adapter that it names.
        self._save_state(steps)
        self._keep_adapter(candidate, dev, state)
        return candidate

    def _try_average(
        self, best: Candidate, steps: int
    ) -> tuple[Candidate, SetScore | None, dict[str, Tensor]]:
        """The mean of the last adapters, if the settings ask for it and it is as good; else `best`.

        Returns its scores, its details of dev (None where nothing was scored) and its matrices.
        """
        mean = self._late.mean(steps)
        if mean is None:
            return best, None, self.best_state
        state, count = mean
        load_adapter_state(self.model, state)
        candidate, dev = self._score(steps, averaged=count)
        is_kept = self.rule.is_as_good(candidate, best)
        self.log(steps, {"average_of": count, **candidate.figures("average_")})
        verdict = "kept" if is_kept else "not as good"
        self.progress.say(f"mean of the last {count}: {candidate.summary}, {verdict}")
        return (candidate, dev, state) if is_kept else (best, None, self.best_state)

    def _try_filter(
        self, best: Candidate, dev: SetScore | None, state: dict[str, Tensor], steps: int
    ) -> tuple[Candidate, SetScore | None, dict[str, Tensor]]:
        """`best` without its effect on general speech alone, unless dev shows that it is worse.

        Returns its scores, its details of dev and its matrices; otherwise those that were given.
        """
        base = self.counters.baseline
        if not self._is_filtered or base is None:
            return best, dev, state
        weight = self.settings.retain.filter_weight
        load_adapter_state(self.model, state)
        filtered_state = self._filtered_state(steps, 1.0, FINAL_CLIPS)
        if filtered_state is None:
            return best, dev, state
        load_adapter_state(self.model, filtered_state)
        candidate, filtered_dev = self._score(
            best.step, averaged=best.averaged, filter_weight=weight
        )
        is_kept = self.rule.keeps_gain(candidate, best, base)
        self.log(steps, {"filter_weight": weight, **candidate.figures("filtered_")})
        verdict = "kept" if is_kept else "not as good"
        self.progress.say(f"filtered by general speech: {candidate.summary}, {verdict}")
        return (candidate, filtered_dev, filtered_state) if is_kept else (best, dev, state)

    def _choose_strength(
        self, best: Candidate, dev: SetScore | None, state: dict[str, Tensor]
    ) -> tuple[Candidate, SetScore | None]:
        """Weaken an adapter that costs too much general speech, as far as that can be measured."""
        strengths = self.settings.retain.strengths
        measured = self.prepared.canary is not None or self.prepared.drift is not None
        if not measured or not strengths or strengths == (1.0,):
            return best, dev
        load_adapter_state(self.model, state)
        if self.prepared.drift is not None:
            return self._strength_by_drift(self.prepared.drift, best, dev)
        made_by = (best.averaged, best.filter_weight)
        tried = {value: self._score(best.step, value, *made_by) for value in strengths}
        for strength, (candidate, _) in tried.items():
            self.progress.say(f"strength {strength:g}: {candidate.summary}")
            self.log(best.step, {"strength": strength, **candidate.figures("strength_")})
        chosen = self.rule.choose([candidate for candidate, _ in tried.values()])
        return tried[chosen.strength]

    def _strength_by_drift(
        self, general: GeneralDrift, best: Candidate, dev: SetScore | None
    ) -> tuple[Candidate, SetScore | None]:
        """The largest strength that keeps the drift within its bound, scored on dev and canary."""
        bound = self.settings.select.max_drift
        self.model.module.eval()

        def drift_at(strength: float) -> float:
            with adapter_scale(self.model, strength):
                drift = general.measure(self.model)
            self.progress.say(f"strength {strength:g}: drift {drift:.4f} of at most {bound:g}")
            self.log(best.step, {"strength": strength, "strength_drift": drift})
            return drift

        strength, drift = strength_within(bound, self.settings.retain.strengths, drift_at)
        if strength == 1.0:
            return best.model_copy(update={"drift": drift}), dev
        candidate, dev = self._score(best.step, strength, best.averaged, best.filter_weight)
        candidate = candidate.model_copy(update={"drift": drift})
        self.progress.say(f"strength {strength:g}: {candidate.summary}")
        self.log(best.step, {"strength": strength, **candidate.figures("strength_")})
        return candidate, dev


def _verdict_remarks(
    verdict: str, base: Candidate, best: Candidate, parent: Candidate | None
) -> list[str]:
    """A remark on an adapter that should not be used."""
    if verdict == BETTER:
        return []
    before = parent if parent and verdict == NOT_BETTER_THAN_PARENT else base
    return [f"{verdict}: {before.summary} before, {best.summary} after"]
