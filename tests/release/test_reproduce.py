"""`reproduce/` of a real package: trained again by its script, the adapter has the same hash."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.registry.wheel import WheelAssets
from moonshine_tune.release.inputs import PackageRequest
from moonshine_tune.release.package import package
from moonshine_tune.training.run import train

pytestmark = [pytest.mark.real_model, pytest.mark.usefixtures("one_thread")]


def test_the_script_trains_the_same_adapter_byte_for_byte(
    training: Any, speech_folder: Path, wheel_assets: WheelAssets, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    settings = training.settings(train__steps=4, select__every_steps=2)
    train(settings, run, SilentProgress())
    # The runtime files are the real tiny's: the adapter of a small random model has none.
    package(PackageRequest(run, wheel_assets.runtime_dir), tmp_path / "model", SilentProgress())
    recorded = (tmp_path / "model" / "adapter" / "adapter_model.safetensors").read_bytes()
    shutil.rmtree(run)
    command = tmp_path / "moonshine-tune"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m moonshine_tune "$@"\n')
    command.chmod(0o755)
    environment = os.environ | {
        "MOONSHINE_TUNE": str(command), "WORK": str(tmp_path / "work"),
        "TRAIN": str(speech_folder / "train.jsonl"), "DEV": str(speech_folder / "dev.jsonl"),
        # Sums of floats depend on how many threads share them.
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    done = subprocess.run(
        ["sh", str(tmp_path / "model" / "reproduce" / "train.sh")],
        # The package names the base by its folder's name.
        cwd=training.model.parent, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "the same: the adapter" in done.stdout
    again = tmp_path / "work" / "run" / "adapter" / "adapter_model.safetensors"
    assert again.read_bytes() == recorded
