"""Which utterances each optimizer step uses. Metadata only: no audio is read.

The order is a pure function of the seed and the step, so a resumed run uses the same utterances as
an uninterrupted one.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

# With so many real clips, synthetic ones are half of a batch.
_REAL_CLIPS_FOR_HALF = 100


@dataclass(frozen=True)
class StepPlan:
    """Indices of one optimizer step, in micro-batches of similar length."""

    micro_batches: tuple[tuple[int, ...], ...]

    @property
    def indices(self) -> tuple[int, ...]:
        """All indices of the step."""
        return tuple(index for batch in self.micro_batches for index in batch)

    def share(self, rank: int, world_size: int) -> "StepPlan":
        """The part of one process of a distributed run: every `world_size`-th utterance.

        The utterances of a step are sorted by length, so all parts take about the same time.
        Micro-batches do not grow; with fewer utterances than processes a part is empty.
        """
        if world_size == 1:
            return self
        size = max(len(batch) for batch in self.micro_batches)
        part = self.indices[rank::world_size]
        return StepPlan(tuple(part[start : start + size] for start in range(0, len(part), size)))


@dataclass(frozen=True)
class CurriculumStage:
    """A part of the run that draws only some of the clips.

    Attributes:
        steps: optimizer steps of the stage.
        max_clip_s: longest clip that it draws, seconds.
        members: indices that it draws; None for all.
    """

    steps: int
    max_clip_s: float
    members: frozenset[int] | None = None


# Draws the order of one epoch: as many indices as there are utterances.
EpochOrder = Callable[[random.Random], list[int]]


def _each_once(count: int) -> EpochOrder:
    def order(rng: random.Random) -> list[int]:
        indices = list(range(count))
        rng.shuffle(indices)
        return indices

    return order


def balanced_order(speakers: Sequence[str | None], balance: float) -> EpochOrder:
    """Epochs that draw a speaker with n clips in proportion to n to the power of 1 - balance.

    All clips of a speaker are drawn before one is drawn again. Each utterance without a speaker
    counts as a speaker of its own.
    """
    groups: dict[str, list[int]] = {}
    for index, speaker in enumerate(speakers):
        groups.setdefault(speaker or f"\0{index}", []).append(index)
    members = [groups[name] for name in sorted(groups)]
    return weighted_order(members, [len(group) ** (1.0 - balance) for group in members])


def weighted_order(members: Sequence[Sequence[int]], weights: Sequence[float]) -> EpochOrder:
    """Epochs that draw from groups of indices in proportion to their weights.

    All of a group are drawn before one is drawn again.
    """
    num_indices = sum(map(len, members))

    def order(rng: random.Random) -> list[int]:
        indices: list[int] = []
        # Rounded at random, so that a share below one clip per epoch is drawn in some epochs.
        remainder, scale = rng.random(), num_indices / sum(weights)
        for group, weight in zip(members, weights, strict=True):
            remainder += weight * scale
            count, remainder = int(remainder), remainder - int(remainder)
            while count > 0:
                indices += rng.sample(group, min(count, len(group)))
                count -= len(group)
        # Rounding errors of the sum may leave the last clip out.
        indices = (indices + rng.sample(range(num_indices), 1))[:num_indices]
        rng.shuffle(indices)
        return indices

    return order


@dataclass(frozen=True)
class SyntheticMix:
    """Synthetic clips among real ones, at a fixed share of every step.

    Clips whose texts a model wrote count as synthetic ones.

    Attributes:
        is_synthetic: of each utterance.
        share: of the utterances of a step that are synthetic, 0 to 1.
    """

    is_synthetic: tuple[bool, ...]
    share: float

    def part(self, indices: Sequence[int]) -> "SyntheticMix | None":
        """The mix of some utterances; None where they are all of one kind."""
        kinds = tuple(self.is_synthetic[index] for index in indices)
        return SyntheticMix(kinds, self.share) if len(set(kinds)) > 1 else None

    def order(
        self, order_of: Callable[[Sequence[int]], EpochOrder | None], indices: Sequence[int]
    ) -> EpochOrder:
        """Epochs with the share of synthetic clips, evenly spread; as many draws as utterances.

        All clips of a kind are drawn before one of them is drawn again, unless its own order says
        otherwise.

        Args:
            order_of: the order of some of all utterances; None draws each once.
            indices: of these utterances among all.
        """
        kinds = [
            [position for position, value in enumerate(self.is_synthetic) if value is kind]
            for kind in (False, True)
        ]
        own_orders = [
            order_of([indices[position] for position in members]) or _each_once(len(members))
            for members in kinds
        ]
        total = len(self.is_synthetic)

        def order(rng: random.Random) -> list[int]:
            # Rounded at random, so that a share below one clip per epoch is drawn in some epochs.
            num_synthetic = min(int(self.share * total + rng.random()), total)
            draws = []
            for members, own, count in zip(
                kinds, own_orders, (total - num_synthetic, num_synthetic), strict=True
            ):
                drawn: list[int] = []
                while len(drawn) < count:
                    drawn += [members[position] for position in own(rng)]
                # At the middles of as many equal parts, a stretch of any length has the share.
                draws += [((k + 0.5) / count, index) for k, index in enumerate(drawn[:count])]
            return [index for _, index in sorted(draws)]

        return order


def automatic_synthetic_share(num_real: int, num_synthetic: int) -> float:
    """Share of synthetic clips in a step: 1 without real clips, 1/2 at 100, 1/11 at 1,000.

    It is 100 ÷ (100 + real clips), and never more than their share of all clips: a synthetic clip
    is not drawn more often than a real one.
    """
    if not num_synthetic:
        return 0.0
    by_real = _REAL_CLIPS_FOR_HALF / (_REAL_CLIPS_FOR_HALF + num_real)
    return min(by_real, num_synthetic / (num_real + num_synthetic))


def easy_first_stages(
    losses: Sequence[float], steps: int, share: float
) -> tuple[CurriculumStage, ...]:
    """Three stages: the easiest third, the easier two thirds, all.

    Args:
        losses: loss per token of the base model on each utterance; low is easy.
        steps: of the run.
        share: of the steps that draw only a part.
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
    """Length buckets: each step draws utterances of similar length; the order of steps is random.

    An epoch is every utterance once. The utterances are shuffled, sorted by length within pools of
    several steps, and cut into steps of `batch_size * accumulation`; a step is cut into
    micro-batches. So batch 8 x 1 and batch 1 x 8 use the same utterances in every step.

    Args:
        seconds: length of each utterance.
        batch_size: utterances in a micro-batch.
        accumulation: micro-batches in a step.
        pool_steps: steps in a pool; more saves padding, fewer mixes lengths better.
        order: draws the order of an epoch; the default is each utterance once, shuffled.
        mix: synthetic clips among real ones: each step has their share, of similar ranks by length.
    """

    def __init__(
        self,
        seconds: Sequence[float],
        *,
        batch_size: int,
        accumulation: int = 1,
        seed: int = 0,
        pool_steps: int = 16,
        order: EpochOrder | None = None,
        mix: SyntheticMix | None = None,
    ) -> None:
        self._draws_each_once = order is None
        self._order = order or _each_once(len(seconds))
        self._mix = mix
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
        epoch, index = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._steps = epoch, self._epoch_steps(epoch)
        return self._steps[index]

    def drawn(self, steps: int) -> tuple[int, ...]:
        """Every index that the first `steps` steps draw, ascending."""
        if self._draws_each_once and steps >= self.steps_per_epoch:
            return tuple(range(len(self._seconds)))
        return tuple(sorted({index for step in range(steps) for index in self.plan(step).indices}))

    def _epoch_steps(self, epoch: int) -> list[StepPlan]:
        rng = random.Random(f"{self._seed}/{epoch}")
        order = self._order(rng)
        steps: list[StepPlan] = []
        for start in range(0, len(order), self._pool):
            pool = order[start : start + self._pool]
            pool.sort(key=self._by_length)
            if self._mix is not None:
                pool = list(self._spread_by_kind(pool, self._mix))
            for step_indices in _chunks(pool, self._per_step):
                step_indices.sort(key=self._by_length)
                batches = _chunks(step_indices, self._batch_size)
                steps.append(StepPlan(tuple(tuple(batch) for batch in batches)))
        rng.shuffle(steps)
        return steps

    def _by_length(self, index: int) -> tuple[float, int]:
        return self._seconds[index], index

    def _spread_by_kind(self, pool: Sequence[int], mix: SyntheticMix) -> Iterator[int]:
        """A pool that is sorted by length, so that each step of it has the pool's share.

        Each clip goes to its rank among those of its kind. Sorted by length alone, a step would
        have the kind whose clips are of that length.
        """
        ranked = []
        for kind in (False, True):
            members = [index for index in pool if mix.is_synthetic[index] is kind]
            ranked += [((k + 0.5) / len(members), index) for k, index in enumerate(members)]
        ranked.sort(key=lambda item: item[0])
        return (index for _, index in ranked)


