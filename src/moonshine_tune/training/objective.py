"""What a training step minimizes: cross-entropy, and KL to the frozen base model."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from moonshine_tune.config.settings import RetainSettings
from moonshine_tune.corpus.sampler import StepPlan
from moonshine_tune.inference.encoder_cache import StateSource
from moonshine_tune.models.base import SpeechModel
from moonshine_tune.models.lora import AdapterDropout, adapter_disabled
from moonshine_tune.models.losses import (
    IGNORED,
    FrozenHead,
    TargetBatch,
    head_cross_entropy_sum,
    head_kl_sum,
    target_batch,
)
from moonshine_tune.training.distributed import Distributed
from moonshine_tune.training.prepare import PreparedTraining
from moonshine_tune.training.replay import Replay


@dataclass(frozen=True)
class LossTerm:
    """The loss of one forward pass, divided by the token count of the whole step.

    Attributes:
        loss: scalar with a graph, for the backward pass.
        values: scalars on the same device, without a graph and without weights, by their key in
            metrics.jsonl. They are not read here: reading waits for the device.
    """

    loss: Tensor
    values: Mapping[str, Tensor]


class Objective:
    """The losses of a run.

    Attributes:
        names: of the values that every step has: `loss`, and those of replay: `replay_kl`,
            `replay_states` (distance of the encoder states), `replay_loss`.
    """

    def __init__(
        self,
        retain: RetainSettings,
        model: SpeechModel,
        prepared: PreparedTraining,
        distributed: Distributed,
    ) -> None:
        self._retain, self._model, self._prepared = retain, model, prepared
        self._distributed = distributed
        self._head = FrozenHead(model.head_weight)
        self._dropout = AdapterDropout(model)
        replay = prepared.replay
        self.names = ["loss"]
        if replay is not None and replay.teacher.teacher_tokens:
            self.names.append("replay_kl")
            if replay.teacher.keeps_states:
                self.names.append("replay_states")
        if replay is not None and replay.transcripts:
            self.names.append("replay_loss")

    def domain_terms(self, step: int, max_batch: int) -> Iterator[LossTerm]:
        """This process's losses of a step on training clips, one forward pass at a time.

        Each is divided by the token count of the whole step over all processes, so their sum is the
        mean of the step. Where terms weigh more, it is the weighted mean.

        Args:
            max_batch: most clips in a forward pass; 0 for the size that the settings name.
        """
        plan = self._prepared.sampler.plan(step)
        for batch in self._micro_batches(plan, max_batch):
            yield self.term(batch, step, plan.indices)

    def run_domain_clips(self, step: int, max_batch: int) -> None:
        """The forward passes of `domain_terms`, of all processes in this one, without losses.

        Neither the head nor the base model is run.
        """
        prepared = self._prepared
        for batch in _cut(prepared.sampler.plan(step), max_batch):
            indices = prepared.augmented.augmented_indices(batch, step)
            texts = [prepared.dataset.tokens[index] for index in batch]
            with self._distributed.autocast():
                self._forward(prepared.states, indices, texts)

    def run_replay_clips(self, step: int, max_batch: int) -> None:
        """The same of `replay_terms`; nothing without replay audio."""
        replay = self._prepared.replay
        if replay is None:
            return
        for batch in _cut(replay.sampler.plan(step), max_batch):
            with self._distributed.autocast():
                self._forward(replay.source, batch, [replay.tokens(index) for index in batch])

    @property
    def clips_per_step(self) -> int:
        """Training clips of an optimizer step, over all processes."""
        return len(self._prepared.sampler.plan(0).indices)

    def batches(self, step: int, max_batch: int) -> list[Sequence[int]]:
        """The training clips of each forward pass of this process at a step."""
        return list(self._micro_batches(self._prepared.sampler.plan(step), max_batch))

    def num_targets(self, clips: Sequence[int]) -> int:
        """Target tokens of some training clips, end tokens included."""
        tokens = self._prepared.dataset.tokens
        return sum(len(tokens[index]) + 1 for index in clips)

    def total_weight(self, clips: Sequence[int]) -> float:
        """Weight of these target tokens: their number, where no term weighs more."""
        weights = self._prepared.term_weights
        return self.num_targets(clips) if weights is None else weights.total(clips)

    def term(self, batch: Sequence[int], step: int, clips: Sequence[int]) -> LossTerm:
        """The loss of some training clips in one forward pass, as a part of the mean of `clips`."""
        tokens, states = self._prepared.dataset.tokens, self._prepared.states
        self._dropout.draw()
        kl_weight = self._retain.domain_weight
        indices = self._prepared.augmented.augmented_indices(batch, step)
        with self._distributed.autocast():
            hidden, targets = self._forward(states, indices, [tokens[i] for i in batch])
            weights = self._prepared.term_weights
            own = None
            if weights is not None:
                own = weights.batch(batch, targets.targets.shape[1], hidden.device)
            total = head_cross_entropy_sum(hidden, self._head, targets.targets, own)
            loss = total / self.total_weight(clips)
            value = loss.detach()
            if kl_weight:
                # Computed in each step, at the price of a decoder pass: kept for every version of
                # every clip, it would take as much memory as the encoder states.
                with torch.no_grad(), adapter_disabled(self._model):
                    teacher = self._model.decoder_hidden(states.batch(indices), targets.input_ids)
                # On silence the base is no teacher: the words that it makes up must go.
                silent = torch.tensor([not tokens[i] for i in batch])
                kl_targets = targets.targets.masked_fill(silent[:, None], IGNORED)
                kl = head_kl_sum(hidden, teacher, self._head, kl_targets)
                loss = loss + kl * (kl_weight / self.num_targets(clips))
        return LossTerm(loss, {"loss": value})

    def largest_batch(self, step: int, max_batch: int) -> int:
        """Clips in the largest forward pass of this process at a step, 0 where it has none."""
        replay = self._prepared.replay
        plans = [self._prepared.sampler.plan(step)]
        plans += [replay.sampler.plan(step)] if replay is not None else []
        batches = (batch for plan in plans for batch in self._micro_batches(plan, max_batch))
        return max(map(len, batches), default=0)

    def replay_terms(self, step: int, max_batch: int) -> Iterator[LossTerm]:
        """The same on general speech; none without replay audio."""
        replay, weight = self._prepared.replay, self._retain.weight
        if replay is None:
            return
        plan = replay.sampler.plan(step)
        count = replay.num_targets(plan.indices)
        for batch in self._micro_batches(plan, max_batch):
            without_text = [index for index in batch if index not in replay.transcripts]
            with_text = [index for index in batch if index in replay.transcripts]
            if without_text:
                yield self._teacher_term(replay, without_text, count, len(plan.indices))
            if with_text:
                self._dropout.draw()
                texts = [replay.transcripts[index] for index in with_text]
                with self._distributed.autocast():
                    hidden, targets = self._forward(replay.source, with_text, texts)
                    total = head_cross_entropy_sum(hidden, self._head, targets.targets)
                value = total.detach() / count
                yield LossTerm(total * (weight / count), {"replay_loss": value})

    def _teacher_term(
        self, replay: Replay, batch: Sequence[int], num_targets: int, num_clips: int
    ) -> LossTerm:
        """Pull to the base model on replay clips: the words' distribution and the encoder states.

        One pass of the encoder serves both.

        Args:
            num_targets, num_clips: tokens and clips of the step's replay.
        """
        teacher, retain = replay.teacher, self._retain
        self._dropout.draw()
        with self._distributed.autocast():
            states = replay.source.batch(batch)
            kl = teacher.kl_sum(batch, states, self._head) / num_targets
            loss, values = kl * retain.weight, {"replay_kl": kl.detach()}
            if teacher.keeps_states:
                distance = teacher.states_distance_sum(batch, states) / num_clips
                loss = loss + distance * retain.encoder_weight
                values["replay_states"] = distance.detach()
        return LossTerm(loss, values)

    def _forward(
        self, source: StateSource, indices: Sequence[int], texts: Sequence[Sequence[int]]
    ) -> tuple[Tensor, TargetBatch]:
        """Hidden states [B, L, W] before the head for texts on some clips, and their targets."""
        targets = target_batch(texts, self._model.device, pad_to_bucket=True)
        hidden = self._model.decoder_hidden(source.batch(indices), targets.input_ids)
        return hidden, targets

    def _micro_batches(self, plan: StepPlan, max_batch: int) -> Iterator[Sequence[int]]:
        """This process's micro-batches, cut where memory does not hold them as they are."""
        distributed = self._distributed
        return _cut(plan.share(distributed.rank, distributed.world_size), max_batch)


def _cut(plan: StepPlan, max_batch: int) -> Iterator[Sequence[int]]:
    """The micro-batches of a plan, in parts of at most `max_batch` clips; 0 for any number."""
    for batch in plan.micro_batches:
        size = max_batch or len(batch)
        for start in range(0, len(batch), size):
            yield batch[start : start + size]
