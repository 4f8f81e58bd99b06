"""Which adapter is the best: the canary is a bound, the dev set decides."""

from dataclasses import replace

import pytest

from moonshine_tune.runs.records import BETTER, CANARY_LOST, NOT_BETTER, verdict_on
from moonshine_tune.training.selection import Candidate, SelectionRule

_RULE = SelectionRule(base_canary=10.0, canary_bound=2.0)


def _scored(
    step: int,
    dev: float,
    canary: float | None,
    strength: float = 1.0,
    *,
    averaged: int = 0,
    dev_augmented_wer: float | None = None,
) -> Candidate:
    return Candidate(
        step=step,
        dev_wer=dev,
        canary_wer=canary,
        strength=strength,
        averaged=averaged,
        dev_augmented_wer=dev_augmented_wer,
    )


def _best(*candidates: Candidate, rule: SelectionRule = _RULE) -> Candidate:
    """What a run keeps that scores these one after the other."""
    best: Candidate | None = None
    for candidate in candidates:
        if rule.is_better(candidate, best):
            best = candidate
    assert best is not None
    return best


def test_the_lowest_dev_rate_wins() -> None:
    best = _best(_scored(1, 20.0, 10.0), _scored(2, 12.0, 11.0), _scored(3, 15.0, 9.0))
    assert best.step == 2


def test_the_first_of_equals_stays() -> None:
    assert _best(_scored(1, 12.0, 10.0), _scored(2, 12.0, 10.0)).step == 1


def test_of_equal_dev_rates_the_better_canary_wins() -> None:
    assert _best(_scored(1, 12.0, 11.0), _scored(2, 12.0, 10.5)).step == 2


def test_one_that_loses_the_canary_never_beats_one_that_holds_it() -> None:
    held, lost = _scored(1, 20.0, 12.0), _scored(2, 1.0, 12.01)
    assert _best(held, lost) == held
    assert _best(lost, held) == held
    assert (_RULE.allows(held), _RULE.allows(lost)) == (True, False)


def test_while_none_holds_it_the_lowest_dev_rate_is_kept() -> None:
    assert _best(_scored(1, 9.0, 30.0), _scored(2, 8.0, 40.0)).step == 2


@pytest.mark.parametrize("rule", [SelectionRule(None, 2.0), _RULE])
def test_without_a_canary_everything_is_allowed(rule: SelectionRule) -> None:
    candidate = _scored(1, 5.0, None)
    assert rule.allows(candidate)
    assert _best(_scored(1, 6.0, None), candidate, rule=rule) == candidate


def test_a_bound_of_zero_allows_what_is_not_worse() -> None:
    rule = SelectionRule(10.0, 0.0)
    assert rule.allows(_scored(1, 5.0, 10.0))
    assert not rule.allows(_scored(1, 5.0, 10.1))


# --- strengths


def test_near_the_best_dev_rate_the_best_canary_is_chosen() -> None:
    tried = [
        _scored(5, 8.0, 11.9, 1.0), _scored(5, 8.2, 10.5, 0.8), _scored(5, 9.0, 10.0, 0.6)
    ]  # fmt: skip
    assert _RULE.choose(tried).strength == 0.8


def test_of_equal_canaries_the_better_dev_rate_then_the_stronger_is_chosen() -> None:
    tried = [_scored(5, 8.1, 10.0, 0.6), _scored(5, 8.0, 10.0, 0.8)]
    assert _RULE.choose(tried).strength == 0.8
    tried = [_scored(5, 8.0, 10.0, 0.6), _scored(5, 8.0, 10.0, 1.0)]
    assert _RULE.choose(tried).strength == 1.0


def test_a_strength_that_loses_the_canary_is_left_out() -> None:
    tried = [_scored(5, 8.0, 13.0, 1.0), _scored(5, 30.0, 11.0, 0.6)]
    assert _RULE.choose(tried).strength == 0.6


def test_where_none_holds_it_the_nearest_is_chosen() -> None:
    tried = [_scored(5, 8.0, 19.0, 1.0), _scored(5, 12.0, 13.0, 0.6)]
    assert _RULE.choose(tried).strength == 0.6


def test_a_candidate_survives_json() -> None:
    candidate = _scored(7, 8.5, None, 0.8)
    assert candidate.to_json() == {
        "step": 7, "dev_wer": 8.5, "canary_wer": None, "strength": 0.8, "averaged": 0,
        "dev_augmented_wer": None,
    }  # fmt: skip
    assert Candidate.model_validate(candidate.to_json()) == candidate


