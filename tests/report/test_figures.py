"""Parts of the report on their own: drawings of any numbers, and words side by side."""

import math
import re
from collections.abc import Callable

import pytest

from moonshine_tune.corpus.normalizers import normalizer_for
from moonshine_tune.metrics.alignment import Token, align
from moonshine_tune.metrics.wer import ScoredUtterance, score_utterance
from moonshine_tune.report.alignment import (
    ScoredPair,
    by_length,
    by_speaker,
    choose,
    confusions,
)
from moonshine_tune.report.cells import tick_label
from moonshine_tune.report.figures import (
    Bound,
    Chart,
    Interval,
    Series,
    interval_strip,
    line_chart,
    nice_ticks,
    smoothed,
    thinned,
)

SPELLED = normalizer_for("spelled-1")


def _scored(pairs: list[tuple[str, str]]) -> list[ScoredUtterance]:
    return [
        score_utterance(f"u{index}", reference, hypothesis, SPELLED, speaker="ann")
        for index, (reference, hypothesis) in enumerate(pairs)
    ]


# --- drawings


def _no_odd_numbers(drawn: str) -> None:
    """Every coordinate is a number that a browser takes."""
    for name, value in re.findall(r' (x|y|[xy][12]|c[xy]|r|points)="([^"]*)"', drawn):
        for word in re.split("[ ,]", value):
            assert math.isfinite(float(word)), (name, value)


@pytest.mark.parametrize(
    "points",
    [
        [], [(0.0, 1.0)], [(5.0, 0.0)], [(5.0, -3.0)], [(0.0, None)], [(0.0, math.nan)],
        [(0.0, 1.0), (1.0, 1.0)], [(1.0, 0.0), (1.0, 0.0)], [(0.0, math.inf), (1.0, 2.0)],
        [(0.0, 1e-320), (1.0, 2e-320)], [(0.0, 1e11), (1.0, 1e11 + 1)], [(0.0, 1e300)],
        [(0.0, -1e-9), (1.0, 0.3)], [(1e9, 1.0), (1e9 + 1, 2.0)],
    ],
)  # fmt: skip
def test_charts_of_few_or_odd_points(points: list[tuple[float, float | None]]) -> None:
    for bound in (None, Bound("b<", 2.0)):
        chart = Chart("t<", "u", (Series("s<", tuple(points), "marked"),), bound, best_x=0.0)
        drawn = line_chart(chart)
        _no_odd_numbers(drawn)
        finite = [y for _, y in points if y is not None and math.isfinite(y) and abs(y) < 1e12]
        assert bool(drawn) == bool(finite)
        assert drawn.count("<circle") >= len(finite)
        assert "t<" not in drawn
        assert "s<" not in drawn


def test_a_line_is_broken_where_values_are_missing() -> None:
    points = ((0.0, 1.0), (1.0, 2.0), (2.0, None), (3.0, 1.0), (4.0, 2.0), (5.0, None), (6.0, 1.0))
    drawn = line_chart(Chart("t", "", (Series("s", points),)))
    assert drawn.count("<polyline") == 2
    assert drawn.count("<circle") == 1


def test_values_lie_within_the_frame_in_their_order() -> None:
    points = tuple((float(x), float(y)) for x, y in enumerate([3, 1, 2, 7, 0]))
    drawn = str(line_chart(Chart("t", "", (Series("s", points),))))
    path = re.search(r' points="([^"]+)"', drawn)
    assert path is not None
    drawn_points = [tuple(map(float, pair.split(","))) for pair in path[1].split()]
    assert [x for x, _ in drawn_points] == sorted(x for x, _ in drawn_points)
    heights = [y for _, y in drawn_points]
    order = sorted(range(5), key=lambda index: points[index][1])
    assert sorted(range(5), key=lambda index: -heights[index]) == order


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 73, (0, 20, 40, 60, 80)), (0, 1, (0, 0.5, 1)), (0, 0.0009, (0, 0.0005, 0.001))],
)
def test_ticks_are_round(low: float, high: float, expected: tuple[float, ...]) -> None:
    assert nice_ticks(low, high) == pytest.approx(expected)


