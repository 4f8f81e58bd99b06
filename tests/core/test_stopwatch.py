"""Time by activity."""

import pytest

from moonshine_tune.core import stopwatch as stopwatch_module
from moonshine_tune.core.stopwatch import Stopwatch


def test_an_activity_inside_another_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(stopwatch_module.time, "monotonic", lambda: now)
    watch = Stopwatch()
    with watch.measure("choice"):
        now = 2.0
        with watch.measure("filter"):
            now = 5.0
        now = 6.0
    with pytest.raises(ValueError, match="broken"), watch.measure("filter"):
        now = 7.0
        raise ValueError("broken")
    watch.add_all({"choice": 10.0, "steps": 1.0})
    assert watch.seconds == {"filter": 4.0, "choice": 13.0, "steps": 1.0}
