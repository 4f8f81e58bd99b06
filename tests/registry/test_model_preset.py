"""Without a named preset, a run has the settings that were found for its model."""

from pathlib import Path

import pytest

from moonshine_tune.config.resolve import read_preset, resolve_settings, settings_layers
from moonshine_tune.core.nested import flatten
from moonshine_tune.registry.catalog import MODELS
from moonshine_tune.registry.model_preset import preset_of, with_model_preset


@pytest.mark.parametrize(
    ("model", "preset"),
    [
        ("tiny", "tiny"),
        ("base", "tiny"),
        ("tiny-ar", "tiny"),
        ("streaming-tiny", "tiny"),
        ("streaming-small-de", "medium"),
        ("medium", "medium"),
        ("moonshine-ai/moonshine-streaming-medium", "medium"),
        ("UsefulSensors/moonshine-tiny", "tiny"),
        ("no-such-model", "tiny"),
        ("/no/such/folder", "tiny"),
    ],
)
def test_the_preset_follows_the_size(model: str, preset: str) -> None:
    assert preset_of(model) == preset


def test_every_model_has_one() -> None:
    assert {preset_of(record.name) for record in MODELS} == {"tiny", "medium"}


def test_a_checkpoint_folder_is_judged_by_its_width(saved_v1: Path, saved_streaming: Path) -> None:
    assert preset_of(str(saved_v1)) == preset_of(str(saved_streaming)) == "tiny"


def test_a_bare_run_has_the_settings_of_its_preset() -> None:
    bare = resolve_settings(with_model_preset([])).settings
    named = resolve_settings(settings_layers("tiny", None, None, flags={})).settings
    assert bare == named


def test_the_model_may_come_from_any_layer(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("model: medium\n")
    layers = settings_layers(None, tmp_path / "run.yaml", None, flags={})
    settings = resolve_settings(with_model_preset(layers)).settings
    assert settings.model == "medium"
    for key, value in flatten(read_preset("medium")):
        assert dict(flatten(settings.model_dump()))[key] == value


def test_everything_given_wins_over_it() -> None:
    layers = settings_layers(None, None, ["train.steps=7", "model=base"], flags={})
    settings = resolve_settings(with_model_preset(layers)).settings
    assert (settings.train.steps, settings.model) == (7, "base")


def test_a_named_preset_stays_alone() -> None:
    layers = settings_layers("tiny-proof", None, None, flags={})
    assert with_model_preset(layers) == layers
