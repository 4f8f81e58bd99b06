"""When a difference in WER stops an export."""

import pytest

from moonshine_tune.export.parity.gate import combine
from moonshine_tune.metrics.wer import PairedComparison
from moonshine_tune.runs.records import ParityRecord


def _with_wer(difference: float, low: float, high: float) -> ParityRecord:
    wer = PairedComparison(3.0, 3.0 + difference, difference, (low, high), "worse")
    return combine(ParityRecord(word_difference=1.0, bound=5.0), wer=wer)


@pytest.mark.parametrize(
    ("difference", "low", "high"),
    [(0.5, 0.2, 0.9), (1.35, 0.27, 2.57), (0.6, -0.1, 1.2), (-4.0, -6.0, -2.0)],
)
def test_a_loss_that_may_be_half_a_point_passes(difference: float, low: float, high: float) -> None:
    assert _with_wer(difference, low, high).passed


def test_a_loss_that_is_shown_to_be_more_fails() -> None:
    result = _with_wer(3.0, 0.6, 5.0)
    assert not result.passed
    assert "+3.00 points" in (result.first_difference or "")