# --- what a small dev set cannot tell


@pytest.mark.parametrize(
    ("wer", "loss", "better"),
    [(8.0, 1.4, True), (8.0, 1.6, False), (7.0, 1.6, True), (9.0, 1.0, False)],
)
def test_of_a_few_clips_the_loss_decides_between_equal_rates(
    wer: float, loss: float, better: bool
) -> None:
    best = _scored(1, 8.0, None).model_copy(update={"dev_loss": 1.5})
    other = _scored(2, wer, None).model_copy(update={"dev_loss": loss})
    assert _RULE.is_better(other, best) is better
    # Of twelve words, anything is within the noise: it would let every mean in.
    assert replace(_RULE, dev_words=12).is_as_good(other, best) is better
    assert (verdict_on(best, other, None) == BETTER) is better


def test_the_mean_may_lie_above_the_luckiest_score_by_what_is_noise() -> None:
    best, mean = _scored(100, 0.82, 10.4), _scored(200, 1.09, 10.0, averaged=3)
    assert replace(_RULE, dev_words=366).is_as_good(mean, best), "one word of 366 is 0.27 points"
    assert not replace(_RULE, dev_words=36_600).is_as_good(mean, best)
    far = _scored(200, 2.46, 10.0, averaged=3)
    assert not replace(_RULE, dev_words=366).is_as_good(far, best), "three words against nine"


def test_a_mean_that_loses_the_canary_is_not_as_good() -> None:
    held, lost = _scored(1, 8.0, 12.0), _scored(2, 7.0, 12.1, averaged=3)
    assert not _RULE.is_as_good(lost, held)
    assert _RULE.is_as_good(lost, _scored(1, 8.0, 13.0))


def test_three_words_of_a_small_dev_set_do_not_weaken_an_adapter() -> None:
    """14 errors of 362 words at full strength, 11 at 0.6; the canary is held by both."""
    tried = [_scored(5, 3.87, 10.0, 1.0), _scored(5, 3.04, 10.0, 0.6)]
    assert replace(_RULE, dev_words=362).choose(tried).strength == 1.0
    assert replace(_RULE, dev_words=36_200).choose(tried).strength == 0.6


# --- dev as it is, and changed as training was


def test_both_halves_of_dev_count_alike() -> None:
    """One word better on clean clips does not make up for what is lost in noise."""
    early = _scored(75, 0.5, 10.0, dev_augmented_wer=9.0)
    late = _scored(200, 1.4, 10.0, dev_augmented_wer=5.0)
    assert (early.judged_wer, late.judged_wer) == pytest.approx((4.75, 3.2))
    assert _best(early, late) == late
    plain = _scored(75, 0.5, 10.0), _scored(200, 1.4, 10.0)
    assert _best(*plain) == plain[0]
    rule = replace(_RULE, dev_words=1000)
    assert rule.is_as_good(late, early) and not rule.is_as_good(early, late)
    assert rule.choose([early, late.model_copy(update={"strength": 0.6})]).step == 200


@pytest.mark.parametrize(
    ("loss", "kept"), [(0.50, True), (0.54, True), (0.56, False), (0.45, True)]
)
def test_of_few_clips_the_loss_returns_a_tenth_of_the_gain_at_most(loss: float, kept: bool) -> None:
    def scored(dev: float, loss: float) -> Candidate:
        return _scored(1, dev, 10.0).model_copy(update={"dev_loss": loss})

    rule = replace(_RULE, dev_words=20)
    base, best = scored(40.0, 1.0), scored(20.0, 0.5)
    assert rule.keeps_gain(scored(20.0, loss), best, base) is kept


def test_what_spares_general_speech_is_kept_unless_dev_shows_a_loss() -> None:
    rule = replace(_RULE, dev_words=400)
    base, best = _scored(0, 50.0, 10.0), _scored(1, 40.0, 11.0)
    assert rule.keeps_gain(_scored(1, 43.0, 10.0), best, base)
    assert not rule.keeps_gain(_scored(1, 45.0, 10.0), best, base)
    assert not rule.keeps_gain(_scored(1, 40.0, 12.5), best, base), "breaks the canary's bound"


def test_worse_than_the_base_is_said_before_a_broken_bound() -> None:
    """Keeping more of the base cures the one and not the other."""
    base = _scored(0, 20.0, 5.0)
    assert verdict_on(base, _scored(9, 100.0, 90.0), False) == NOT_BETTER
    assert verdict_on(base, _scored(9, 10.0, 90.0), False) == CANARY_LOST
