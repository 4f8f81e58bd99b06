"""Nothing leaves the machine: no command on local models and data opens a connection.

The calls of the whole process count, of native libraries too (onnxruntime sends usage data from a
thread of its own), so they are traced by the system. The packages are imported as by a program that
uses this one as a library.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from moonshine_tune.core.environment import DEFAULTS
from moonshine_tune.registry.wheel import WheelAssets

_CALLS = "connect,sendto,sendmsg,sendmmsg"
_OUTSIDE = re.compile(r"AF_INET6?|nscd|mobile\.events")
_START = """
import sys, json
import moonshine_tune
from moonshine_tune.core.progress import SilentProgress
from pathlib import Path
given = {key: Path(value) for key, value in json.loads(sys.argv[1]).items()}
"""
_TRAIN = """
from moonshine_tune.config.resolve import resolve_settings
from moonshine_tune.training.run import train
from moonshine_tune.evaluation.evaluate import EvaluateRequest, evaluate
settings = {"model": str(given["model"]), "train": {"steps": 2, "batch_size": 2},
            "data": {"train": str(given["train"]), "dev": str(given["dev"])},
            "select": {"every_steps": 2}, "device": {"name": "cpu"}}
run = given["out"] / "run"
train(resolve_settings([("test", settings)]), run, SilentProgress())
request = EvaluateRequest(given["dev"], model=str(given["model"]), adapter=run, device="cpu")
evaluate(request, given["out"] / "eval", SilentProgress())
from moonshine_tune.cli.app import run as command
assert command(["report", str(run), "--out", str(given["out"] / "run.html")]) == 0
"""
_SHIP = """
from moonshine_tune.cli.app import run as command
from moonshine_tune.models.checkpoint import load_checkpoint
from moonshine_tune.models.lora import adapter_state, inject_lora, save_adapter
from moonshine_tune.registry.open import base_identity
from moonshine_tune.registry.resolve import resolve_model
base = resolve_model(str(given["runtime"]))
model = load_checkpoint(base.checkpoint_dir)
inject_lora(model, rank=2, sites="decoder", seed=1)
out = given["out"]
save_adapter(out / "run" / "adapter", model, adapter_state(model), base=base_identity(base))
record = {"settings": {"model": str(given["runtime"])}, "base": {"name": "tiny", "family": "v1"}}
(out / "run" / "run.json").write_text(json.dumps(record))
words = ["--run", str(out / "run" / "adapter"), "--model", str(given["runtime"])]
assert command(["export", *words, "--manifest", str(given["clips"]), "--out", str(out / "rt")]) == 0
words = ["--run", str(out / "run"), "--runtime-dir", str(given["runtime"])]
assert command(["package", *words, "--with-sample", str(given["clips"]), "--out",
                str(out / "pkg")]) == 0
assert command(["verify", str(out / "pkg")]) == 0
assert not list(Path.home().rglob("*Microsoft*")), "usage data"
"""


def _connections(code: str, folder: Path, **given: Path) -> list[str]:
    """Calls of a program that lead outside of this machine, or that write usage data."""
    program = shutil.which("strace")
    if program is None:
        pytest.skip("needs strace")
    # Only the calls that are asked for stop the program, which is otherwise as fast as without.
    tracer = [program, "-f", "--seccomp-bpf"]
    probe = subprocess.run([*tracer, "-o", "/dev/null", "true"], capture_output=True, check=False)
    if probe.returncode != 0:
        pytest.skip("strace may not trace here")
    log = folder / "calls"
    home = folder / "home"
    home.mkdir()
    names = {*DEFAULTS, "HF_HUB_OFFLINE", "PIP_NO_INDEX", "MOONSHINE_TUNE_CACHE"}
    environment = {key: value for key, value in os.environ.items() if key not in names}
    environment |= {"HOME": str(home), "OMP_NUM_THREADS": "1", "PYTHONPATH": ":".join(sys.path)}
    texts = json.dumps({key: str(value) for key, value in {**given, "out": folder}.items()})
    done = subprocess.run(
        [*tracer, "-qq", "-s", "200", "-e", f"trace={_CALLS}", "-o", str(log),
         sys.executable, "-c", _START + code, texts],
        env=environment, capture_output=True, text=True, check=False, cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [line for line in log.read_text(errors="replace").splitlines() if _OUTSIDE.search(line)]


def test_the_trace_sees_a_connection(tmp_path: Path) -> None:
    code = "import socket as s\ns.socket(s.AF_INET, s.SOCK_DGRAM).connect(('127.0.0.1', 9))"
    assert len(_connections(code, tmp_path)) == 1


def test_training_scoring_and_reporting_open_no_connection(
    saved_v1: Path, speech_folder: Path, tmp_path: Path
) -> None:
    manifests = {name: speech_folder / f"{name}.jsonl" for name in ("train", "dev")}
    assert _connections(_TRAIN, tmp_path, model=saved_v1, **manifests) == []
    assert (tmp_path / "run.html").is_file() and (tmp_path / "eval" / "result.json").is_file()


@pytest.mark.real_model
def test_exporting_packing_and_verifying_open_no_connection(
    wheel_assets: WheelAssets, tmp_path: Path
) -> None:
    shutil.copyfile(wheel_assets.beckett, tmp_path / "a.wav")
    line: dict[str, Any] = {"id": "a", "audio": "a.wav", "text": "Ever tried, ever failed."}
    (tmp_path / "a.jsonl").write_text(json.dumps(line) + "\n")
    given = {"runtime": wheel_assets.runtime_dir, "clips": tmp_path / "a.jsonl"}
    assert _connections(_SHIP, tmp_path, **given) == []
    assert (tmp_path / "pkg" / "SHA256SUMS").is_file()


def test_usage_data_of_every_library_is_off() -> None:
    """Each variable is the library's own; a value that the user has set is kept."""
    for name in ("HF_HUB_DISABLE_TELEMETRY", "ORT_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        assert DEFAULTS[name][0] == "1"
