"""Which settings may change at a resume; the others are refused by name."""

from typing import Any

import pytest

from moonshine_tune.config.resolve import ResolvedSettings, resolve_settings
from moonshine_tune.config.resume import (
    BY_CONTENT,
    FIXED,
    MAY_CHANGE,
    changed_settings,
    check_resumed,
)
from moonshine_tune.config.settings import RunSettings, setting_rows
from moonshine_tune.core.errors import ProblemsError
from moonshine_tune.core.nested import unflatten

_RECORDED = RunSettings().model_dump(mode="json")
_OTHER = {
    "bool": lambda value: not value, "int": lambda value: value + 1,
    "float": lambda value: value / 2 or 0.25,
}  # fmt: skip
_WORDS: dict[str, Any] = {
    "tracker": "mlflow", "data.normalizer": "basic-1", "adapter.sites": "all",
    "adapter.parent": "runs/a", "adapter.kind": "full",
    "augment.snr_db": [1.0, 2.0], "augment.gain_db": [-1.0, 2.0], "augment.speeds": [0.95, 1.05],
    "train.stages": [{"steps": 1, "max_clip_s": 8.0}], "retain.targets": "transcripts",
    "retain.strengths": [1.0], "train.lora_plus_ratio": 8.0, "device.name": "cuda",
    "device.dtype": "float16",
    "device.frozen_weights": "bfloat16", "device.budget_gib": 4.0,
    "device.compare_steps": 5, "device.state_storage": "disk", "device.state_format": "float32",
    "data.pseudo_rounds": 1,
    "data.synthetic_share": 0.3, "augment.synthetic_share": 0.3, "train.term_weight": 2.0,
}  # fmt: skip


def _changed(name: str) -> ResolvedSettings:
    default = next(value for key, value, _ in setting_rows() if key == name)
    value = _WORDS[name] if name in _WORDS else _OTHER[type(default).__name__](default)
    return resolve_settings([("--set", unflatten({name: value}))])


def test_every_setting_is_classified_once() -> None:
    names = {name for name, _, _ in setting_rows()}
    assert names == MAY_CHANGE | FIXED | BY_CONTENT
    assert len(names) == len(MAY_CHANGE) + len(FIXED) + len(BY_CONTENT)


@pytest.mark.parametrize("name", sorted(FIXED))
def test_what_changes_the_adapter_or_its_scores_is_refused_by_name(name: str) -> None:
    with pytest.raises(ProblemsError, match=name) as caught:
        check_resumed(_RECORDED, _changed(name), "english-1")
    assert "by --set" in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", sorted(MAY_CHANGE))
def test_the_others_are_changes_of_the_leg(name: str) -> None:
    assert list(check_resumed(_RECORDED, _changed(name), "english-1")) == [name]


def test_all_refused_settings_are_named_at_once() -> None:
    layer = {"adapter": {"alpha": 64, "rank": 4}, "train": {"seed": 1, "steps": 9}}
    with pytest.raises(ProblemsError) as caught:
        check_resumed(_RECORDED, resolve_settings([("file a.yaml", layer)]), None)
    assert caught.value.problems == (
        "adapter.rank: 8 in this run, 4 by file a.yaml",
        "adapter.alpha: 16.0 in this run, 64.0 by file a.yaml",
        "train.seed: 0 in this run, 1 by file a.yaml",
    )


def test_naming_the_normalizer_that_the_language_chose_changes_nothing() -> None:
    resolved = resolve_settings([("--set", {"data": {"normalizer": "english-1"}})])
    assert check_resumed(_RECORDED, resolved, "english-1") == {}
    with pytest.raises(ProblemsError, match=r"data\.normalizer"):
        check_resumed(_RECORDED, resolved, "basic-1")


def test_a_record_of_an_earlier_version_has_the_defaults_of_what_it_lacks() -> None:
    recorded = {"data": {"max_clip_s": 30.0}, "train": {"steps": 200}, "gone": {"setting": 1}}
    changes = changed_settings(recorded, RunSettings())
    # It replayed whole clips, as they were, and filtered nothing.
    assert {name: before for name, (before, _) in changes.items()} == {
        "retain.window_s": 0.0, "retain.varied_share": 0.0, "retain.encoder_weight": 0.0,
        "retain.filter_weight": 0.0,
    }  # fmt: skip