def _chunks(indices: list[int], size: int) -> list[list[int]]:
    return [indices[start : start + size] for start in range(0, len(indices), size)]


@dataclass(frozen=True)
class EarlierShare:
    """Utterances that an earlier run was trained on, and the most of the draws that they get.

    None of them is drawn more often than a new one.
    """

    members: frozenset[int]
    share: float


def _order_with_earlier(allowed: Sequence[int], earlier: EarlierShare | None) -> EpochOrder | None:
    """Epochs with a bounded share of earlier utterances; None where each is drawn once."""
    if earlier is None:
        return None
    old = [position for position, index in enumerate(allowed) if index in earlier.members]
    new = [position for position, index in enumerate(allowed) if index not in earlier.members]
    if not new or len(old) <= earlier.share * len(allowed):
        return None
    return weighted_order([new, old], [1.0 - earlier.share, earlier.share])


@dataclass(frozen=True)
class SpeakerBalance:
    """How far speakers are drawn equally often.

    Attributes:
        speakers: of each utterance.
        share: 0 draws each utterance once per epoch, 1 each speaker equally often.
    """

    speakers: Sequence[str | None]
    share: float


class StagedSampler:
    """Short or easy clips first: one bucket sampler per stage, over the clips that it may draw.

    Args:
        balance: draws speakers more equally; None draws each utterance once per epoch.
        earlier: the utterances of an earlier run; speakers that are balanced take its place.
        mix: synthetic clips among real ones; speakers are balanced within a kind.
    """

    def __init__(
        self,
        seconds: Sequence[float],
        stages: Sequence[CurriculumStage],
        *,
        batch_size: int,
        accumulation: int = 1,
        seed: int = 0,
        balance: SpeakerBalance | None = None,
        earlier: EarlierShare | None = None,
        mix: SyntheticMix | None = None,
    ) -> None:
        self._stages = tuple(stages)
        self._allowed = [
            tuple(
                index
                for index, length in enumerate(seconds)
                if length <= stage.max_clip_s and (stage.members is None or index in stage.members)
            )
            for stage in self._stages
        ]

        def order_of(members: Sequence[int]) -> EpochOrder | None:
            if balance is not None and balance.share > 0:
                speakers = [balance.speakers[index] for index in members]
                return balanced_order(speakers, balance.share)
            return _order_with_earlier(members, earlier)

        self._samplers = []
        for number, allowed in enumerate(self._allowed):
            own_mix = mix.part(allowed) if mix is not None else None
            order = order_of(allowed) if own_mix is None else own_mix.order(order_of, allowed)
            self._samplers.append(
                BucketSampler(
                    [seconds[index] for index in allowed],
                    batch_size=batch_size,
                    accumulation=accumulation,
                    seed=seed + number,
                    order=order,
                    mix=own_mix,
                )
            )

    @property
    def utterances_by_stage(self) -> tuple[int, ...]:
        """How many utterances each stage may draw."""
        return tuple(len(allowed) for allowed in self._allowed)

    def stage_at(self, step: int) -> tuple[int, int]:
        """Number of the stage of a step, and the step within it; the last stage has no end."""
        for number, stage in enumerate(self._stages[:-1]):
            if step < stage.steps:
                return number, step
            step -= stage.steps
        return len(self._stages) - 1, step

    def plan(self, step: int) -> StepPlan:
        """The utterances of optimizer step `step`, counted from 0."""
        number, stage_step = self.stage_at(step)
        allowed = self._allowed[number]
        plan = self._samplers[number].plan(stage_step)
        return StepPlan(
            tuple(tuple(allowed[index] for index in batch) for batch in plan.micro_batches)
        )

    def drawn(self, steps: int) -> tuple[int, ...]:
        """Every index that the first `steps` steps draw, ascending."""
        indices: set[int] = set()
        for number, stage in enumerate(self._stages):
            count = steps if number == len(self._stages) - 1 else min(stage.steps, steps)
            if count > 0:
                drawn = self._samplers[number].drawn(count)
                indices.update(self._allowed[number][index] for index in drawn)
            steps -= count
        return tuple(sorted(indices))
