"""`models list`, `fetch` and `rebuild` through the real entry point."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from moonshine_tune.cli.app import run
from moonshine_tune.core import network
from moonshine_tune.core.files import complete_folder
from moonshine_tune.registry import hub
from moonshine_tune.runtime import rebuild
from moonshine_tune.runtime.layout import V1_FILES


@pytest.fixture(autouse=True)
def _isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A separate cache and no network."""
    network.forget_answers()
    monkeypatch.setenv("MOONSHINE_TUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(network, "_probe", lambda url: f"{url} is out of reach in this test")
    monkeypatch.setattr(hub, "_local_snapshot", lambda repo: None)


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A runtime folder, and a rebuild that does not need real graphs."""
    folder = tmp_path / "tiny-en"
    folder.mkdir()
    for name in V1_FILES:
        (folder / name).write_bytes(name.encode())

    def fake(runtime_dir: Path, out: Path) -> rebuild.RebuildReport:
        with complete_folder(out) as scratch:
            (scratch / "config.json").write_text('{"model_type": "moonshine"}')
            (scratch / "model.safetensors").write_bytes(b"weights")
        return rebuild.RebuildReport(out, 160, 27_092_736, {"encoder_model.ort": "94e9"})

    monkeypatch.setattr(rebuild, "rebuild_checkpoint", fake)
    return folder


def _last(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return document


def test_list_shows_every_model_with_its_sources(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "list", "--json"]) == 0
    models = {model["name"]: model for model in _last(capsys)["models"]}
    assert models["tiny"]["sources"] == ["hub", "store", "wheel"]
    assert models["streaming-medium"]["sources"] == ["hub", "store"]
    assert models["base-es"]["sources"] == ["store"]
    assert models["tiny"]["cached"] is None


def test_list_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["name", "family", "language"]
    assert any(line.startswith("streaming-tiny-tl ") for line in lines)
    assert any(line.startswith("license of tiny, ") and line.endswith(": MIT") for line in lines)
    assert "medium = streaming-medium" in lines[-1]


def test_fetch_of_a_folder_copies_it(
    tmp_path: Path, runtime: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mein Modell"
    assert run(["models", "fetch", str(runtime), "--out", str(out), "--json"]) == 0
    report = _last(capsys)
    assert (report["source"], report["checkpoint_dir"]) == ("runtime", str(out))
    # The cache's record names folders of this machine and is not copied.
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "model.safetensors"]


def test_fetch_without_a_network_lists_every_source(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "fetch", "base", "--json"]) == 3
    error = _last(capsys)["error"]
    for source in ("cache:", "hub:", "store:", "wheel:"):
        assert source in error["message"]
    assert error["hint"]


def test_fetch_from_one_source_tries_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "fetch", "base", "--source", "hub", "--json"]) == 3
    message = _last(capsys)["error"]["message"]
    assert "hub:" in message
    assert "store:" not in message


@pytest.mark.parametrize("name", ["tinny", "streaming-larg"])
def test_an_unknown_name_is_a_wrong_request(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "fetch", name]) == 2
    errors = capsys.readouterr().err
    assert "did you mean" in errors
    assert "Traceback" not in errors


def test_an_unknown_source_is_a_wrong_request(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "fetch", "tiny", "--source", "web"]) == 2


def test_nothing_is_fetched_over_an_existing_folder(
    tmp_path: Path, runtime: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("keep")
    assert run(["models", "fetch", str(runtime), "--out", str(mine)]) == 2
    assert run(["models", "rebuild", str(runtime), "--out", str(mine)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert (mine / "notes.txt").read_text() == "keep"


def test_rebuild_writes_a_checkpoint(
    tmp_path: Path, runtime: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "ü out"
    assert run(["models", "rebuild", str(runtime), "--out", str(out), "--json"]) == 0
    assert _last(capsys)["tensors"] == 160
    assert (out / "model.safetensors").is_file()


def test_rebuild_of_another_folder_names_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["models", "rebuild", str(tmp_path), "--out", str(tmp_path / "o")]) == 2
    assert "encoder_model.ort" in capsys.readouterr().err
    assert run(["models", "rebuild", str(tmp_path / "none"), "--out", str(tmp_path / "o")]) == 2
    assert not (tmp_path / "o").exists()


def test_a_cache_that_cannot_be_written_is_one_plain_error(
    tmp_path: Path,
    runtime: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("MOONSHINE_TUNE_CACHE", str(blocked))
    assert run(["models", "fetch", str(runtime)]) == 2
    errors = capsys.readouterr().err
    assert "MOONSHINE_TUNE_CACHE" in errors
    assert "Traceback" not in errors


@pytest.mark.real_model
def test_the_real_wheel_becomes_a_checkpoint_that_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Downloads the wheel, or takes its unpacked files from MOONSHINE_TUNE_TEST_CACHE."""
    ready = os.environ.get("MOONSHINE_TUNE_TEST_CACHE")
    if ready and (Path(ready) / "wheel-0.1.0").is_dir():
        shutil.copytree(Path(ready) / "wheel-0.1.0", tmp_path / "cache" / "wheel-0.1.0")
    assert run(["models", "fetch", "tiny", "--source", "wheel", "--json"]) == 0
    first = _last(capsys)
    assert first["source"] == "wheel"
    assert run(["models", "fetch", "tiny", "--offline", "--json"]) == 0
    again = _last(capsys)
    assert again["source"] == "cache"
    assert again["revision"] == first["revision"]
    from moonshine_tune.models.checkpoint import load_checkpoint

    model = load_checkpoint(Path(again["checkpoint_dir"]))
    assert sum(weight.numel() for weight in model.module.parameters()) == 27_092_736
