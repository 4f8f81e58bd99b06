"""Commands on the pretended device: doctor with and without a fault, evaluate, estimate."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.pretended_mps.device import FAULTS, PretendedMps

from moonshine_tune.cli.app import run
from moonshine_tune.core.device import FROZEN_BFLOAT16
from moonshine_tune.core.precision import passed_gradient_check
from moonshine_tune.doctor import run as doctor

pytestmark = pytest.mark.usefixtures("one_thread")

_NAMES = {
    "transposed linear": "F.linear of a transposed weight (pytorch#162730)",
    "attention of one query": "attention of one query (pytorch#169222)",
    "gradient after another shape": "gradients after another shape (pytorch#177116)",
    "wide product": "a product over 32,768 numbers",
    "nan in masked softmax": "a masked softmax",
}
# What the code that trains shows of a fault. It hands no transposed weight to `F.linear`, and a
# small vocabulary has no wide product.
_SHOWN = {
    "attention of one query": "decoding: logits differ",
    "gradient after another shape": "short clips again: ",
    "nan in masked softmax": "short clips: loss differs by inf",
}


def _examined(
    capsys: pytest.CaptureFixture[str], model: Path
) -> tuple[int, dict[str, dict[str, str]]]:
    options = ["--offline", "--json", "--device", "mps", "--model", str(model)]
    code = run(["doctor", *options])
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    return code, {check["name"]: check for check in report["checks"]}


@pytest.fixture(autouse=True)
def _no_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the imports in child processes, which take seconds."""
    monkeypatch.setattr(doctor, "why_not_importable", lambda module: None)


@pytest.mark.parametrize("family", ["v1", "streaming"])
def test_a_healthy_device_passes_every_check(
    family: str,
    device: PretendedMps,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import torch

    device.reset()
    code, checks = _examined(capsys, request.getfixturevalue(f"saved_{family}"))
    failures = [check for check in checks.values() if check["status"] == "failure"]
    assert (code, failures) == (0, [])
    for name in ("operators", "training step", "gradients", "gradients in bfloat16",
                 "frozen weights in bfloat16", "MPS fallbacks"):  # fmt: skip
        assert checks[name]["status"] == "ok", checks[name]
    assert passed_gradient_check("mps", FROZEN_BFLOAT16, torch.__version__)
    records = device.records()
    assert records["fallbacks"] == {} and records["host_indices"] == {}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_planted_fault_is_named(
    fault: str,
    device: PretendedMps,
    saved_v1: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The checks in 16 bits take half of the time, and only warn.
    for name in ("_sixteen_bit_check", "_frozen_check"):
        monkeypatch.setattr(doctor, name, lambda load, device: doctor.DoctorCheck("", "", "ok", ""))
    with device.planted(fault):
        code, checks = _examined(capsys, saved_v1)
    assert code == 3
    assert checks["operators"]["status"] == "failure"
    assert _NAMES[fault] in checks["operators"]["figure"]
    assert "--device cpu" in checks["operators"]["advice"]
    assert _SHOWN.get(fault, "") in checks["training step"]["figure"]


def test_evaluate_transcribes_as_on_the_cpu(
    device: PretendedMps,
    saved_streaming: Path,
    speech_folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    results: list[dict[str, Any]] = []
    for name in ("cpu", "mps"):
        device.reset()
        command = ["evaluate", "--model", str(saved_streaming), "--device", name, "--json"]
        assert run([*command, "--manifest", str(speech_folder / "dev.jsonl")]) == 0
        results.append(json.loads(capsys.readouterr().out.splitlines()[-1]))
    on_cpu, on_mps = results
    for key in ("wer", "cer", "substitutions", "deletions", "insertions", "worst"):
        assert on_mps[key] == on_cpu[key], key
    records = device.records()
    assert records["calls"]["argmax.out"] > 0
    assert records["fallbacks"] == {} and records["host_indices"] == {}


def test_estimate_follows_this_mac(
    device: PretendedMps, saved_v1: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["estimate", "--model", str(saved_v1), "--device", "mps", "--clip-s", "2", "--json"]
    assert run(command) == 0, capsys.readouterr().err
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert document["budget_bytes"] == pytest.approx(9.5 * 2**30, rel=1e-6)
