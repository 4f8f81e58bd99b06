"""Training on the pretended device computes what it computes on the CPU, and nothing falls back."""

from pathlib import Path
from typing import Any

import pytest
from tests.pretended_mps.device import PretendedMps

from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.training.run import train

pytestmark = pytest.mark.usefixtures("one_thread")
VARIANTS = {
    "v1": ("v1", (), {}),
    "encoder": ("v1", ("replay", "canary"), {"adapter__sites": "all"}),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_run_equals_the_run_on_the_cpu(
    name: str, device: PretendedMps, training: Any, on_mps: Any, tmp_path: Path
) -> None:
    family, names, changes = VARIANTS[name]
    changes = {"adapter__dropout": 0.0, "train__steps": 4, **changes}
    train(training.settings(*names, **changes), tmp_path / "cpu", SilentProgress())
    device.reset()
    train(on_mps.settings(*names, **changes), tmp_path / "mps", SilentProgress())
    records = device.records()
    print({k: (v if k in ("syncs","fallbacks","host_indices","live","peak") else sum(v.values())) for k, v in records.items()})
    print(training.steps(tmp_path / "cpu"))
    print(training.steps(tmp_path / "mps"))
