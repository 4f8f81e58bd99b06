"""A package with the real tiny model: `verify` compares transcripts, and finds damage."""

import json
import re
import shutil
from pathlib import Path

import pytest

from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.registry.wheel import WheelAssets
from moonshine_tune.release.archive import write_sums
from moonshine_tune.release.inputs import PackageRequest
from moonshine_tune.release.package import package
from moonshine_tune.release.verify import verify

pytestmark = pytest.mark.real_model

_QUIET = SilentProgress()
_REFERENCE = "Ever tried, ever failed, no matter, try again, fail again, fail better."


@pytest.fixture(scope="module")
def packed(wheel_assets: WheelAssets, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package folder of the base's own files with one recording. Read only."""
    folder = tmp_path_factory.mktemp("packed")
    run = folder / "run"
    (run / "adapter").mkdir(parents=True)
    (run / "adapter" / "adapter_model.safetensors").write_bytes(b"made up")
    (run / "adapter" / "adapter_config.json").write_text("{}")
    (run / "run.json").write_text(
        json.dumps({"settings": {"model": "tiny"}, "base": {"name": "tiny", "family": "v1"}})
    )
    shutil.copyfile(wheel_assets.beckett, folder / "beckett.wav")
    (folder / "test.jsonl").write_text('{"audio": "beckett.wav"}\n')
    request = PackageRequest(run, wheel_assets.runtime_dir, sample=folder / "test.jsonl")
    package(request, folder / "model", _QUIET)
    package(request, folder / "model.tar.gz", _QUIET)
    shutil.rmtree(run)
    return folder


@pytest.fixture
def copy(packed: Path, tmp_path: Path) -> Path:
    """A copy of the package that a test may damage."""
    shutil.copytree(packed / "model", tmp_path / "copy")
    return tmp_path / "copy"


def test_a_moved_archive_gives_the_recorded_transcript(packed: Path, tmp_path: Path) -> None:
    shutil.copyfile(packed / "model.tar.gz", tmp_path / "renamed.tar.gz")
    result = verify(tmp_path / "renamed.tar.gz", _QUIET)
    assert result.passed, result.problems
    assert result.runtime_loads and result.sample is not None and result.sample.identical == 1
    assert result.name == "model"
    recorded = json.loads((packed / "model" / "sample" / "sample.jsonl").read_text())
    assert recorded["heard"] == _REFERENCE
    assert "ModelArch.TINY)" in (packed / "model" / "README.md").read_text("utf-8")


def test_one_changed_byte_of_the_weights_is_named(copy: Path) -> None:
    path = copy / "runtime" / "decoder_model_merged.ort"
    with path.open("r+b") as file:
        file.seek(20_000_000)
        byte = file.read(1)[0]
        file.seek(20_000_000)
        file.write(bytes([byte ^ 1]))
    result = verify(copy, _QUIET)
    assert result.problems == ("runtime/decoder_model_merged.ort: not the recorded content",)


def test_files_that_the_runtime_refuses_fail_though_the_sums_hold(copy: Path) -> None:
    path = copy / "runtime" / "decoder_model_merged.ort"
    path.write_bytes(path.read_bytes()[:1_000_000])
    write_sums(copy)
    result = verify(copy, _QUIET)
    assert not result.passed and result.runtime_loads is False
    assert result.problems[0].startswith("runtime: the Moonshine runtime refuses")


def test_a_tokenizer_of_another_order_fails_though_the_sums_hold(copy: Path) -> None:
    """Two pieces of equal length are exchanged: every file loads, and the words are others."""
    path = copy / "runtime" / "tokenizer.bin"
    # Each piece is stored behind its length in bytes.
    tried, again = (b"\x08" + piece.encode() for piece in ("▁tried", "▁again"))
    before, middle, after = re.split(re.escape(tried) + b"|" + re.escape(again), path.read_bytes())
    first_is_tried = path.read_bytes().index(tried) == len(before)
    pair = (again, tried) if first_is_tried else (tried, again)
    path.write_bytes(before + pair[0] + middle + pair[1] + after)
    write_sums(copy)
    result = verify(copy, _QUIET)
    assert result.runtime_loads and not result.passed
    assert result.problems[0].startswith("sample/clip-1.wav: recorded “Ever tried, ever failed")
    assert "transcribed as “Ever again" in result.problems[0]
