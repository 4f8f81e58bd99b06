"""The tests of this folder on the pretended device, in one process of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.pretended_mps.device import build, why_unavailable

_FOLDER = Path(__file__).parent
_ROOT = _FOLDER.parents[1]


@pytest.mark.takes_minutes
def test_everything_on_the_pretended_device(real_cache: Path) -> None:
    """`mps` becomes a device of a process for good, so this one does not get it."""
    reason = why_unavailable()
    if reason is not None:
        pytest.skip(reason)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    environment |= {"PRETENDED_MPS": str(build(real_cache)), "OMP_NUM_THREADS": "1"}
    files = sorted(str(path) for path in _FOLDER.glob("on_*.py"))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--durations=5", *files],
        cwd=_ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
