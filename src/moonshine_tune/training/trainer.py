"""One training run held together: its losses, its scores, what it saves.

The order of work is in `training/run.py`.
"""

import hashlib
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from moonshine_tune.config.settings import RunSettings
from moonshine_tune.core.device import (
    MemoryReading,
    clear_cache_every,
    memory_mb,
    release_memory,
    supports_foreach,
    supports_fused,
    trim_heap,
)
from moonshine_tune.core.errors import MachineError
from moonshine_tune.core.files import complete_folder, write_json_atomic, write_jsonl_atomic
from moonshine_tune.core.nested import flatten
from moonshine_tune.core.progress import Progress
from moonshine_tune.core.text import first_line
from moonshine_tune.corpus.sampler import StepPlan
from moonshine_tune.inference.scored_set import HoldoutScore
from moonshine_tune.models.lora import adapter_parameters, adapter_scale, save_adapter
from moonshine_tune.models.losses import (
    FrozenHead,
    head_cross_entropy_sum,
    head_kl_sum,
    target_batch,
)
from moonshine_tune.registry.open import OpenedModel
from moonshine_tune.runs.folder import RunFolder
from moonshine_tune.training.board import TensorBoardLogger
from moonshine_tune.training.distributed import Distributed
from moonshine_tune.training.late_average import LateAdapters
from moonshine_tune.training.loggers import Tracker
from moonshine_tune.training.prepare import TrainingSetup
from moonshine_tune.training.resume import (
    TrainingState,
    has_state,
    load_state,
    safetensors_errors,
    save_state,
)
from moonshine_tune.training.schedule import learning_rate_share
from moonshine_tune.training.selection import Candidate, SelectionRule
from moonshine_tune.training.teacher import base_hidden

_SELECTION_FILE = "selection.json"


@dataclass
class Counters:
    """The loop's own counters; they go into the saved state, so their size must not grow.

    `micro_batch` is 0 until memory has asked for less than the settings do. `baseline_hypotheses`
    holds the base model's transcripts of a canary without texts.
    """

    skipped: int = 0
    micro_batch: int = 0
    out_of_memory: int = 0
    skipped_in_a_row: int = 0
    scores_without_best: int = 0
    train_seconds: float = 0.0
    baseline_hypotheses: dict[str, str] = field(default_factory=dict)
    baseline: dict[str, Any] | None = None
    best: dict[str, Any] | None = None

    def candidate(self, name: str) -> Candidate | None:
        record = getattr(self, name)
        return Candidate(**record) if record else None


@dataclass(frozen=True)
class Scored:
    """A candidate with what it heard on the dev set."""

    candidate: Candidate
    dev: HoldoutScore

    @property
    def words(self) -> int:
        """Words of dev that the candidate is judged by."""
        times = 1 if self.candidate.dev_augmented_wer is None else 2
        return self.dev.score.words.reference * times

    def figures(self, prefix: str = "") -> dict[str, float | None]:
        """Its scores for the log."""
        told = {"dev_wer": self.candidate.dev_wer, "canary_wer": self.candidate.canary_wer}
        if self.candidate.dev_augmented_wer is not None:
            told["dev_augmented_wer"] = self.candidate.dev_augmented_wer
        return {f"{prefix}{name}": value for name, value in told.items()}


