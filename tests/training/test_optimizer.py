"""The learning rate as a function of the step."""

from itertools import pairwise

import pytest

from moonshine_tune.training.optimizer import learning_rate_share


def _shares(steps: int, warmup: float = 0.1, final: float = 0.05) -> list[float]:
    return [
        learning_rate_share(step, steps=steps, warmup_share=warmup, final_share=final)
        for step in range(steps)
    ]


def test_it_rises_in_equal_steps_to_the_peak_and_falls_from_there() -> None:
    shares = _shares(200)
    rises = [after - before for before, after in pairwise(shares[:21])]
    assert rises == pytest.approx([1 / 21] * 20)
    assert shares.index(max(shares)) == 20
    assert max(shares) == 1.0
    falls = [after - before for before, after in pairwise(shares[20:])]
    assert all(fall < 0 for fall in falls)


def test_no_step_is_lost_to_a_rate_of_zero() -> None:
    assert min(_shares(200, final=0.0)) > 0
    assert min(_shares(1)) > 0


def test_it_ends_near_the_final_share() -> None:
    assert _shares(1000)[-1] == pytest.approx(0.05, abs=1e-4)
    assert _shares(1000, final=0.5)[-1] == pytest.approx(0.5, abs=1e-4)


def test_halfway_down_it_is_halfway() -> None:
    share = learning_rate_share(60, steps=110, warmup_share=10 / 110, final_share=0.2)
    assert share == pytest.approx(0.6)


def test_without_warm_up_it_starts_at_the_peak() -> None:
    assert _shares(50, warmup=0.0)[0] == 1.0


def test_a_final_share_of_one_is_a_constant_rate_after_the_warm_up() -> None:
    assert _shares(40, final=1.0)[4:] == [1.0] * 36


def test_steps_past_the_end_stay_at_the_final_share() -> None:
    share = learning_rate_share(500, steps=100, warmup_share=0.1, final_share=0.05)
    assert share == pytest.approx(0.05)
