"""The utterances of each step: each once per epoch, by seed and step alone."""

import random
from collections import Counter
from itertools import pairwise

import pytest

from moonshine_tune.corpus.sampler import (
    BucketSampler,
    CurriculumStage,
    SpeakerBalance,
    StagedSampler,
    balanced_order,
    easy_first_stages,
)


def _seconds(count: int, seed: int = 1) -> list[float]:
    rng = random.Random(seed)
    return [round(rng.uniform(0.5, 20.0), 3) for _ in range(count)]


def _drawn(sampler: BucketSampler | StagedSampler, start: int, end: int) -> list[int]:
    return [index for step in range(start, end) for index in sampler.plan(step).indices]


@pytest.mark.parametrize(("count", "batch", "accumulation"), [(64, 8, 1), (61, 4, 3), (5, 8, 2)])
def test_an_epoch_is_every_utterance_once(count: int, batch: int, accumulation: int) -> None:
    sampler = BucketSampler(_seconds(count), batch_size=batch, accumulation=accumulation)
    steps = sampler.steps_per_epoch
    assert steps == -(-count // (batch * accumulation))
    for epoch in range(3):
        drawn = _drawn(sampler, epoch * steps, (epoch + 1) * steps)
        assert sorted(drawn) == list(range(count))


def test_steps_and_micro_batches_have_their_sizes() -> None:
    sampler = BucketSampler(_seconds(50), batch_size=4, accumulation=3)
    sizes = Counter(len(sampler.plan(step).indices) for step in range(sampler.steps_per_epoch))
    assert sizes == {12: 4, 2: 1}
    for step in range(sampler.steps_per_epoch):
        batches = sampler.plan(step).micro_batches
        assert all(len(batch) == 4 for batch in batches[:-1])
        assert 1 <= len(batches[-1]) <= 4


def test_one_batch_of_8_and_8_batches_of_1_are_the_same_step() -> None:
    seconds = _seconds(77)
    large = BucketSampler(seconds, batch_size=8, accumulation=1, seed=5)
    small = BucketSampler(seconds, batch_size=1, accumulation=8, seed=5)
    for step in range(40):
        assert large.plan(step).indices == small.plan(step).indices
        assert len(small.plan(step).micro_batches) == len(large.plan(step).indices)


def test_the_order_is_a_function_of_seed_and_step() -> None:
    seconds = _seconds(100)
    first = BucketSampler(seconds, batch_size=8, seed=7)
    order = [first.plan(step) for step in range(60)]
    # A resumed run starts at any step, and may ask for steps in any order.
    second = BucketSampler(seconds, batch_size=8, seed=7)
    for step in random.Random(2).sample(range(60), 60):
        assert second.plan(step) == order[step]
    reseeded = BucketSampler(seconds, batch_size=8, seed=8)
    assert [reseeded.plan(step) for step in range(60)] != order


def test_epochs_differ_in_order_and_steps() -> None:
    sampler = BucketSampler(_seconds(1000), batch_size=8)
    first = [frozenset(sampler.plan(step).indices) for step in range(125)]
    second = [frozenset(sampler.plan(step).indices) for step in range(125, 250)]
    assert len(set(first) & set(second)) < 10


def test_a_step_has_clips_of_similar_length() -> None:
    """Padding in micro-batches of 8 from 1000 clips: less than a third of a plain shuffle."""
    seconds = _seconds(1000)

    def padding(batches: list[tuple[int, ...]]) -> float:
        padded = sum(max(seconds[i] for i in batch) * len(batch) for batch in batches)
        return padded / sum(seconds) - 1

    sampler = BucketSampler(seconds, batch_size=8)
    bucketed = [sampler.plan(step).micro_batches[0] for step in range(sampler.steps_per_epoch)]
    order = list(range(1000))
    random.Random(3).shuffle(order)
    shuffled = [tuple(order[start : start + 8]) for start in range(0, 1000, 8)]
    assert padding(bucketed) < padding(shuffled) / 3


def test_steps_are_not_sorted_by_length() -> None:
    seconds = _seconds(1000)
    sampler = BucketSampler(seconds, batch_size=8)
    longest = [max(seconds[i] for i in sampler.plan(step).indices) for step in range(125)]
    rising = sum(left < right for left, right in pairwise(longest))
    assert 40 < rising < 85


def test_equal_lengths_work() -> None:
    sampler = BucketSampler([1.0] * 20, batch_size=6)
    assert sorted(_drawn(sampler, 0, sampler.steps_per_epoch)) == list(range(20))


def test_the_drawn_indices_are_known_in_advance() -> None:
    sampler = BucketSampler(_seconds(100), batch_size=8, seed=3)
    assert sampler.drawn(0) == ()
    for steps in (1, 5, 12):
        assert sampler.drawn(steps) == tuple(sorted(set(_drawn(sampler, 0, steps))))
    assert sampler.drawn(13) == tuple(range(100))
    assert sampler.drawn(1000) == tuple(range(100))


# --- stages


def _staged(seconds: list[float], *stages: CurriculumStage) -> StagedSampler:
    return StagedSampler(seconds, stages, batch_size=4, accumulation=1, seed=1)


def test_one_stage_over_all_clips_is_the_plain_sampler() -> None:
    seconds = _seconds(30)
    staged = _staged(seconds, CurriculumStage(10, max(seconds)))
    plain = BucketSampler(seconds, batch_size=4, seed=1)
    assert [staged.plan(step) for step in range(25)] == [plain.plan(step) for step in range(25)]


def test_each_stage_draws_only_its_clips() -> None:
    seconds = _seconds(80)
    staged = _staged(
        seconds, CurriculumStage(10, 5.0), CurriculumStage(15, 12.0), CurriculumStage(5, 30.0)
    )
    assert staged.utterances_by_stage == (
        sum(s <= 5 for s in seconds), sum(s <= 12 for s in seconds), 80
    )  # fmt: skip
    for step in range(60):
        bound = 5.0 if step < 10 else 12.0 if step < 25 else 30.0
        assert all(seconds[index] <= bound for index in staged.plan(step).indices), step
    # The last stage continues after its own steps.
    assert staged.stage_at(29) == (2, 4)
    assert staged.stage_at(500) == (2, 475)
    assert set(_drawn(staged, 25, 45)) == set(range(80))


def test_the_drawn_indices_of_stages_are_known_in_advance() -> None:
    seconds = _seconds(80)
    staged = _staged(
        seconds, CurriculumStage(3, 5.0), CurriculumStage(4, 12.0), CurriculumStage(5, 30.0)
    )
    for steps in (0, 1, 3, 5, 7, 9, 60):
        assert staged.drawn(steps) == tuple(sorted(set(_drawn(staged, 0, steps)))), steps


def test_a_stage_without_a_clip_is_known_before_the_run() -> None:
    assert _staged(
        [3.0, 9.0], CurriculumStage(3, 1.0), CurriculumStage(4, 30.0)
    ).utterances_by_stage == (0, 2)


def test_balanced_epochs_draw_speakers_equally_often() -> None:
    speakers = ["a"] * 80 + ["b"] * 15 + ["c"] * 5
    sampler = StagedSampler(
        [1.0] * 100,
        [CurriculumStage(1, 9.0)],
        batch_size=10,
        seed=1,
        balance=SpeakerBalance(speakers, 1.0),
    )
    drawn = [index for step in range(10) for index in sampler.plan(step).indices]
    counts = {name: sum(speakers[index] == name for index in drawn) for name in "abc"}
    assert sum(counts.values()) == 100
    assert all(count in (33, 34) for count in counts.values())
    clips_of_c = {index for index in drawn if speakers[index] == "c"}
    assert len(clips_of_c) == 5, "all clips of a speaker are drawn before one is repeated"
    half = StagedSampler(
        [1.0] * 100,
        [CurriculumStage(1, 9.0)],
        batch_size=10,
        seed=1,
        balance=SpeakerBalance(speakers, 0.5),
    )
    halfway = [speakers[i] for step in range(10) for i in half.plan(step).indices]
    assert halfway.count("b") == pytest.approx(100 * 15**0.5 / (80**0.5 + 15**0.5 + 5**0.5), abs=1)


def test_utterances_without_a_speaker_count_as_one_each() -> None:
    order = balanced_order([None, None, "a", "a"], 1.0)
    drawn = [index for seed in range(300) for index in order(random.Random(seed))]
    share = sum(index < 2 for index in drawn) / len(drawn)
    assert share == pytest.approx(2 / 3, abs=0.05)


def test_easy_stages_grow_from_a_third_to_all() -> None:
    losses = [float(9 - index) for index in range(9)]
    stages = easy_first_stages(losses, 100, 0.4)
    assert [stage.steps for stage in stages] == [20, 20, 60]
    sampler = StagedSampler([1.0] * 9, stages, batch_size=3, seed=0)
    assert sampler.utterances_by_stage == (3, 6, 9)
    assert {index for step in range(20) for index in sampler.plan(step).indices} == {6, 7, 8}
    assert {i for step in range(20, 40) for i in sampler.plan(step).indices} == set(range(3, 9))
    assert {i for step in range(40, 60) for i in sampler.plan(step).indices} == set(range(9))
