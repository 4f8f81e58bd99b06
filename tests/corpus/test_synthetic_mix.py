"""Synthetic clips among real ones: the share of each step."""

import pytest

from moonshine_tune.corpus.manifest import Utterance
from moonshine_tune.corpus.sampler import (
    CurriculumStage,
    SpeakerBalance,
    StagedSampler,
    SyntheticMix,
    automatic_synthetic_share,
)

# Real clips are long and synthetic ones short: sorted by length alone, they would never meet.
NUM_REAL, NUM_SYNTHETIC = 30, 90
SECONDS = [5.0 + index / 100 for index in range(NUM_REAL)] + [
    1.0 + index / 100 for index in range(NUM_SYNTHETIC)
]
KINDS = (False,) * NUM_REAL + (True,) * NUM_SYNTHETIC


def _sampler(share: float, batch: int = 8, accumulation: int = 1, **more) -> StagedSampler:
    return StagedSampler(
        SECONDS,
        more.pop("stages", [CurriculumStage(1, 9.0)]),
        batch_size=batch,
        accumulation=accumulation,
        seed=4,
        mix=SyntheticMix(KINDS, share),
        **more,
    )


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_every_step_has_the_share(share: float) -> None:
    sampler = _sampler(share)
    for step in range(60):
        indices = sampler.plan(step).indices
        assert sum(KINDS[index] for index in indices) == pytest.approx(share * len(indices), abs=1)


def test_micro_batches_do_not_change_the_steps_and_are_sorted_by_length() -> None:
    large, small = _sampler(0.5, 8, 1), _sampler(0.5, 1, 8)
    for step in range(40):
        assert large.plan(step).indices == small.plan(step).indices
        lengths = [SECONDS[index] for index in large.plan(step).indices]
        assert lengths == sorted(lengths)


def test_all_clips_of_a_kind_are_drawn_before_one_is_repeated() -> None:
    sampler = _sampler(0.5)
    drawn = [index for step in range(15) for index in sampler.plan(step).indices]
    real = [index for index in drawn if not KINDS[index]]
    synthetic = [index for index in drawn if KINDS[index]]
    assert len(real) == len(synthetic) == 60
    assert all(real.count(index) == 2 for index in range(NUM_REAL))
    assert len(set(synthetic)) == 60
    assert set(sampler.drawn(15)) == set(drawn), "only what is drawn is encoded"


def test_a_share_below_a_clip_per_step_is_drawn_in_some_steps() -> None:
    sampler = _sampler(0.04)
    drawn = [index for step in range(300) for index in sampler.plan(step).indices]
    assert sum(KINDS[i] for i in drawn) / len(drawn) == pytest.approx(0.04, abs=0.01)


@pytest.mark.parametrize(("share", "kinds"), [(0.0, {False}), (1.0, {True})])
def test_the_ends_draw_one_kind_only(share: float, kinds: set[bool]) -> None:
    sampler = _sampler(share)
    assert {KINDS[i] for step in range(40) for i in sampler.plan(step).indices} == kinds


def test_a_stage_with_one_kind_draws_it_as_ever() -> None:
    short = CurriculumStage(30, 2.0)
    mixed = _sampler(0.5, stages=[short, CurriculumStage(1, 9.0)])
    plain = StagedSampler(SECONDS, [short, CurriculumStage(1, 9.0)], batch_size=8, seed=4)
    assert [mixed.plan(step) for step in range(30)] == [plain.plan(step) for step in range(30)]


def test_speakers_are_balanced_within_a_kind() -> None:
    speakers = ["a"] * 27 + ["b"] * 3 + ["voice"] * NUM_SYNTHETIC
    sampler = _sampler(0.5, balance=SpeakerBalance(speakers, 1.0))
    drawn = [speakers[i] for step in range(15) for i in sampler.plan(step).indices]
    assert drawn.count("voice") == 60
    assert drawn.count("a") == pytest.approx(drawn.count("b"), abs=2)


def test_the_automatic_share_fades_as_real_clips_grow() -> None:
    shares = [automatic_synthetic_share(real, 10_000) for real in (0, 12, 100, 1000)]
    assert shares == pytest.approx([1.0, 100 / 112, 0.5, 100 / 1100])
    assert automatic_synthetic_share(100, 20) == pytest.approx(20 / 120), "not drawn more often"
    assert automatic_synthetic_share(100, 0) == 0.0


@pytest.mark.parametrize(
    ("value", "synthetic"),
    [(True, True), ("true", True), ("Yes", True), (1, True), (False, False), ("no", False),
     (None, False), ("kokoro", False)],
)  # fmt: skip
def test_what_counts_as_synthetic(tmp_path, value: object, synthetic: bool) -> None:
    assert Utterance("a", tmp_path, extra={"synthetic": value}).is_synthetic is synthetic
    assert not Utterance("a", tmp_path).is_synthetic
