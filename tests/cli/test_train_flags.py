"""Flags of `train` become settings with their source; nothing is trained here."""

import sys
from types import ModuleType
from typing import Any

import pytest

from moonshine_tune.cli.app import run
from moonshine_tune.config.resolve import ResolvedSettings
from moonshine_tune.core.errors import RequestError


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[ResolvedSettings]:
    """The settings that `train` was called with; training itself is refused."""
    seen: list[ResolvedSettings] = []

    def refuse(settings: ResolvedSettings, *words: Any, **named: Any) -> None:
        seen.append(settings)
        raise RequestError("not here")

    job = ModuleType("moonshine_tune.training.run")
    job.train = refuse  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "moonshine_tune.training.run", job)
    return seen


def test_a_tracker_is_named_by_one_flag(asked: list[ResolvedSettings]) -> None:
    assert run(["train", "--train", "a.jsonl", "--out", "r", "--tracker", "mlflow"]) == 2
    assert asked[0].settings.tracker == "mlflow"
    assert asked[0].sources["tracker"] == "flag"


def test_without_the_flag_there_is_none(asked: list[ResolvedSettings]) -> None:
    assert run(["train", "--train", "a.jsonl", "--out", "r", "--set", "train.steps=3"]) == 2
    assert asked[0].settings.tracker is None
    assert "tracker" not in asked[0].sources
