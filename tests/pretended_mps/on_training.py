"""Training on the pretended device computes what it computes on the CPU, and nothing falls back."""

import time
from pathlib import Path
from typing import Any

import pytest
from tests.pretended_mps.device import PretendedMps

from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.training.run import train

pytestmark = pytest.mark.usefixtures("one_thread")
VARIANTS = {
    "v1": ("v1", (), {}),
    "encoder": ("v1", ("replay", "canary"), {"adapter__sites": "all", "retain__domain_weight": 0.3}),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_run_equals_the_run_on_the_cpu(
    name: str, device: PretendedMps, training: Any, on_mps: Any, tmp_path: Path
) -> None:
    family, names, changes = VARIANTS[name]
    changes = {"adapter__dropout": 0.0, "train__steps": 4, **changes}
    train(training.settings(*names, **changes), tmp_path / "cpu", SilentProgress())
    for every in (0, 1):
        device.reset()
        t=time.process_time()
        w = training.Watcher()
        train(on_mps.settings(*names, device__compare_steps=every, **changes), tmp_path / f"mps{every}", w)
        print(time.process_time()-t, w.messages)
        records = device.records()
        print({k: (v if k in ("syncs","fallbacks","host_indices","live","peak") else sum(v.values())) for k, v in records.items()})
    assert training.is_same(tmp_path / "mps0", tmp_path / "mps1")
    for a, b in zip(training.steps(tmp_path / "cpu"), training.steps(tmp_path / "mps0")):
        assert [x or 0 for x in a] == pytest.approx([x or 0 for x in b], rel=1e-4)

from tests.pretended_mps.device import FAULTS
@pytest.mark.parametrize("fault", FAULTS)
def test_fault(fault, device, on_mps, tmp_path):
    w = on_mps.Watcher()
    try:
        with device.planted(fault):
            train(on_mps.settings(train__steps=3), tmp_path / f"x", w)
    except Exception as e:
        print(fault, repr(e))
    else:
        print(fault, "unseen")
