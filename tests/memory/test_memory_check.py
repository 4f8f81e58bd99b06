"""The memory check before `train`: refusals, fitted settings, and when there is no check."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import soundfile

from moonshine_tune.config.resolve import ResolvedSettings
from moonshine_tune.config.settings import RunSettings
from moonshine_tune.core.device import heap_keeps_freed_memory
from moonshine_tune.core.errors import MachineError
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.inference.dataset import read_training_data
from moonshine_tune.memory import fit as fitting
from moonshine_tune.memory.estimate import GIB, Workload, estimate_memory
from moonshine_tune.memory.fit import MemoryCheck
from moonshine_tune.training import run as train_module
from moonshine_tune.training.run import train

pytestmark = pytest.mark.usefixtures("one_thread")

_PROCESS = 600 << 20


def workload_of(settings: RunSettings) -> Workload:
    return fitting.workload_of(settings, read_training_data(settings.data))


def check_memory(resolved: ResolvedSettings, **options: Any) -> MemoryCheck:
    return fitting.check_memory(resolved, read_training_data(resolved.settings.data), **options)


def _part(training: Any, share: float, *names: str, **changes: Any) -> Any:
    """Settings whose budget is the process and a share of what the run adds to it."""
    settings = training.settings(*names, **changes).settings
    estimate = estimate_memory(settings, workload_of(settings), "cpu").tightened()
    return training.settings(
        *names, **changes, device__budget_gib=(_PROCESS + share * estimate.growth) / GIB
    )


def test_the_workload_is_what_the_manifests_hold(training: Any, tmp_path: Path) -> None:
    settings = training.settings("canary", "replay").settings
    workload = workload_of(settings)
    seconds = [soundfile.info(path).duration for path in training.speech.glob("*.wav")]
    assert workload.clip_s == pytest.approx(max(seconds))
    assert workload.audio_s == pytest.approx(sum(seconds))
    assert workload.replays
    shorter = workload_of(training.settings(data__max_clip_s=0.9).settings)
    assert shorter.clip_s is not None and shorter.clip_s <= 0.9
    assert not shorter.replays


def test_a_run_that_cannot_fit_is_refused_before_anything_loads(
    training: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_module, "open_model", lambda *a, **k: pytest.fail("it was loaded"))
    settings = _part(training, 0.5)
    with pytest.raises(MachineError, match="would need") as caught:
        train(settings, tmp_path / "run", SilentProgress())
    assert "batch 4, clips of" in str(caught.value)
    assert "--fit" in (caught.value.hint or "") and "estimate" in (caught.value.hint or "")
    assert caught.value.exit_code == 3
    assert not (tmp_path / "run").exists()


def test_fit_changes_what_is_needed_and_says_what_and_why(training: Any, tmp_path: Path) -> None:
    settings = _part(training, 0.7, adapter__sites="all")
    watcher = training.Watcher()
    result = train(settings, tmp_path / "run", watcher, fit=True)
    assert (result.stopped, result.steps) == ("finished", 12)
    changes = [line for line in watcher.messages if line.startswith("memory: train.batch_size=")]
    assert changes and "the same effective batch" in changes[0] and "GiB" in changes[0]
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    chosen = record["settings"]["train"]
    assert chosen["batch_size"] * chosen["accumulation"] == 4 > chosen["batch_size"]
    assert record["sources"]["train.batch_size"] == "--fit"
    assert record["sources"]["train.steps"] == "test"
    assert record["expected_memory_mb"] * 1e6 <= settings.settings.device.budget_gib * GIB
    assert any(change in record["remarks"] for change in changes)


def test_clips_too_long_for_the_budget_are_skipped_and_counted(
    training: Any, tmp_path: Path
) -> None:
    """All other savings are used: one clip at a time, recomputed activations, 16 bits."""
    least = {
        "adapter__sites": "all", "train__batch_size": 1, "train__gradient_checkpointing": True,
        "device__frozen_weights": "bfloat16", "train__steps": 2, "device__state_cache_mb": 0,
        # Its steps take more memory than a score of three short clips.
        "adapter__dora": True,
    }  # fmt: skip
    settings = _part(training, 0.95, **least)
    with pytest.raises(MachineError, match="clips of"):
        train(settings, tmp_path / "no", SilentProgress())
    result = train(settings, tmp_path / "run", SilentProgress(), fit=True)
    assert any("data.max_clip_s=1 (longer clips are skipped)" in text for text in result.remarks
               ) or any("longer than 1 s" in text for text in result.remarks)  # fmt: skip


def test_nothing_that_fits_is_one_plain_error(training: Any, tmp_path: Path) -> None:
    settings = training.settings(device__budget_gib=0.1)
    with pytest.raises(MachineError, match="with every saving"):
        train(settings, tmp_path / "run", SilentProgress(), fit=True)
    assert not (tmp_path / "run").exists()


def test_a_resumed_run_is_only_warned(training: Any, tmp_path: Path) -> None:
    """It has found a micro-batch that fits, so the estimate of its settings says little."""
    check = check_memory(_part(training, 0.5), refuse=False)
    assert check.estimate is not None
    assert check.resolved.settings.train.batch_size == 4
    assert "GiB expected at the peak" in check.remarks[0]


def test_a_model_of_unknown_shape_is_reported(training: Any) -> None:
    settings = training.settings(device__budget_gib=4)
    unknown = dataclasses.replace(
        settings, settings=settings.settings.model_copy(update={"model": "somebody/their-model"})
    )
    check = check_memory(unknown)
    assert check.estimate is None and check.expected_mb is None
    assert "not estimated" in check.remarks[0] and "somebody/their-model" in check.remarks[0]


def test_without_a_budget_only_mps_and_fit_are_checked(
    training: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = check_memory(training.settings())
    assert plain.estimate is None and plain.remarks == () and plain.expected_mb is None
    assert check_memory(training.settings(), fit=True).estimate is not None
    monkeypatch.setattr(fitting, "device_kind", lambda name: "mps")
    assert check_memory(training.settings()).estimate is not None


def test_processes_share_the_memory(training: Any) -> None:
    settings = _part(training, 1.2)
    assert check_memory(settings).estimate is not None
    with pytest.raises(MachineError, match="for 2 processes"):
        check_memory(settings, processes=2)


def test_freed_memory_is_returned_only_if_the_run_needs_it(
    training: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moonshine_tune.memory.estimate.heap_keeps_freed_memory", lambda: True)
    calls: list[bool] = []
    monkeypatch.setattr(fitting, "return_freed_memory_to_os", lambda: calls.append(True) or True)
    assert check_memory(_part(training, 3.0)).estimate is not None
    assert not calls
    # The live memory fits, the fragmented heap does not.
    tight = check_memory(_part(training, 1.05))
    assert calls == [True]
    assert any("freed memory goes back" in remark for remark in tight.remarks)


_FRAGMENTED = """
import sys
from moonshine_tune.config.resolve import ResolvedSettings
from moonshine_tune.config.settings import RunSettings
from moonshine_tune.core.device import return_freed_memory_to_os
from moonshine_tune.core.hardware import resident_mb
import torch
if sys.argv[1] == "tight":
    return_freed_memory_to_os()
