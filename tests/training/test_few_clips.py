"""Few recordings get few steps, unless the user says how many."""

import pytest

from moonshine_tune.config.resolve import ResolvedSettings, resolve_settings
from moonshine_tune.registry.model_preset import with_model_preset
from moonshine_tune.training.few_clips import with_few_steps


def _settings(**values: float) -> ResolvedSettings:
    train = {f"train.{name}": value for name, value in values.items()}
    return resolve_settings(with_model_preset([("--set", train)] if train else []))


@pytest.mark.parametrize(("clips", "steps", "every"), [(7, 25, 5), (16, 50, 10), (64, 200, 25),
                                                       (1000, 200, 25)])  # fmt: skip
def test_no_recording_is_passed_too_often(clips: int, steps: int, every: int) -> None:
    resolved, remarks = with_few_steps(_settings(), clips)
    settings = resolved.settings
    assert (settings.train.steps, settings.select.every_steps) == (steps, every)
    assert bool(remarks) == (steps < 200)
    if remarks:
        assert f"few recordings, so {steps} steps instead of 200" in remarks[0]
        assert resolved.sources["train.steps"] == "few recordings"


def test_the_number_that_a_user_sets_stays() -> None:
    resolved, remarks = with_few_steps(_settings(steps=90), 7)
    assert resolved.settings.train.steps == 90 and not remarks