class Trainer:
    """The parts of one run. `counters` is what the loop counts, `micro_batch` what fits memory.

    Attributes:
        best_state: matrices of the best adapter so far.
        term_names: the losses that a step of this run has.
    """

    def __init__(
        self,
        settings: RunSettings,
        opened: OpenedModel,
        setup: TrainingSetup,
        run: RunFolder,
        processes: Distributed,
        progress: Progress,
    ) -> None:
        self.settings, self.opened, self.setup = settings, opened, setup
        self.run, self.processes, self.progress = run, processes, progress
        self.model = opened.model
        self.accelerator = processes.accelerator
        groups = _parameter_groups(settings, opened)
        device = self.model.device
        optimizer = torch.optim.AdamW(
            groups, foreach=supports_foreach(device), fused=supports_fused(device)
        )
        self.optimizer = self.accelerator.prepare(optimizer)
        self._head = FrozenHead(self.model.head_weight)
        self.counters = Counters()
        self.rule = SelectionRule(None, settings.select.canary_bound)
        self.best_state: dict[str, Tensor] = {}
        self.term_names = ("loss", *_replay_terms(setup))
        self.late = LateAdapters(run.path, settings.select.average_last)
        self._board: TensorBoardLogger | None = None
        self._tracker: Tracker | None = None
        self._saved_at = time.monotonic()

    def resume(self) -> int | None:
        """Put the saved state back and open the log after it; returns the next step.

        None where the run was stopped before it saved anything: it begins anew.

        Raises:
            RequestError: no state is whole, or it belongs to another adapter shape.
        """
        if not has_state(self.run.state_dir):
            self.progress.say("nothing was saved yet: beginning at the first step")
            self._open_log(-1)
            return None
        state = load_state(self.run.state_dir, self.model, self.optimizer.optimizer)
        if state.remark:
            self.progress.say(state.remark)
        names = {item.name for item in fields(Counters)}
        vars(self.counters).update({k: v for k, v in state.counters.items() if k in names})
        self.best_state = state.best
        if self.setup.canary is not None:
            self.setup.canary.restore_first_heard(self.counters.baseline_hypotheses)
        self._restore_best()
        self._open_log(state.step)
        return state.step

    def start_log(self) -> None:
        """Open the log of a new run."""
        if self.processes.is_rank_zero:
            self._board = TensorBoardLogger(self.run.tensorboard_dir)
            self._open_tracker()

    def _open_log(self, step: int) -> None:
        """Go on with the log after `step`: what a killed run wrote later is written again."""
        if self.processes.is_rank_zero:
            self.run.cut_metrics(step)
            self._board = TensorBoardLogger(self.run.tensorboard_dir, first_step=step + 1)
            self._open_tracker()

    def _open_tracker(self) -> None:
        if self.settings.tracker:
            told = dict(flatten(self.settings.model_dump(mode="json")))
            self._tracker = Tracker(self.settings.tracker, self.run.path, told, self.progress)

    def close(self) -> None:
        """Close what is open."""
        if self._board is not None:
            self._board.close()
        if self._tracker is not None:
            self._tracker.close()

    def start_step(self, step: int) -> float:
        """Set the rates and the random numbers of a step; returns the share of the peak rate.

        Random numbers are a function of seed, step and process: neither a resume nor a step that
        is tried again in smaller pieces draws others.
        """
        text = f"{self.settings.train.seed}/{step}/{self.processes.place}"
        torch.manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big"))
        train = self.settings.train
        share = learning_rate_share(
            step,
            steps=train.steps,
            warmup_share=train.warmup_share,
            final_share=train.final_rate_share,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * share
        return share

    def terms(self, step: int) -> Iterator[tuple[str, Tensor, float]]:
        """This process's losses of an optimizer step, one forward at a time.

        Each is divided by the count of the whole step, all processes together. Yields name, loss,
        and what the loss is multiplied by to be reported.
        """
        plan = self.setup.sampler.plan(step)
        tokens = self.setup.corpus.tokens
        count = sum(len(tokens[index]) + 1 for index in plan.indices)
        for batch in self._fitting(plan):
            texts = [tokens[index] for index in batch]
            targets = target_batch(texts, self.model.device, pad_to_bucket=True)
            heard = self.setup.hearing.heard(batch, step)
            pull = self.settings.retain.domain_weight
            with self.processes.autocast():
                states = self.setup.states.batch(heard)
                hidden = self.model.decoder_hidden(states, targets.input_ids)
                loss = head_cross_entropy_sum(hidden, self._head, targets.targets)
                loss = loss / count
                told = float(loss.detach())
                if pull:
                    base = base_hidden(self.model, self.setup.states, heard, targets.input_ids)
                    drift = head_kl_sum(hidden, base, self._head, targets.targets)
                    # One graph, so one sum goes back; what is reported stays the loss alone.
                    loss = loss + drift * (pull / count)
            yield "loss", loss, told / (float(loss.detach()) or 1.0) if pull else 1.0
        if self.setup.replay is not None:
            yield from self._replay_terms(step)

    def _replay_terms(self, step: int) -> Iterator[tuple[str, Tensor, float]]:
        replay, weight = self.setup.replay, self.settings.retain.weight
        if replay is None:
            return
        plan = replay.sampler.plan(step)
        count = replay.num_targets(plan.indices)
        for batch in self._fitting(plan):
            taught = [index for index in batch if index not in replay.transcripts]
            told = [index for index in batch if index in replay.transcripts]
            if taught:
                with self.processes.autocast():
                    pull = replay.teacher.kl_sum(taught, self._head) * (weight / count)
                yield "replay_kl", pull, 1.0 / weight
            if told:
                texts = [replay.transcripts[index] for index in told]
                targets = target_batch(texts, self.model.device, pad_to_bucket=True)
                with self.processes.autocast():
                    states = replay.source.batch(told)
                    hidden = self.model.decoder_hidden(states, targets.input_ids)
                    loss = head_cross_entropy_sum(hidden, self._head, targets.targets)
                    loss = loss * (weight / count)
                yield "replay_loss", loss, 1.0 / weight

    def _fitting(self, plan: StepPlan) -> Iterator[Sequence[int]]:
        """This process's micro-batches, cut smaller where memory has asked for it."""
        for batch in plan.share(self.processes.place, self.processes.count).micro_batches:
            size = self.counters.micro_batch or len(batch)
            for start in range(0, len(batch), size):
                yield batch[start : start + size]

    def back_off(self, step: int, reason: str) -> None:
        """After out-of-memory: half the micro-batch from here on; the effective batch stays.

        Args:
            reason: empty in a process that had memory enough.

        Raises:
            MachineError: one clip at a time does not fit; everything is saved before.
        """
        self.optimizer.zero_grad(set_to_none=True)
        release_memory(self.model.device)
        plans = [self.setup.sampler.plan(step)]
        if self.setup.replay is not None:
            plans.append(self.setup.replay.sampler.plan(step))
        tried = max((len(batch) for plan in plans for batch in self._fitting(plan)), default=1)
        tried = self.processes.highest(tried)
        if tried == 1:
            self.save_state(step)
            corpus = self.setup.corpus
            cause = first_line(reason) if reason else "in another process"
            longest = max(plans[0].indices, key=lambda index: corpus.seconds[index])
            raise MachineError(
                f"out of memory with one clip at a time; the longest clip of step {step + 1} is "
                f"{corpus.utterances[longest].id} ({corpus.seconds[longest]:.1f} s)",
                where=self.run.path,
                hint="leave long clips out: --resume --set data.max_clip_s=10; or ask what fits: "
                f"moonshine-tune estimate ({cause})",
            )
        self.counters.micro_batch = max(tried // 2, 1)
        self.counters.out_of_memory += 1
        self.log(step, {"out_of_memory": 1, "micro_batch": self.counters.micro_batch})
        self.progress.say(
            f"out of memory at step {step + 1}: going on with {self.counters.micro_batch} clips "
            "at a time, the same effective batch"
        )

    def memory(self) -> MemoryReading:
        """Memory of this process and its device."""
        return memory_mb(self.model.device)

    def clear_cache(self, step: int) -> None:
        """On MPS, give cached memory back now and then."""
        clear_cache_every(self.model.device, step, self.settings.device.clear_cache_steps)

    def log(self, step: int, record: dict[str, Any]) -> None:
        """One line of metrics.jsonl, and the same numbers for TensorBoard.

        Numbers that are not finite become null: NaN is no JSON.
        """
        if self._board is None:
            return
        clean = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in record.items()
        }
        self.run.append_metrics({"step": step, **clean})
        numbers = {k: float(v) for k, v in clean.items() if isinstance(v, int | float)}
        self._board.add(step, {k.replace("_", "/", 1): v for k, v in numbers.items()})
        if self._tracker is not None:
            self._tracker.add(step, numbers)
        self.progress.figures(step, numbers)

    def score(self, step: int, strength: float = 1.0, averaged: int = 0) -> Scored:
        """Dev and canary WER of the adapter as it is; dev once more changed, where training is."""
        self.model.module.eval()
        trim_heap()
        with adapter_scale(self.model, strength):
            dev = self.setup.dev.score(self.model, self.progress)
            changed = self.setup.dev_augmented
            hard = changed.score(self.model, self.progress) if changed else None
            canary = self.setup.canary
            kept = canary.score(self.model, self.progress) if canary else None
        if canary is not None:
            self.counters.baseline_hypotheses = canary.baseline_hypotheses
        canary_wer = kept.score.wer if kept else None
        self.progress.transcripts([(item.reference, item.hypothesis) for item in dev.scored[:3]])
        hard_wer = hard.score.wer if hard else None
        candidate = Candidate(step, dev.score.wer, canary_wer, strength, averaged, hard_wer)
        return Scored(candidate, dev)

    def save_best(self, scored: Scored, state: dict[str, Tensor]) -> None:
        """Put the best adapter on disk, in the place of the last best, and what it heard on dev."""
        self._write_adapter(scored.candidate, state)
        write_jsonl_atomic(
            self.run.dev_hypotheses_path, [item.to_record() for item in scored.dev.scored]
        )

    def save_state(self, next_step: int) -> None:
        """Put everything on disk that an exact resume needs; the main process does."""
        if not self.processes.is_rank_zero:
            return
        state = TrainingState(next_step, dict(vars(self.counters)), self.best_state)
        save_state(self.run.state_dir, self.model, self.optimizer.optimizer, state)
        self._saved_at = time.monotonic()

    def save_state_when_due(self, step: int) -> None:
        """Save the state where the last one is older than the settings allow."""
        if time.monotonic() - self._saved_at >= self.settings.train.save_every_minutes * 60:
            self.save_state(step)

    def _write_adapter(self, candidate: Candidate, state: dict[str, Tensor]) -> None:
        with complete_folder(self.run.adapter_dir, replace=True) as scratch, safetensors_errors():
            save_adapter(
                scratch, self.model, state, scale=candidate.strength, base=self.opened.base
            )
            write_json_atomic(scratch / _SELECTION_FILE, candidate.to_record())

    def _restore_best(self) -> None:
        """Make `adapter/` what the state says: a kill may have come between the two."""
        best = self.counters.candidate("best")
        if best is None or not self.best_state or not self.processes.is_rank_zero:
            return
        try:
            text = (self.run.adapter_dir / _SELECTION_FILE).read_text(encoding="utf-8")
            is_same = json.loads(text) == best.to_record()
        except (OSError, ValueError):
            is_same = False
        if not is_same:
            self._write_adapter(best, self.best_state)


def _replay_terms(setup: TrainingSetup) -> tuple[str, ...]:
    if setup.replay is None:
        return ()
    names = []
    if setup.replay.teacher.said:
        names.append("replay_kl")
    if setup.replay.transcripts:
        names.append("replay_loss")
    return tuple(names)


def _parameter_groups(settings: RunSettings, opened: OpenedModel) -> list[dict[str, Any]]:
    """Rates by place: the encoder's, and B's apart from the others' where LoRA+ is asked for."""
    train = settings.train
    groups: dict[float, list[Tensor]] = {}
    for name, value in adapter_parameters(opened.model.module):
        rate = train.encoder_learning_rate if ".encoder." in name else train.learning_rate
        if ".lora_B." in name:
            rate *= train.lora_plus_ratio
        groups.setdefault(rate, []).append(value)
    return [
        {"params": found, "lr": rate, "peak": rate, "weight_decay": train.weight_decay}
        for rate, found in groups.items()
    ]
