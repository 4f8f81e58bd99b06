"""Settings that follow from others: rates of full fine-tuning, and an encoder that is frozen."""

from typing import Any

import pytest

from moonshine_tune.config.implied import FULL_RATES
from moonshine_tune.config.resolve import (
    ResolvedSettings,
    parse_assignments,
    read_preset,
    resolve_settings,
)
from moonshine_tune.config.resume import check_resumed
from moonshine_tune.core.errors import ProblemsError

_RATES = tuple(FULL_RATES.values())


def _resolved(*assignments: str, below: tuple[Any, ...] = ()) -> ResolvedSettings:
    layers = [("preset tiny", read_preset("tiny")), *below]
    return resolve_settings([*layers, ("--set", parse_assignments(assignments))])


def _rates(resolved: ResolvedSettings) -> tuple[float, float]:
    train = resolved.settings.train
    return train.learning_rate, train.encoder_learning_rate


def test_full_fine_tuning_has_far_lower_rates_than_the_preset() -> None:
    lora, full = _resolved(), _resolved("adapter.kind=full")
    assert _rates(full) == _RATES and max(_RATES) <= min(_rates(lora)) / 10
    assert full.sources["train.learning_rate"] == "adapter.kind=full"
    # The preset's other settings stay, without those of LoRA matrices.
    assert (full.settings.adapter.sites, full.settings.adapter.dropout) == ("all", 0.0)
    assert full.settings.retain == lora.settings.retain


def test_a_rate_that_is_set_stays() -> None:
    file = ("file a.yaml", {"train": {"learning_rate": 1e-5}})
    assert _rates(_resolved("adapter.kind=full", below=(file,))) == (1e-5, _RATES[1])


def test_the_settings_of_a_full_run_stay_as_they_are() -> None:
    first = _resolved("adapter.kind=full", "train.learning_rate=1e-5")
    for source in ("run.json", "--from runs/a"):
        layer = (source, first.settings.model_dump(mode="json"))
        assert resolve_settings([layer]).settings == first.settings
        # --full again changes nothing.
        named = resolve_settings([layer, ("flag", {"adapter.kind": "full"})])
        assert named.settings == first.settings


@pytest.mark.parametrize(
    "wrong", ["adapter.rank=16", "adapter.dora=true", "train.lora_plus_ratio=8", "train.folds=2"]
)
def test_settings_of_adapters_are_refused(wrong: str) -> None:
    with pytest.raises(ProblemsError) as refused:
        _resolved("adapter.kind=full", wrong)
    (problem,) = refused.value.problems
    assert problem.startswith(f"--set: {wrong.partition('=')[0]}") and "LoRA" in problem


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_rate_of_zero_freezes_the_encoder(kind: str) -> None:
    resolved = _resolved(f"adapter.kind={kind}", "train.encoder_learning_rate=0")
    assert resolved.settings.adapter.sites == "decoder"
    assert resolved.sources["adapter.sites"] == "train.encoder_learning_rate=0"
    with pytest.raises(ProblemsError, match="1 setting is wrong") as refused:
        _resolved("train.encoder_learning_rate=0", "adapter.sites=qv")
    assert "choose one of decoder" in refused.value.problems[0]


def test_a_resume_cannot_change_what_trains() -> None:
    before = _resolved("adapter.kind=full").settings.model_dump(mode="json")
    for change in ("adapter.kind=lora", "train.encoder_learning_rate=0"):
        layers = [("run.json", before), ("--set", parse_assignments([change]))]
        with pytest.raises(ProblemsError, match="cannot change at a resume"):
            check_resumed(before, resolve_settings(layers), None)
