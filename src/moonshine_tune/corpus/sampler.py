"""Which utterances each optimizer step sees. Metadata only: no audio is touched.

The order is a pure function of the seed and the step, so a resumed run sees what an unbroken one
would have seen.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class StepPlan:
    """Indices of one optimizer step, parted into micro-batches of similar length."""

    micro_batches: tuple[tuple[int, ...], ...]

    @property
    def indices(self) -> tuple[int, ...]:
        """All indices of the step."""
        return tuple(index for batch in self.micro_batches for index in batch)

    def share(self, place: int, places: int) -> "StepPlan":
        """What process `place` of `places` works on: every `places`-th utterance from it on.

        The step's utterances come by length, so the shares weigh about the same. Micro-batches
        are no larger than before; with fewer utterances than processes a share is empty.
        """
        if places == 1:
            return self
        size = max(len(batch) for batch in self.micro_batches)
        mine = self.indices[place::places]
        return StepPlan(tuple(mine[start : start + size] for start in range(0, len(mine), size)))


@dataclass(frozen=True)
class CurriculumStage:
    """A part of the run that sees some of the clips.

    Attributes:
        steps: optimizer steps of the stage.
        max_clip_s: longest clip that it draws.
        members: the only ones that it draws; None for all.
    """

    steps: int
    max_clip_s: float
    members: frozenset[int] | None = None


# Draws the order of one epoch: as many indices as there are utterances.
EpochOrder = Callable[[random.Random], list[int]]


def _each_once(count: int) -> EpochOrder:
    def order(chance: random.Random) -> list[int]:
        found = list(range(count))
        chance.shuffle(found)
        return found

    return order


def balanced_order(speakers: Sequence[str | None], balance: float) -> EpochOrder:
    """Epochs in which a speaker with n clips is drawn in proportion to n to the power 1 − balance.

    A speaker's clips are all drawn before one is drawn again. Utterances without a speaker count as
    one each: nothing says that they belong together.
    """
    groups: dict[str, list[int]] = {}
    for index, speaker in enumerate(speakers):
        groups.setdefault(speaker or f"\0{index}", []).append(index)
    members = [groups[name] for name in sorted(groups)]
    weights = [len(group) ** (1.0 - balance) for group in members]

    def order(chance: random.Random) -> list[int]:
        found: list[int] = []
        # Rounded at random, so that a share below one clip an epoch comes now and then.
        owed, scale = chance.random(), len(speakers) / sum(weights)
        for group, weight in zip(members, weights, strict=True):
            owed += weight * scale
            count, owed = int(owed), owed - int(owed)
            while count > 0:
                found += chance.sample(group, min(count, len(group)))
                count -= len(group)
        found = (found + chance.sample(range(len(speakers)), 1))[: len(speakers)]
        chance.shuffle(found)
        return found

    return order


def easy_first_stages(
    losses: Sequence[float], steps: int, share: float
) -> tuple[CurriculumStage, ...]:
    """Three stages: the easiest third, the easier two thirds, all.

    Args:
        losses: the base model's loss a token on each utterance; low is easy.
        steps: of the whole run.
        share: of the steps that hear only a part.
    """
    ranked = sorted(range(len(losses)), key=lambda index: (losses[index], index))
    early = max(round(steps * share / 2), 1)
    parts = [frozenset(ranked[: max(len(ranked) * part // 3, 1)]) for part in (1, 2)]
    return (
        CurriculumStage(early, float("inf"), parts[0]),
        CurriculumStage(early, float("inf"), parts[1]),
        CurriculumStage(max(steps - 2 * early, 1), float("inf")),
    )


class BucketSampler:
    """Length buckets: each step draws utterances of similar length, steps come in random order.

    An epoch is every utterance once. The utterances are shuffled, sorted by length within pools of
    several steps, and cut into steps of `batch_size · accumulation`; a step is cut into
    micro-batches. So batch 8 × 1 and batch 1 × 8 see the same utterances in every step.

    Args:
        seconds: length of each utterance.
        batch_size: utterances in a micro-batch.
        accumulation: micro-batches in a step.
        pool_steps: steps in a pool; more saves padding, fewer mixes lengths better.
        order: draws as many indices as there are utterances; without it, each once, shuffled.
    """

    def __init__(
        self,
        seconds: Sequence[float],
        *,
        batch_size: int,
        accumulation: int = 1,
        seed: int = 0,
        pool_steps: int = 16,
        order: "EpochOrder | None" = None,
    ) -> None:
        self._order = order or _each_once(len(seconds))
        self._seconds = tuple(seconds)
        self._batch_size = batch_size
        self._per_step = batch_size * accumulation
        self._seed = seed
        self._pool = self._per_step * pool_steps
        self._epoch = -1
        self._steps: list[StepPlan] = []

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch; the last one may be smaller."""
        return -(-len(self._seconds) // self._per_step)

    def plan(self, step: int) -> StepPlan:
        """The utterances of optimizer step `step`, counted from 0."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._steps = epoch, self._epoch_steps(epoch)
        return self._steps[place]

    def drawn(self, steps: int) -> tuple[int, ...]:
        """Every index that the first `steps` steps draw, ascending."""
        if steps >= self.steps_per_epoch:
            return tuple(range(len(self._seconds)))
        return tuple(sorted({index for step in range(steps) for index in self.plan(step).indices}))

    def _epoch_steps(self, epoch: int) -> list[StepPlan]:
        chance = random.Random(f"{self._seed}/{epoch}")
        order = self._order(chance)
        steps: list[StepPlan] = []
        for start in range(0, len(order), self._pool):
            pool = sorted(
                order[start : start + self._pool], key=lambda index: (self._seconds[index], index)
            )
            steps.extend(
                self._cut(pool[place : place + self._per_step])
                for place in range(0, len(pool), self._per_step)
            )
        chance.shuffle(steps)
        return steps

    def _cut(self, indices: list[int]) -> StepPlan:
        return StepPlan(
            tuple(
                tuple(indices[place : place + self._batch_size])
                for place in range(0, len(indices), self._batch_size)
            )
        )


class StagedSampler:
    """Short or easy clips first: one bucket sampler a stage, over the clips that it may draw.

    Args:
        speakers: of each utterance, where their share in the draws is to be balanced.
        balance: 0 draws each utterance once an epoch, 1 each speaker equally often.
    """

    def __init__(
        self,
        seconds: Sequence[float],
        stages: Sequence[CurriculumStage],
        *,
        batch_size: int,
        accumulation: int = 1,
        seed: int = 0,
        speakers: Sequence[str | None] = (),
        balance: float = 0.0,
    ) -> None:
        self._stages = tuple(stages)
        self._allowed = [
            tuple(
                i
                for i, length in enumerate(seconds)
                if length <= stage.max_clip_s and (stage.members is None or i in stage.members)
            )
            for stage in self._stages
        ]
        self._samplers = [
            BucketSampler(
                [seconds[index] for index in allowed],
                batch_size=batch_size,
                accumulation=accumulation,
                seed=seed + place,
                order=balanced_order([speakers[index] for index in allowed], balance)
                if balance > 0
                else None,
            )
            for place, allowed in enumerate(self._allowed)
        ]

    @property
    def utterances_by_stage(self) -> tuple[int, ...]:
        """How many utterances each stage may draw."""
        return tuple(len(allowed) for allowed in self._allowed)

    def stage_at(self, step: int) -> tuple[int, int]:
        """CurriculumStage of a step and the step's place in it; the last stage has no end."""
        for number, stage in enumerate(self._stages[:-1]):
            if step < stage.steps:
                return number, step
            step -= stage.steps
        return len(self._stages) - 1, step

    def plan(self, step: int) -> StepPlan:
        """The utterances of optimizer step `step`, counted from 0."""
        number, place = self.stage_at(step)
        allowed = self._allowed[number]
        plan = self._samplers[number].plan(place)
        return StepPlan(
            tuple(tuple(allowed[index] for index in batch) for batch in plan.micro_batches)
        )

    def drawn(self, steps: int) -> tuple[int, ...]:
        """Every index that the first `steps` steps draw, ascending."""
        found: set[int] = set()
        for number, stage in enumerate(self._stages):
            left = steps if number == len(self._stages) - 1 else min(stage.steps, steps)
            if left > 0:
                drawn = self._samplers[number].drawn(left)
                found.update(self._allowed[number][index] for index in drawn)
            steps -= left
        return tuple(sorted(found))
