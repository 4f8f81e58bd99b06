"""Two processes under the usual launcher train the same adapter as one process."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.training.run import train

pytestmark = pytest.mark.usefixtures("one_thread")

# Three clips a step: the two shares are not equal, and the last step of an epoch has two clips.
_CHANGES = {
    "adapter__dropout": 0.0, "train__batch_size": 3, "train__steps": 7,
    "train__learning_rate": 1e-3, "select__every_steps": 4,
}  # fmt: skip
_LAUNCHER = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def _launch(settings: Any, out: Path) -> subprocess.CompletedProcess[str]:
    config = out.parent / "settings.json"
    config.write_text(json.dumps(settings.settings.model_dump(mode="json")), encoding="utf-8")
    command = [
        sys.executable, *_LAUNCHER, "-m", "moonshine_tune", "train", "--config", str(config),
        "--out", str(out), "--json",
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=120, env=environment
    )


def test_two_processes_train_as_one_does(training: Any, tmp_path: Path) -> None:
    """Same effective batch, losses, norms and scores; one log, one adapter, one result."""
    settings = training.settings("canary", "replay", **_CHANGES)
    result = train(settings, tmp_path / "one", SilentProgress())
    done = _launch(settings, tmp_path / "two")
    assert done.returncode == (result.verdict != "better"), done.stderr[-3000:]
    answers = [line for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(answers) == 1
    assert json.loads(answers[0])["steps"] == 7
    assert json.loads((tmp_path / "two" / "run.json").read_text())["processes"] == 2
    single, joint = training.steps(tmp_path / "one"), training.steps(tmp_path / "two")
    assert len(single) == len(joint) == 7
    for alone, together in zip(single, joint, strict=True):
        assert [value is None for value in alone] == [value is None for value in together]
        for expected, value in zip(alone, together, strict=True):
            # The KL divergence of the first steps is the difference of nearly equal numbers.
            assert expected is None or value == pytest.approx(expected, rel=2e-3, abs=2e-5)
    assert training.scores(tmp_path / "one") == training.scores(tmp_path / "two")
