"""Flags of `train` become settings with their source; nothing is trained here."""

import sys
from types import ModuleType
from typing import Any

import pytest

from moonshine_tune.cli.app import run
from moonshine_tune.config.resolve import ResolvedSettings
from moonshine_tune.core.errors import RequestError


@pytest.fixture
def requested(monkeypatch: pytest.MonkeyPatch) -> list[ResolvedSettings]:
    """The settings that `train` was called with; training itself is refused."""
    calls: list[ResolvedSettings] = []

    def refuse(settings: ResolvedSettings, *arguments: Any, **options: Any) -> None:
        calls.append(settings)
        raise RequestError("not here")

    job = ModuleType("moonshine_tune.training.run")
    job.train = refuse  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "moonshine_tune.training.run", job)
    return calls


def test_a_tracker_is_named_by_one_flag(requested: list[ResolvedSettings]) -> None:
    assert run(["train", "--train", "a.jsonl", "--out", "r", "--tracker", "mlflow"]) == 2
    assert requested[0].settings.tracker == "mlflow"
    assert requested[0].sources["tracker"] == "flag"


def test_without_the_flag_there_is_none(requested: list[ResolvedSettings]) -> None:
    assert run(["train", "--train", "a.jsonl", "--out", "r", "--set", "train.steps=3"]) == 2
    assert requested[0].settings.tracker is None
    assert "tracker" not in requested[0].sources


def test_the_device_is_a_flag_as_of_other_commands(requested: list[ResolvedSettings]) -> None:
    assert run(["train", "--train", "a.jsonl", "--out", "r", "--device", "cpu"]) == 2
    assert requested[0].settings.device.name == "cpu"
    assert requested[0].sources["device.name"] == "flag"
