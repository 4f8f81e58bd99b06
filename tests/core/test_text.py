"""First lines, similar names, nested keys, JSON files, and statistics."""

import json
from pathlib import Path

import pytest

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import read_json
from moonshine_tune.core.nested import flatten, unflatten
from moonshine_tune.core.statistics import bootstrap_interval, evenly_spaced, percentile
from moonshine_tune.core.text import did_you_mean, first_line, nearest


def test_first_line_of_texts_and_errors() -> None:
    assert first_line("\n one \ntwo") == "one"
    assert first_line(ValueError("broken\nhere")) == "broken"
    assert first_line(ValueError()) == "ValueError"
    assert first_line("x" * 500) == "x" * 200


def test_the_nearest_name_is_also_found_by_its_last_part() -> None:
    known = ["adapter.rank", "train.steps"]
    assert nearest("train.stepz", known) == "train.steps"
    assert nearest("rank", known) == "adapter.rank"
    assert nearest("zzzz", known) is None
    assert did_you_mean("rank", known) == "; did you mean 'adapter.rank'?"
    assert did_you_mean("zzzz", known) == ""


def test_unflatten_undoes_flatten() -> None:
    content = {"a": {"b": 1, "c": {"d": [2]}}, "e": None}
    flat = dict(flatten(content))
    assert flat == {"a.b": 1, "a.c.d": [2], "e": None}
    assert unflatten(flat) == content


def test_percentiles_are_linear_between_neighbors() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([0.0, 10.0], 0.25) == 2.5
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


def test_the_interval_covers_the_statistic_and_repeats() -> None:
    items = [float(value) for value in range(50)]
    low, high = bootstrap_interval(items, lambda drawn: sum(drawn) / len(drawn))
    assert low < 24.5 < high
    assert (low, high) == bootstrap_interval(items, lambda drawn: sum(drawn) / len(drawn))
    assert bootstrap_interval([7.0], lambda drawn: drawn[0]) == (7.0, 7.0)


@pytest.mark.parametrize(
    ("count", "at_most", "chosen"), [(3, 5, [0, 1, 2]), (9, 3, [0, 4, 8]), (9, 1, [0]), (0, 3, [])]
)
def test_evenly_spaced_includes_both_ends(count: int, at_most: int, chosen: list[int]) -> None:
    assert evenly_spaced(count, at_most) == chosen


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": NaN}', '{"a": Infinity}'])
def test_other_than_a_json_object_is_refused_with_the_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "record.json"
    path.write_text(text)
    with pytest.raises(RequestError) as caught:
        read_json(path, hint="run it again")
    assert caught.value.where == str(path)
    assert caught.value.hint == "run it again"
    path.write_text(json.dumps({"a": 1}))
    assert read_json(path) == {"a": 1}
