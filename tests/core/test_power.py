"""A Mac is kept awake while a run trains, and its battery is known."""

import os
import subprocess
import sys
from typing import Any

import psutil
import pytest

from moonshine_tune.core import power
from moonshine_tune.core.power import is_on_battery, keep_awake


class _Process:
    def __init__(self, command: list[str]) -> None:
        self.command, self.ended = command, False

    def terminate(self) -> None:
        self.ended = True

    def wait(self) -> int:
        return 0


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[_Process]:
    started: list[_Process] = []

    def start(command: list[str]) -> _Process:
        started.append(_Process(command))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    return started


def test_a_mac_stays_awake_inside_the_block(
    started: list[_Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(RuntimeError), keep_awake():
        assert started[0].command == ["/usr/bin/caffeinate", "-i", "-w", str(os.getpid())]
        assert not started[0].ended
        raise RuntimeError
    assert started[0].ended


def test_nothing_is_started_elsewhere_or_unwanted(
    started: list[_Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    with keep_awake():
        pass
    monkeypatch.setattr(sys, "platform", "darwin")
    with keep_awake(False):
        pass
    assert started == []


def test_a_mac_without_the_program_runs_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(power, "_CAFFEINATE", "/no/such/program")
    with keep_awake():
        pass


@pytest.mark.parametrize(("plugged", "expected"), [(True, False), (False, True), (None, False)])
def test_the_battery_is_known(
    plugged: bool | None, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Battery:
        power_plugged = plugged

    monkeypatch.setattr(psutil, "sensors_battery", Battery, raising=False)
    assert is_on_battery() is expected


@pytest.mark.parametrize("error", [AttributeError, OSError])
def test_a_machine_that_does_not_tell_counts_as_plugged_in(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> Any:
        raise error

    monkeypatch.setattr(psutil, "sensors_battery", fail, raising=False)
    assert not is_on_battery()
    monkeypatch.setattr(psutil, "sensors_battery", lambda: None, raising=False)
    assert not is_on_battery()
