"""Measuring the real tiny in fresh processes: consistent figures, and errors with their cause."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from moonshine_tune.audio.io import load_audio, write_audio
from moonshine_tune.cli import benchmark as benchmark_cli
from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.evaluation.benchmark.process import FreshProcess
from moonshine_tune.evaluation.benchmark.run import BenchmarkRequest, benchmark
from moonshine_tune.registry.wheel import WheelAssets

pytestmark = pytest.mark.real_model

_QUIET = SilentProgress()
_TEXT = "Ever tried, ever failed, no matter, try again, fail again, fail better."


@pytest.fixture(scope="module")
def manifest(wheel_assets: WheelAssets, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips with texts: a long one and the first 1.5 s of another."""
    folder = tmp_path_factory.mktemp("clips")
    write_audio(folder / "beckett.wav", load_audio(wheel_assets.beckett))
    write_audio(folder / "short.wav", load_audio(wheel_assets.two_cities, end=1.5))
    lines = [
        {"id": "beckett", "audio": "beckett.wav", "text": _TEXT},
        {"id": "short", "audio": "short.wav", "text": "it was"},
    ]
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_two_folders_are_measured_alternately(
    wheel_assets: WheelAssets, manifest: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(wheel_assets.runtime_dir, copy)
    # Memory of the test process must not count as the child's.
    ballast = bytearray(500_000_000)
    ballast[::4096] = b"x" * len(ballast[::4096])
    request = BenchmarkRequest(
        runtime_dir=wheel_assets.runtime_dir,
        manifest=manifest,
        compare=copy,
        rounds=2,
        warm_up=1,
        processes=2,
        stream=True,
        stream_clips=1,
    )
    result = benchmark(request, tmp_path / "out", _QUIET)
    del ballast
    record = json.loads((tmp_path / "out" / "benchmark.json").read_text("utf-8"))
    assert record == json.loads(json.dumps(result.to_record()))
    assert record["load_processes"] == 2 and record["clips"] == 2
    for side in (record, record["other"]):
        assert 5 < side["latency_ms"]["median"] <= side["latency_ms"]["max"]
        assert [band["clips"] for band in side["by_length"]] == [1, 1]
        assert side["by_length"][0]["latency_ms"]["max"] < side["by_length"][1]["latency_ms"]["max"]
        assert 0 < side["rtf"] < 1
        memory = side["memory_mb"]
        # Python and the binding alone: neither torch (300 MB) nor numpy is in that process.
        assert memory["process"] < 40
        assert 80 < memory["after_load"] <= memory["peak"] < 450
        assert side["total_bytes"] == sum(f["bytes"] for f in side["files"]) == 43_943_830
        assert side["wer"]["utterances"] == 2 and side["wer"]["reference_words"] == 14
        assert side["stream"]["clips"] == 1 and side["stream"]["final_ms"]["max"] > 0
    assert record["files"] == record["other"]["files"]
    assert record["same_text_clips"] == 2 and record["wer_comparison"]["difference"] == 0
    ratios = record["ratios"]
    # The same files on both sides; wide bounds, because other programs may run at the same time.
    assert 0.5 < ratios["latency"]["ratio"] < 2
    assert ratios["latency"]["ci95"][0] <= ratios["latency"]["ratio"]
    assert 0.9 < ratios["peak_memory"]["ratio"] < 1.1 and ratios["size"]["ratio"] == 1
    assert str(tmp_path) not in json.dumps(record)


def test_without_texts_there_is_only_latency_and_a_remark(
    wheel_assets: WheelAssets, manifest: Path
) -> None:
    path = manifest.with_name("no-texts.jsonl")
    path.write_text('{"audio": "short.wav"}\n{"audio": "beckett.wav"}\n', encoding="utf-8")
    app = typer.Typer()
    app.callback()(lambda: None)
    benchmark_cli.register(app)
    arguments = ["benchmark", "--runtime-dir", str(wheel_assets.runtime_dir), "--manifest",
                 str(path), "--rounds", "1", "--max-clips", "1", "--json"]  # fmt: skip
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout.splitlines()[-1])
    assert record["wer"] is None and record["ratios"] is None and record["stream"] is None
    assert record["clips"] == 1
    assert any("latency only" in remark for remark in record["remarks"])
    assert any("1 of 2 clips measured" in remark for remark in record["remarks"])
    assert "latency only" in done.stderr


def test_the_measured_process_imports_next_to_nothing(wheel_assets: WheelAssets) -> None:
    request = json.dumps({"folder": str(wheel_assets.runtime_dir), "arch": "TINY", "options": {}})
    code = (
        "import sys; sys.argv[1:] = [sys.stdin.readline()]\n"
        "from moonshine_tune.evaluation.benchmark import worker\n"
        "worker.main()\n"
        "heavy = {'torch', 'numpy', 'onnxruntime', 'transformers', 'soundfile'}\n"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or None)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=request + "\n", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["ready"] is True


@pytest.mark.parametrize("name", ["decoder_model_merged.ort", "tokenizer.bin"])
def test_a_truncated_file_is_a_plain_error(
    wheel_assets: WheelAssets, tmp_path: Path, name: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(wheel_assets.runtime_dir, copy)
    data = (copy / name).read_bytes()
    (copy / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(RequestError) as caught:
        FreshProcess(copy)
    assert str(copy) in str(caught.value) and caught.value.hint


def test_a_bad_request_is_refused_before_anything_is_loaded(
    wheel_assets: WheelAssets, manifest: Path, tmp_path: Path
) -> None:
    with pytest.raises(RequestError, match="rounds is 0"):
        benchmark(BenchmarkRequest(wheel_assets.runtime_dir, manifest, rounds=0), None, _QUIET)
    with pytest.raises(RequestError, match="no such runtime folder"):
        benchmark(
            BenchmarkRequest(wheel_assets.runtime_dir, manifest, compare=tmp_path / "none"),
            None,
            _QUIET,
        )
    with pytest.raises(RequestError, match="no such manifest"):
        benchmark(BenchmarkRequest(wheel_assets.runtime_dir, tmp_path / "none"), None, _QUIET)
