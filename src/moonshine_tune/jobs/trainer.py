"""One training run held together: its losses, its scores, what it saves.

The order of work is in `jobs/train.py`.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from moonshine_tune.adapter import adapter_parameters, adapter_strength, save_adapter
from moonshine_tune.config import RunSettings
from moonshine_tune.device import MemoryReading, memory_mb, release_memory
from moonshine_tune.errors import MachineError
from moonshine_tune.files import complete_folder, write_json_atomic, write_jsonl_atomic
from moonshine_tune.holdout import HoldoutScore
from moonshine_tune.jobs.model_opening import OpenedModel
from moonshine_tune.jobs.train_setup import TrainingSetup
from moonshine_tune.loss import head_cross_entropy_sum, target_batch
from moonshine_tune.progress import Progress
from moonshine_tune.runs import RunFolder
from moonshine_tune.schedule import learning_rate_share
from moonshine_tune.selection import Candidate, SelectionRule
from moonshine_tune.state import TrainingState, save_state


@dataclass
class Counters:
    """The loop's own counters; they go into the saved state.

    `micro_batch` is 0 until memory has asked for less than the settings do.
    """

    skipped: int = 0
    micro_batch: int = 0
    out_of_memory: int = 0
    skipped_in_a_row: int = 0
    scores_without_best: int = 0
    train_seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
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


class Trainer:
    """The parts of one run. `counters` is what the loop counts, `micro_batch` what fits memory."""

    def __init__(
        self,
        settings: RunSettings,
        opened: OpenedModel,
        setup: TrainingSetup,
        run: RunFolder,
        progress: Progress,
    ) -> None:
        from accelerate import Accelerator
        from torch.utils.tensorboard import SummaryWriter

        self.settings, self.opened, self.setup = settings, opened, setup
        self.run, self.progress = run, progress
        self.model = opened.model
        mixed = "bf16" if opened.dtype.dtype == torch.bfloat16 else "no"
        self.accelerator = Accelerator(
            cpu=opened.device.device.type == "cpu", mixed_precision=mixed
        )
        if self.accelerator.num_processes > 1:
            raise MachineError(
                "training in several processes is not supported",
                hint="start it without `accelerate launch`; one process uses one device",
            )
        groups = _parameter_groups(settings, opened)
        self.optimizer = self.accelerator.prepare(torch.optim.AdamW(groups))
        self.board = SummaryWriter(str(run.tensorboard_dir))
        self.counters = Counters()
        self.rule = SelectionRule(None, settings.select.canary_bound)
        self._saved_at = time.monotonic()

    def terms(self, step: int) -> Iterator[tuple[str, Tensor, float]]:
        """The losses of one optimizer step, one forward at a time: name, loss, share reported."""
        plan = self.setup.sampler.plan(step)
        tokens = self.setup.corpus.tokens
        count = sum(len(tokens[index]) + 1 for index in plan.indices)
        for batch in self._fitting(plan.micro_batches):
            targets = target_batch([tokens[index] for index in batch], self.model.device)
            with self.accelerator.autocast():
                states = self.setup.states.batch(batch)
                hidden = self.model.decoder_hidden(states, targets.input_ids)
                loss = head_cross_entropy_sum(hidden, self.model.head_weight, targets.targets)
                loss = loss / count
            yield "loss", loss, 1.0
        replay, weight = self.setup.replay, self.settings.retain.weight
        if replay is None:
            return
        replay_plan = replay.sampler.plan(step)
        count = replay.teacher.num_targets(replay_plan.indices)
        for batch in self._fitting(replay_plan.micro_batches):
            with self.accelerator.autocast():
                pull = replay.teacher.kl_sum(batch) * (weight / count)
            yield "replay_kl", pull, 1.0 / weight

    def _fitting(self, batches: Sequence[Sequence[int]]) -> Iterator[Sequence[int]]:
        """The micro-batches, cut smaller where memory has asked for it."""
        size = self.counters.micro_batch or max(len(batch) for batch in batches)
        for batch in batches:
            for start in range(0, len(batch), size):
                yield batch[start : start + size]

    def back_off(self, step: int, reason: str) -> None:
        """After out-of-memory: half the micro-batch from here on; the effective batch stays.

        Raises:
            MachineError: one clip at a time does not fit; everything is saved before.
        """
        self.optimizer.zero_grad(set_to_none=True)
        release_memory(self.model.device)
        plan = self.setup.sampler.plan(step)
        now = self.counters.micro_batch or max(len(batch) for batch in plan.micro_batches)
        if now == 1:
            self.save_state(step)
            corpus = self.setup.corpus
            longest = max(plan.indices, key=lambda index: corpus.seconds[index])
            raise MachineError(
                f"out of memory with one clip at a time; the longest clip of step {step + 1} is "
                f"{corpus.utterances[longest].id} ({corpus.seconds[longest]:.1f} s)",
                where=self.run.path,
                hint="leave long clips out: --resume --set data.max_clip_s=10; "
                f"or ask what fits: moonshine-tune estimate ({reason.splitlines()[0][:200]})",
            )
        self.counters.micro_batch = max(now // 2, 1)
        self.counters.out_of_memory += 1
        self.log(step, {"out_of_memory": 1, "micro_batch": self.counters.micro_batch})
        self.progress.say(
            f"out of memory at step {step + 1}: going on with {self.counters.micro_batch} clips "
            "at a time, the same effective batch"
        )

    def save_state_when_due(self, step: int) -> None:
        """Save the state where the last one is older than the settings allow."""
        if time.monotonic() - self._saved_at >= self.settings.train.save_every_minutes * 60:
            self.save_state(step)

    def set_learning_rate(self, step: int) -> float:
        """Set the rates of this step; returns the share of the peak."""
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

    def memory(self) -> MemoryReading:
        """Memory of this process and its device."""
        return memory_mb(self.model.device)

    def log(self, step: int, record: dict[str, Any]) -> None:
        """One line of metrics.jsonl, and the same numbers for TensorBoard."""
        self.run.append_metrics({"step": step, **record})
        for name, value in record.items():
            if isinstance(value, int | float):
                self.board.add_scalar(name.replace("_", "/", 1), value, step)

    def score(self, step: int, strength: float = 1.0) -> Scored:
        """Dev and canary WER of the adapter as it is."""
        self.model.module.eval()
        with adapter_strength(self.model, strength):
            dev = self.setup.dev.score(self.model, self.progress)
            canary = self.setup.canary
            kept = canary.score(self.model, self.progress) if canary else None
        candidate = Candidate(step, dev.score.wer, kept.score.wer if kept else None, strength)
        return Scored(candidate, dev)

    def save_best(self, scored: Scored, state: dict[str, Tensor]) -> None:
        """Put the best adapter on disk, in the place of the last best, and what it heard on dev."""
        candidate = scored.candidate
        with complete_folder(self.run.adapter_dir, replace=True) as scratch:
            save_adapter(
                scratch, self.model, state, strength=candidate.strength, base=self.opened.base
            )
            write_json_atomic(scratch / "selection.json", candidate.to_record())
        write_jsonl_atomic(
            self.run.dev_hypotheses_path, [item.to_record() for item in scored.dev.scored]
        )

    def save_state(self, next_step: int) -> None:
        """Put everything on disk that an exact resume needs."""
        state = TrainingState(next_step, dict(vars(self.counters)))
        save_state(self.run.state_dir, self.model, self.optimizer.optimizer, state)
        self._saved_at = time.monotonic()


def _parameter_groups(settings: RunSettings, opened: OpenedModel) -> list[dict[str, Any]]:
    parameters = adapter_parameters(opened.model.module)
    sides = (
        (settings.train.learning_rate, [p for n, p in parameters if ".encoder." not in n]),
        (settings.train.encoder_learning_rate, [p for n, p in parameters if ".encoder." in n]),
    )
    return [
        {"params": found, "lr": rate, "peak": rate, "weight_decay": settings.train.weight_decay}
        for rate, found in sides
        if found
    ]
