"""Search spaces: what is read, what is refused, and all of it at once."""

from pathlib import Path

import pytest

from moonshine_tune.ablation.space import SearchSpace, read_space, space_names
from moonshine_tune.config.resolve import resolve_settings
from moonshine_tune.config.settings import RunSettings
from moonshine_tune.core.errors import ProblemsError, RequestError


def _space(tmp_path: Path, text: str) -> SearchSpace:
    path = tmp_path / "space.yaml"
    path.write_text(text, encoding="utf-8")
    return read_space(str(path))


def _problems(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(ProblemsError) as caught:
        _space(tmp_path, text)
    return list(caught.value.problems)


def test_choices_ranges_and_bundles_become_settings(tmp_path: Path) -> None:
    space = _space(
        tmp_path,
        """
settings: {train: {steps: 10}}
space:
  train.learning_rate: {low: 1e-4, high: 2e-3, log: true}
  adapter.sites: [decoder, all]
  size: [{adapter.rank: 4, adapter.alpha: 8}, {adapter.rank: 16, adapter.alpha: 32}]
  retain.strengths: [[1.0], [1.0, 0.5]]
""",
    )
    names = [item.name for item in space.dimensions]
    assert names == ["train.learning_rate", "adapter.sites", "size", "retain.strengths"]
    point = {
        "train.learning_rate": 3e-4, "adapter.sites": "all",
        "size": space.dimensions[2].labels[1], "retain.strengths": "[1.0, 0.5]",
    }  # fmt: skip
    settings = resolve_settings([*space.layers, ("trial", space.settings_of(point))]).settings
    assert settings.train.steps == 10
    assert settings.train.learning_rate == 3e-4
    assert (settings.adapter.rank, settings.adapter.alpha) == (16, 32.0)
    assert settings.adapter.sites == "all"
    assert settings.retain.strengths == (1.0, 0.5)


def test_everything_wrong_is_reported_at_once_with_the_nearest_name(tmp_path: Path) -> None:
    problems = _problems(
        tmp_path,
        """
preset: tinny
extra: 1
settings: {train: {stepz: 3}}
space:
  adapter.rnk: [4, 8]
  adapter.rank: [4, 0]
  adapter.sites: [decoder, everywhere]
  train.learning_rate: {low: 1.0e-3, high: 1.0e-4}
  train.batch_size: {low: 1.5, high: 4}
  train.warmup_share: {low: 0, high: 1.5}
  adapter.dropout: 0.1
  data.dev: [a.jsonl, b.jsonl]
  pair: [{adapter.alpa: 3}]
""",
    )
    text = "\n".join(problems)
    for expected in (
        "'tinny'", "'extra'", "did you mean 'train.steps'", "'adapter.rnk'; did you mean",
        "adapter.rank = 0", "adapter.sites = 'everywhere'", "must lie below high",
        "train.batch_size: takes whole numbers", "train.warmup_share = 1.5",
        "adapter.dropout: give a list", "data.dev may not vary", "did you mean 'adapter.alpha'",
    ):  # fmt: skip
        assert expected in text, expected


def test_two_dimensions_may_not_move_one_setting(tmp_path: Path) -> None:
    problems = _problems(
        tmp_path, "space:\n  adapter.rank: [4, 8]\n  size: [{adapter.rank: 2}, {adapter.rank: 3}]\n"
    )
    assert problems == ["adapter.rank is varied by 'adapter.rank' and by 'size'"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[1, 2]", "must be a YAML mapping"),
        ("space: {", "not YAML"),
        ("preset: tiny", "nothing varies"),
        ("space: {adapter.rank: [4, 4]}", "listed twice: 4"),
        ("space: {adapter.dropout: {low: 0, high: 0.1, steps: 2}}", "not 'steps'"),
        ("space: {adapter.dropout: {low: 0.0, high: 0.1, log: true}}", "starts above 0"),
        ("space: {adapter.dropout: {low: x, high: 0.1}}", "must be numbers"),
        ("space: {adapter.dropout: {low: 0, high: .inf}}", "must be finite"),
        ("space: {adapter.dropout: {low: 0, high: 0.1, step: 0.5}}", "does not fit"),
        ("space: {adapter.rank: []}", "give a list of values"),
        ("space: {adapter.rank: [{a: 1}, 8]}", "not both in one list"),
    ],
)
def test_bad_spaces(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(RequestError, match=expected.replace("(", r"\(")):
        _space(tmp_path, text)


def test_an_unknown_space_names_the_shipped_ones() -> None:
    with pytest.raises(RequestError) as caught:
        read_space("quik")
    assert "quick" in (caught.value.hint or "")


@pytest.mark.parametrize("name", space_names())
def test_shipped_spaces_are_right_and_open_with_their_command(name: str) -> None:
    space = read_space(name)
    settings = resolve_settings(space.layers).settings
    for item in space.dimensions:
        assert item.labels or item.distribution.low < item.distribution.high
    assert space.point_of(settings) is not None, "the preset itself should be the first trial"
    folder = Path(str(__import__("moonshine_tune").__file__)).parent / "ablation" / "spaces"
    assert f"--space {name} " in (folder / f"{name}.yaml").read_text("utf-8").splitlines()[1]


def test_grid_lists_every_point_once_and_needs_steps(tmp_path: Path) -> None:
    space = _space(
        tmp_path,
        "space:\n  adapter.dropout: {low: 0, high: 0.3, step: 0.1}\n"
        "  adapter.rank: {low: 2, high: 4}\n",
    )
    points = space.grid()
    assert len(points) == 12
    assert {point["adapter.dropout"] for point in points} == {0.0, 0.1, 0.2, 0.3}
    assert len({tuple(point.items()) for point in points}) == 12
    endless = _space(tmp_path, "space: {adapter.dropout: {low: 0, high: 0.3}}")
    with pytest.raises(ProblemsError, match=r"adapter.dropout is a range without a step"):
        endless.grid()


def test_a_space_survives_its_record(tmp_path: Path) -> None:
    for name in space_names():
        space = read_space(name)
        again = SearchSpace.from_record(space.name, space.to_record())
        assert again.dimensions == space.dimensions


def test_where_settings_lie_in_a_space(tmp_path: Path) -> None:
    space = _space(
        tmp_path,
        "space:\n  train.learning_rate: {low: 1e-4, high: 1e-3}\n"
        "  size: [{adapter.rank: 4, adapter.alpha: 8}, {adapter.rank: 8, adapter.alpha: 16}]\n",
    )
    point = space.point_of(RunSettings())
    assert point is not None
    assert point["train.learning_rate"] == 5e-4
    assert space.settings_of(point)["adapter"] == {"rank": 8, "alpha": 16}
    outside = resolve_settings([("test", {"adapter": {"rank": 8, "alpha": 9}})]).settings
    assert space.point_of(outside) is None


def test_paths_of_a_space_file_are_relative_to_it(tmp_path: Path) -> None:
    space = _space(tmp_path, "space:\n  data.train: [small.jsonl, all.jsonl]\n")
    assert space.dimensions[0].labels[0] == str(tmp_path / "small.jsonl")
