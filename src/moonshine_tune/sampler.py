"""Which utterances each optimizer step sees. Metadata only: no audio is touched.

The order is a pure function of the seed and the step, so a resumed run sees what an unbroken one
would have seen.
"""

import random
from collections.abc import Sequence
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
    """

    def __init__(
        self,
        seconds: Sequence[float],
        *,
        batch_size: int,
        accumulation: int = 1,
        seed: int = 0,
        pool_steps: int = 16,
    ) -> None:
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
        order = list(range(len(self._seconds)))
        chance.shuffle(order)
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


@dataclass(frozen=True)
class Stage:
    """A part of the run that sees clips up to a length.

    Attributes:
        steps: optimizer steps of the stage.
        max_clip_s: longest clip that it draws.
    """

    steps: int
    max_clip_s: float


class StagedSampler:
    """Short clips first: one bucket sampler a stage, over the clips that the stage may draw."""

    def __init__(
        self,
        seconds: Sequence[float],
        stages: Sequence[Stage],
        *,
        batch_size: int,
        accumulation: int = 1,
        seed: int = 0,
    ) -> None:
        self._stages = tuple(stages)
        self._allowed = [
            tuple(i for i, length in enumerate(seconds) if length <= stage.max_clip_s)
            for stage in self._stages
        ]
        self._samplers = [
            BucketSampler(
                [seconds[index] for index in allowed],
                batch_size=batch_size,
                accumulation=accumulation,
                seed=seed + place,
            )
            for place, allowed in enumerate(self._allowed)
        ]

    @property
    def utterances_by_stage(self) -> tuple[int, ...]:
        """How many utterances each stage may draw."""
        return tuple(len(allowed) for allowed in self._allowed)

    def stage_at(self, step: int) -> tuple[int, int]:
        """Stage of a step and the step's place in it; the last stage has no end."""
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
