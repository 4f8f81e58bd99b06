"""The pretended device for the tests of this folder, which run in a process of their own."""

import os
from pathlib import Path

import pytest
from tests.pretended_mps.device import PretendedMps
from tests.training_runs import Training

_PATH = os.environ.get("PRETENDED_MPS")
# At once: transformers asks torch for MPS when it is imported, and torch keeps the first answer.
_DEVICE = PretendedMps(Path(_PATH)) if _PATH else None


@pytest.fixture(scope="session")
def device() -> PretendedMps:
    """The pretended device, which is `mps` in this process."""
    if _DEVICE is None:
        pytest.skip("runs in the process that test_pretended_mps.py starts")
    return _DEVICE


class MpsTraining(Training):
    """The same runs as elsewhere, on the pretended device."""

    def content(self, *names: str) -> dict[str, object]:
        return {**super().content(*names), "device": {"name": "mps"}}


@pytest.fixture(scope="session")
def on_mps(device: PretendedMps, saved_v1: Path, speech_folder: Path) -> MpsTraining:
    """Runs of the small v1 model on the pretended device."""
    return MpsTraining(saved_v1, speech_folder)


@pytest.fixture(scope="session")
def streaming_on_mps(
    device: PretendedMps, saved_streaming: Path, speech_folder: Path
) -> MpsTraining:
    """Runs of the small streaming model on the pretended device."""
    return MpsTraining(saved_streaming, speech_folder)
