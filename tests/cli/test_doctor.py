"""`doctor` through the real entry point: healthy, broken and wrong installs."""

import json
import os
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from moonshine_tune.cli.app import run
from moonshine_tune.core import provenance
from moonshine_tune.core.environment import DEFAULTS
from moonshine_tune.doctor import dependencies
from moonshine_tune.doctor import run as doctor

_ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOONSHINE_TUNE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def no_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the imports in child processes, which take seconds."""
    monkeypatch.setattr(doctor, "why_not_importable", lambda module: None)


def _examined(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    code = run(["doctor", "--offline", "--json", *arguments])
    return code, json.loads(capsys.readouterr().out.splitlines()[-1])


def _by_name(report: dict[str, Any]) -> dict[str, dict[str, str]]:
    return {check["name"]: check for check in report["checks"]}


def _agreeing() -> Any:
    from moonshine_tune.doctor.gradients import GradientComparison

    return GradientComparison("cpu", "cpu float64", 2.0, 2.0, 0.0, 0.0, "w", 0.0, (), 0.1)


def test_a_healthy_machine_can_train(capsys: pytest.CaptureFixture[str], no_children: None) -> None:
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    # Several threads are many times slower while other tests run.
    torch.set_num_threads(1)
    try:
        code, report = _examined(capsys)
    finally:
        torch.set_num_threads(threads)
    checks = _by_name(report)
    assert code == 0, [check for check in report["checks"] if check["status"] == "failure"]
    assert report["can_train"] is True
    assert "random weights" in checks["model"]["figure"]
    assert "doctor --fetch" in checks["model"]["advice"]
    assert (
        "cpu float64" in checks["gradients"]["figure"]
        or "cpu float32" in (checks["gradients"]["figure"])
    )
    for name in ("chip", "memory", "system", "Python", "torch", "MPS", "CUDA", "device",
                 "number format", "MPS fallbacks", "disk for cache", "ffmpeg", "processes",
                 *DEFAULTS):  # fmt: skip
        assert checks[name]["figure"], name


@pytest.mark.parametrize("way", ["missing", "broken", "dies"])
def test_without_a_working_torch_it_runs_and_gives_advice(tmp_path: Path, way: str) -> None:
    """In a subprocess in which `import torch` fails."""
    hidden = tmp_path / "site"
    if way == "missing":
        hidden.mkdir()
        (hidden / "sitecustomize.py").write_text(
            "import sys\n"
            "class Hidden:\n"
            "    def find_spec(self, name, path=None, target=None):\n"
            "        if name.partition('.')[0] == 'torch':\n"
            "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
            "sys.meta_path.insert(0, Hidden())\n"
        )
    else:
        (hidden / "torch").mkdir(parents=True)
        how = {"broken": "raise ImportError('libtorch_cpu.so: cannot open shared object file')",
               "dies": "import os; os.abort()"}[way]  # fmt: skip
        (hidden / "torch" / "__init__.py").write_text(how)
    done = subprocess.run(
        [sys.executable, "-m", "moonshine_tune", "doctor", "--offline", "--json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(hidden)},
    )
    assert done.returncode == 3, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    checks = _by_name(report)
    expected = {"missing": "No module named 'torch'", "broken": "cannot open shared object",
                "dies": "died of signal"}[way]  # fmt: skip
    assert expected in checks["torch loads"]["figure"]
    assert "install torch" in checks["torch loads"]["advice"]
    assert checks["gradients"]["status"] == "failure"
    assert checks["disk for cache"]["status"] in ("ok", "warning")
    assert "Traceback" not in done.stderr
    assert report["can_train"] is False


@pytest.mark.parametrize(
    ("package", "code", "status"),
    [("peft", 3, "failure"), ("moonshine-voice", 0, "warning"), ("onnxruntime", 0, "warning")],
)
def test_a_missing_package_is_a_failure_only_if_training_needs_it(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    no_children: None,
    package: str,
    code: int,
    status: str,
) -> None:
    real = provenance.package_version
    monkeypatch.setattr(
        dependencies, "package_version", lambda n: None if n == package else real(n)
    )
    monkeypatch.setattr("moonshine_tune.doctor.gradients.compare_with_cpu", lambda *_: _agreeing())
    exit_code, report = _examined(capsys)
    check = _by_name(report)[package]
    assert (exit_code, check["status"]) == (code, status)
    assert "missing" in check["figure"]
    assert f'pip install "{package}>=' in check["advice"]


def test_a_runtime_that_does_not_load_is_a_warning(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        doctor, "why_not_importable", lambda m: "OSError: no lib" if "voice" in m else None
    )
    monkeypatch.setattr("moonshine_tune.doctor.gradients.compare_with_cpu", lambda *_: _agreeing())
    code, report = _examined(capsys)
    assert code == 0
    assert _by_name(report)["moonshine-voice loads"]["status"] == "warning"


@pytest.mark.parametrize(
    "wrong",
    [{"gradient_difference": 0.2}, {"loss_difference": float("nan")}, {"worst_difference": 0.5}],
)
def test_wrong_gradients_mean_that_this_machine_cannot_train(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    no_children: None,
    wrong: dict[str, float],
) -> None:
    result = replace(_agreeing(), **wrong)
    monkeypatch.setattr("moonshine_tune.doctor.gradients.compare_with_cpu", lambda *_: result)
    code, report = _examined(capsys)
    assert code == 3
    assert "computes wrong" in _by_name(report)["gradients"]["advice"]


def test_a_check_that_raises_is_a_finding_and_the_others_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, no_children: None
) -> None:
    def fail() -> str:
        raise OSError("no such counter")

    monkeypatch.setattr(doctor, "chip_name", fail)
    monkeypatch.setattr("moonshine_tune.doctor.gradients.compare_with_cpu", lambda *_: _agreeing())
    code, report = _examined(capsys)
    checks = _by_name(report)
    assert code == 0
    assert checks["chip"]["status"] == "warning"
    assert "no such counter" in checks["chip"]["figure"]
    assert checks["memory"]["status"] in ("ok", "warning")


def test_a_full_disk_is_a_failure_and_a_low_one_a_warning(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, no_children: None
) -> None:
    monkeypatch.setattr("moonshine_tune.doctor.gradients.compare_with_cpu", lambda *_: _agreeing())
    for free, status, expected in ((3_000, "warning", 0), (900, "failure", 3)):
        monkeypatch.setattr(doctor, "free_disk_mb", lambda path, free=free: free)
        code, report = _examined(capsys)
        assert (code, _by_name(report)["disk for cache"]["status"]) == (expected, status)


def test_an_unavailable_device_is_reported_with_the_reason(
    capsys: pytest.CaptureFixture[str], no_children: None
) -> None:
    code, report = _examined(capsys, "--device", "cuda:99")
    assert code == 3
    assert "CUDA" in _by_name(report)["device"]["figure"]


@pytest.mark.parametrize(
    ("minor", "expected"),
    [(10, (3, "failure")), (11, (0, "ok")), (13, (0, "ok")), (14, (0, "warning"))],
)
def test_python_3_11_to_3_13_are_supported(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    no_children: None,
    minor: int,
    expected: tuple[int, str],
) -> None:
    monkeypatch.setattr("moonshine_tune.doctor.gradients.compare_with_cpu", lambda *_: _agreeing())
    monkeypatch.setattr(doctor, "python_version", lambda: (3, minor))
    code, report = _examined(capsys)
    assert (code, _by_name(report)["Python"]["status"]) == expected


def test_the_environment_marks_defaults_and_own_values(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, no_children: None
) -> None:
    monkeypatch.setattr("moonshine_tune.doctor.gradients.compare_with_cpu", lambda *_: _agreeing())
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "77")
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    _, report = _examined(capsys)
    checks = _by_name(report)
    assert "yours" in checks["HF_HUB_ETAG_TIMEOUT"]["figure"]
    assert "our default" in checks["TOKENIZERS_PARALLELISM"]["figure"]


def test_nothing_names_the_user_or_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.node", lambda: "annas-macbook.local")
    monkeypatch.setattr(Path, "home", lambda: Path("/Users/anna"))
    text = doctor._publishable(
        "/Users/anna/x on annas-macbook.local, /home/bert/y, /Users/carl: and annas-macbook.localx"
    )
    assert text == "~/x on (host), ~/y, ~: and annas-macbook.localx"


def test_the_text_form_ends_with_the_verdict(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, no_children: None
) -> None:
    monkeypatch.setattr("moonshine_tune.doctor.gradients.compare_with_cpu", lambda *_: _agreeing())
    assert run(["doctor", "--offline"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("this machine can train")
    assert any(line.strip().startswith("ok") and "torch" in line for line in lines)


def test_the_packages_are_those_that_the_project_declares() -> None:
    declared = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    minimums = dict(line.split(";")[0].strip().split(">=") for line in declared)
    checked = {package.name: package.minimum for package in dependencies.PACKAGES}
    # Without typer there is no command line to report it.
    assert checked == {name: least for name, least in minimums.items() if name != "typer"}


def test_versions_are_compared_as_numbers() -> None:
    package = dependencies.Package("torch", "2.8", "")
    for version, enough in (("2.13.0+cpu", True), ("2.8", True), ("2.7.1", False), ("3rc1", True)):
        assert dependencies.PackageState(package, version).new_enough is enough
    assert not dependencies.PackageState(package, None).new_enough