def test_tick_labels_are_short() -> None:
    assert [tick_label(v) for v in (0.0, -0.0, 0.0005, 20, 1500, 40_000)] == [
        "0", "0", "0.0005", "20", "1,500", "40k",
    ]  # fmt: skip


def test_thinning_keeps_means_and_the_last_step() -> None:
    points = tuple((float(step), float(step % 2)) for step in range(1, 1001))
    thin, size = thinned(points, 300)
    assert (len(thin), size) == (250, 4)
    assert thin[-1] == (1000.0, 0.5)
    assert thinned(points[:5], 300) == (points[:5], 1)


def test_smoothing_starts_at_the_first_value_and_skips_gaps() -> None:
    points = tuple((float(x), None if x == 3 else 5.0) for x in range(100))
    smooth = smoothed(points)
    assert smooth[3][1] is None
    assert all(y == pytest.approx(5.0) for x, y in smooth if x != 3)


def test_strip_stays_within_the_line() -> None:
    drawn = interval_strip(Interval(50, (-3, 900)), Interval(1, (0, 2)), 100)
    shares = [float(value) for value in re.findall(r'"([\d.]+)%"', drawn)]
    assert min(shares) == 0
    assert max(shares) == 100
    assert "nan" not in interval_strip(Interval(0), None, 0)


# --- words


def test_alignment_agrees_with_the_counts() -> None:
    reference, hypothesis = "Turn left heading one-two", "please turn lift one two three"
    tokens = align(reference, hypothesis, SPELLED)
    counts = score_utterance("u", reference, hypothesis, SPELLED).words
    kinds = [token.kind for token in tokens]
    assert kinds.count("substituted") == counts.substitutions
    assert kinds.count("deleted") == counts.deletions
    assert kinds.count("inserted") == counts.insertions
    assert " ".join(t.reference for t in tokens if t.reference) == SPELLED(reference)
    assert " ".join(t.hypothesis for t in tokens if t.hypothesis) == SPELLED(hypothesis)


def test_alignment_of_nothing() -> None:
    assert align("", "a", SPELLED) == (Token("inserted", "", "a"),)
    assert align("a", "", SPELLED) == (Token("deleted", "a", ""),)
    assert align("", "", SPELLED) == ()


@pytest.fixture
def pairs() -> Callable[[list[tuple[str, str, str]]], list[ScoredPair]]:
    def make(rows: list[tuple[str, str, str]]) -> list[ScoredPair]:
        before = _scored([(reference, first) for reference, first, _ in rows])
        after = _scored([(reference, second) for reference, _, second in rows])
        return [ScoredPair(b, a) for a, b in zip(before, after, strict=True)]

    return make


def test_choice_of_utterances(pairs: Callable[..., list[ScoredPair]]) -> None:
    rows = [("a b c", "a b c", "x y z"), ("a b c", "x y z", "a b c"), ("a b c", "a b x", "a b x"),
            ("a b c", "a b c", "a b c")]  # fmt: skip
    assert choose(pairs(rows), 5) == {
        "u0": ("damaged", "worst"),
        "u2": ("worst",),
        "u1": ("improved",),
    }
    assert choose(pairs(rows), 1) == {"u0": ("damaged", "worst"), "u1": ("improved",)}


def test_confusions_count_both_sides(pairs: Callable[..., list[ScoredPair]]) -> None:
    mistakes = confusions(pairs([("two b", "to b", "to"), ("two", "to", "two")]), SPELLED, 5)
    (swapped,), total = mistakes["substituted"]
    assert (swapped.reference, swapped.hypothesis, swapped.before, swapped.after, total) == (
        "two", "to", 2, 1, 1,
    )  # fmt: skip
    assert [(item.reference, item.after) for item in mistakes["deleted"][0]] == [("b", 1)]
    assert mistakes["inserted"] == ((), 0)


def test_groups_add_counts_and_divide_once(pairs: Callable[..., list[ScoredPair]]) -> None:
    members = pairs([("a", "a", "x"), ("a b c d e f", "a b c d e f", "a b c d e f")])
    (group,) = by_speaker(members)
    assert (group.name, group.utterances) == ("ann", 2)
    assert group.after.rate == pytest.approx(100 / 7)
    assert group.before is not None
    assert group.before.rate == 0
    assert [group.name for group in by_length(members)] == ["1–5 words", "6–10 words"]