kept = []
for round_ in range(60):
    size = 300_000 + 37_000 * (round_ % 13)
    blocks = [torch.ones(size) for _ in range(20)]
    kept.append(torch.ones(2000))
    del blocks
print(resident_mb())
"""


@pytest.mark.skipif(not heap_keeps_freed_memory(), reason="only glibc fragments its heap like this")
def test_freed_blocks_go_back_to_the_system() -> None:
    resident = {}
    for way in ("tight", "loose"):
        done = subprocess.run(
            [sys.executable, "-c", _FRAGMENTED, way], capture_output=True, text=True, check=True
        )
        resident[way] = int(done.stdout)
    assert resident["tight"] <= resident["loose"]


_FREED = """
from moonshine_tune.core.device import trim_heap
from moonshine_tune.core.hardware import resident_mb
import torch
blocks = [torch.ones(12_000) for _ in range(4000)]
kept = torch.ones(12_000)
del blocks
before = resident_mb()
trim_heap()
print(before - resident_mb())
"""


@pytest.mark.skipif(not heap_keeps_freed_memory(), reason="only glibc keeps such pages")
def test_free_pages_go_back_to_the_system() -> None:
    """190 MB in small blocks, freed below one that is still alive."""
    done = subprocess.run(
        [sys.executable, "-c", _FREED], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) > 150
