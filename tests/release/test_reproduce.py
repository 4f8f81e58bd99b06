"""`reproduce/` of a package: its README's commands are real ones and give the same adapter."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.release.made_up_run import MadeUpRun, write_json

from moonshine_tune.cli.reference import walk_commands
from moonshine_tune.config.resolve import read_settings_file, resolve_settings
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.core.text import printable
from moonshine_tune.registry.wheel import WheelAssets
from moonshine_tune.release.inputs import PackageRequest
from moonshine_tune.release.package import package
from moonshine_tune.training.run import train

_ROLES = {"TRAIN": "train", "DEV": "dev", "TEST_1": "test"}
_COPY = 'mkdir -p run; cp -R "{package}/adapter" run; cp -R "{package}/runtime" .'


def _blocks(folder: Path) -> list[str]:
    """The shell blocks of `reproduce/README.md`: versions, paths, manifests, and the commands."""
    text = (folder / "reproduce" / "README.md").read_text("utf-8")
    return re.findall(r"```sh\n(.*?)```", text, re.DOTALL)


def _run_blocks(
    folder: Path, data: Path, work: Path, program: str, **changed: str
) -> subprocess.CompletedProcess[str]:
    """Follow README in `work` with the manifests of `data`, and `program` as `moonshine-tune`."""
    shutil.copytree(folder / "reproduce", work, dirs_exist_ok=True)
    (work / "bin").mkdir()
    for name, text in {"moonshine-tune": program, "pip": "exit 0"}.items():
        command = work / "bin" / name
        command.write_text(f"#!/bin/sh\n{text}\n")
        command.chmod(0o755)
    versions, _, *blocks = _blocks(folder)
    paths = {name: str(data / f"{role}.jsonl") for name, role in _ROLES.items()}
    environment = os.environ | paths | {"PATH": f"{work / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(
        ["sh", "-c", "\n".join(["set -e", versions, *blocks])],
        cwd=work, env=environment | changed, capture_output=True, text=True,
    )  # fmt: skip


def test_the_readme_has_the_recorded_versions_paths_and_settings(packed: Path) -> None:
    versions, paths, *_ = _blocks(packed / "model")
    assert versions == "pip install moonshine-tune==0.1.0 torch==2.13.0\n"
    assert paths == "TRAIN=train.jsonl\nDEV=dev.jsonl\nTEST_1=test_1.jsonl\n"
    settings = packed / "model" / "reproduce" / "settings.yaml"
    resolved = resolve_settings([("file", read_settings_file(settings))])
    assert resolved.settings.train.learning_rate == 3e-4


@pytest.mark.parametrize(
    ("export", "score", "expected"),
    [
        ({"scales": "auto"}, {}, ["--adapter run", "run --model streaming-tiny --out runtime"]),
        ({"scales": None}, {}, ["--model streaming-tiny --scales tensor --out"]),
        (
            {"scales": "channel"},
            {},
            ["export --run run --model streaming-tiny --scales channel --out"],
        ),
        ({"scales": "tensor"}, {}, ["--model streaming-tiny --scales tensor --out"]),
        (
            {"method": "trace", "quantize": "none"},
            {"backend": "runtime"},
            ["--method trace --quantize none", "--runtime-dir runtime", '"$BASE_RUNTIME"'],
        ),
        ({"calibrate": "manifest"}, {}, ['--calibrate "$CALIBRATE"']),
        ({"calibrate": "none"}, {"manifest_sha256": ""}, ["--calibrate none", "# adapted: its"]),
    ],
)
def test_the_commands_of_the_readme_are_real_ones(
    made: MadeUpRun,
    tmp_path: Path,
    export: dict[str, Any],
    score: dict[str, Any],
    expected: list[str],
) -> None:
    made.save_export(passed=True, **export)
    for folder in (made.evaluation, made.base_evaluation):
        write_json(folder / "result.json", json.loads((folder / "result.json").read_text()) | score)
    package(made.request(), tmp_path / "model", SilentProgress())
    text = "\n".join(_blocks(tmp_path / "model"))
    assert all(part in text for part in expected), text
    parsers = dict(walk_commands())
    names = []
    for line in text.splitlines():
        if line.startswith("moonshine-tune "):
            name, *arguments = shlex.split(line)[1:]
            parsers[name].make_context(name, arguments)
            names.append(name)
    assert names[:2] == ["train", "export"] and names[-1] == "benchmark"
    assert names.count("evaluate") == (0 if "manifest_sha256" in score else 2)


def test_the_commands_run_on_the_recorded_manifests_and_check_what_comes_out(
    packed: Path, tmp_path: Path
) -> None:
    model, log = packed / "model", tmp_path / "log"
    program = f'for word in "$@"; do printf "%s|" "$word" >> "{log}"; done; echo >> "{log}"\n'
    program += _COPY.format(package=model)
    data = packed / "made"
    done = _run_blocks(model, data, tmp_path / "my work", program, BASE_RUNTIME="base runtime")
    assert done.returncode == 0, done.stderr
    assert "run/adapter/adapter_model.safetensors: OK" in done.stdout
    assert "runtime/encoder.ort: OK" in done.stdout
    train, export, evaluate, base, benchmark = log.read_text().splitlines()
    assert train.startswith(f"train|--config|settings.yaml|--train|{data}/train.jsonl|--dev|")
    assert "--set|device.name=cpu|" in train and export.startswith("export|--run|run|")
    assert "--adapter|" in evaluate and "--adapter|" not in base
    assert "--model|streaming-tiny|" in evaluate and "--model|streaming-tiny|" in base
    assert "--rounds|4|" in benchmark and f"{data}/test.jsonl" in benchmark


def test_another_manifest_or_adapter_is_reported(packed: Path, tmp_path: Path) -> None:
    model, data = packed / "model", packed / "made"
    swapped = {"DEV": str(data / "test.jsonl")}
    other = _run_blocks(model, data, tmp_path / "a", "exit 9", **swapped)
    assert other.returncode == 1 and f"{swapped['DEV']}: FAILED" in other.stdout
    program = "mkdir -p run/adapter; echo another > run/adapter/adapter_model.safetensors"
    differs = _run_blocks(model, data, tmp_path / "b", program)
    assert differs.returncode == 1
    assert "run/adapter/adapter_model.safetensors: FAILED" in differs.stdout


def test_names_cannot_break_out_of_the_commands(made: MadeUpRun, tmp_path: Path) -> None:
    evil = "x'; touch broken-out; '\n```\n$(touch broken-out)"
    made.record["settings"]["model"] = evil
    made.record["device"]["name"] = evil
    made.record["versions"][evil] = evil
    made.save_run()
    folder = made.folder / "e; touch broken-out"
    shutil.copytree(made.evaluation, folder)
    package(made.request(evaluations=(folder,)), tmp_path / "model", SilentProgress())
    assert len(_blocks(tmp_path / "model")) == 6
    program = _COPY.format(package=tmp_path / "model")
    done = _run_blocks(tmp_path / "model", made.folder, tmp_path / "work", program)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.rglob("broken-out"))


@pytest.mark.real_model
@pytest.mark.usefixtures("one_thread")
def test_the_commands_train_the_same_adapter_byte_for_byte(
    training: Any, speech_folder: Path, wheel_assets: WheelAssets, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    settings = training.settings(train__steps=4, select__every_steps=2)
    train(settings, run, SilentProgress())
    # The runtime files are the real tiny's: the adapter of a small random model has none.
    package(PackageRequest(run, wheel_assets.runtime_dir), tmp_path / "model", SilentProgress())
    recorded = (tmp_path / "model" / "adapter" / "adapter_model.safetensors").read_bytes()
    shutil.rmtree(run)
    work = tmp_path / "work"
    # The package names the base by its folder's name.
    shutil.copytree(training.model, work / training.model.name)
    done = _run_blocks(
        tmp_path / "model", speech_folder, work,
        # Training only: a random model has no runtime files to export into.
        f'[ "$1" = train ] || exit 7; exec "{sys.executable}" -m moonshine_tune "$@"',
        # Sums of floats depend on how many threads share them.
        OMP_NUM_THREADS="1",
    )  # fmt: skip
    assert done.returncode == 7, done.stderr
    assert "run/adapter/adapter_model.safetensors: OK" in done.stdout
    assert (work / "run" / "adapter" / "adapter_model.safetensors").read_bytes() == recorded


_HOSTILE = "x\n$(touch owned)\r`touch owned`; touch owned #\x1b[31m\u2028touch owned"


@pytest.mark.parametrize(
    "where", ["model", "normalizer", "setting", "version", "device", "status", "evaluation"]
)
def test_a_field_of_a_record_is_no_command(made: MadeUpRun, tmp_path: Path, where: str) -> None:
    """Records are written by whoever made the run; the commands are run by whoever gets them."""
    run = json.loads((made.run / "run.json").read_text())
    result = json.loads((made.evaluation / "result.json").read_text())
    if where == "model":
        run["settings"]["model"] = run["base"]["name"] = _HOSTILE
    elif where == "normalizer":
        result["normalizer"] = run["normalizer"] = _HOSTILE
    elif where == "setting":
        run["settings"]["adapter"] = {_HOSTILE: f"]({_HOSTILE}![a](http://x/a.png)"}
    elif where == "version":
        run["versions"] = {"python": _HOSTILE, "torch": _HOSTILE, _HOSTILE: "1"}
    elif where == "device":
        run["device"] = {"name": _HOSTILE, "reason": _HOSTILE}
    elif where == "status":
        run["status"] = _HOSTILE
    else:
        made.evaluation = made.evaluation.rename(made.folder / "a;touch owned #`touch owned`")
    write_json(made.run / "run.json", run)
    write_json(made.evaluation / "result.json", result)
    package(made.request(), tmp_path / "model", SilentProgress())
    folder = tmp_path / "work"
    folder.mkdir()
    for block in _blocks(tmp_path / "model"):
        # Each command is the name of a function that does nothing.
        script = "pip() { :; }\nmoonshine-tune() { :; }\nsha256sum() { :; }\n" + block
        done = subprocess.run(
            ["bash", "-c", script], cwd=folder, capture_output=True, text=True, check=False
        )
        assert "command not found" not in done.stderr, done.stderr
    assert not list(folder.iterdir())
    for name in ("README.md", "reproduce/README.md"):
        text = (tmp_path / "model" / name).read_text("utf-8")
        assert printable(text) == text and "![a](" not in text
        assert "\ntouch" not in text and "\n$(" not in text
