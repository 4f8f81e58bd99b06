"""The time and the disk space that `estimate` expects of a run."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from moonshine_tune.config.resolve import resolve_settings
from moonshine_tune.config.settings import RunSettings
from moonshine_tune.corpus.manifest import Manifest, Utterance
from moonshine_tune.inference.dataset import TrainingData
from moonshine_tune.memory import duration as duration_module
from moonshine_tune.memory import estimate as estimate_module
from moonshine_tune.memory.duration import estimate_duration
from moonshine_tune.memory.estimate import model_config, run_shape
from moonshine_tune.memory.fit import workload_of
from moonshine_tune.memory.model import MemoryModel
from moonshine_tune.memory.run_shape import RunShape
from moonshine_tune.registry.published_configs import published_config, shallower

pytestmark = pytest.mark.usefixtures("one_thread")


def settings_of(**sections: Any) -> RunSettings:
    return resolve_settings([("test", {"model": "tiny", **sections})]).settings


def test_the_time_is_that_of_all_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pass takes a second here; how many there are follows from settings and manifests."""
    monkeypatch.setattr(duration_module, "_median_seconds", lambda work: 1.0)

    def manifest(count: int, seconds: float) -> Manifest:
        clips = [
            Utterance(f"u{i}", Path("x.wav"), "a" * 40, duration=seconds) for i in range(count)
        ]
        return Manifest(Path("x.jsonl"), tuple(clips), "")

    settings = settings_of(
        train={"steps": 100, "accumulation": 2, "batch_size": 8},
        retain={"clips_per_step": 8, "strengths": [1.0, 0.5], "filter_weight": 1.0},
        select={"every_steps": 20, "average_last": 0},
    )
    data = TrainingData(manifest(40, 4.0), dev=manifest(10, 4.0), replay=manifest(30, 12.0))
    shape, _ = run_shape(settings, workload_of(settings, data), "cpu")
    config = model_config("tiny")
    seconds = estimate_duration(config, shape, settings, data)
    assert seconds is not None
    assert seconds.seconds["steps"] == 200.0
    assert seconds.seconds["replay"] == 100.0
    # A filter at each of 5 scores looks at 3 steps of 16 clips, and the last one at 10.
    assert seconds.seconds["filter"] == pytest.approx(0.7 * (5 * 3 + 10) / 100 * 300.0)
    # 5 scores and, for strengths and filter, 3 more.
    once = seconds.seconds["baseline"]
    assert once > 0
    assert seconds.seconds["scoring"] == pytest.approx(3.75 * once)
    assert seconds.seconds["choice"] == pytest.approx(1.5 * once)
    assert seconds.total == pytest.approx(sum(seconds.seconds.values()))
    assert estimate_duration(config, replace(shape, device="mps"), settings, data) is None


def test_the_passes_that_are_timed_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """On real tensors, of both kinds of encoder."""
    config = published_config("tiny")
    config = shallower(config, 1)
    for sites in ("decoder", "all"):
        shape = RunShape(sites=sites, clip_s=0.5, tokens=3, stored_s=10.0, score_batch_s=2.0,
                         prepare_batch_s=2.0, batch_size=2, replay_clips=2)  # fmt: skip
        clips = duration_module._Clips(4, 2.0, 12.0)
        monkeypatch.setattr(duration_module, "_MOST_REPEATS", 1)
        passes = duration_module._Passes(config, shape)
        assert passes.step(clips) > 0
        assert passes.step(clips, replays=True) > 0
        assert passes.encode_per_second(clips) > 0
        assert passes.decode(clips) > 0


def test_the_disk_holds_the_run_and_states_beyond_memory() -> None:
    shape = RunShape(stored_s=3600.0)
    estimate = MemoryModel(shallower(published_config("tiny"), 1), shape).estimate(only="load")
    # 41.7 frames a second, 288 wide, in 32 bits.
    assert estimate.states_bytes == pytest.approx(3600 * 41.7 * 288 * 4, rel=0.01)

    def disk(**device: Any) -> Mapping[str, int]:
        return estimate_module._disk_bytes(settings_of(device=device), estimate)

    assert list(disk(state_storage="auto", state_cache_mb=1500)) == ["run folder"]
    assert list(disk(state_storage="memory", state_cache_mb=10)) == ["run folder"]
    for settings in ({"state_storage": "disk"}, {"state_storage": "auto", "state_cache_mb": 10}):
        stored = disk(**settings, state_format="float16")["encoder states"]
        assert stored == estimate.states_bytes // 2
    assert disk(state_storage="disk", state_disk_mb=10)["encoder states"] == 10_000_000
