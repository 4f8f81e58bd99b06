"""The figures of a benchmark from scripted times, and the real tiny measured in fresh processes."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from moonshine_tune.audio.io import load_audio, write_audio
from moonshine_tune.audio.samples import SAMPLE_RATE_HZ
from moonshine_tune.cli import benchmark as benchmark_cli
from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.evaluation.benchmark.process import FreshProcess, TimedTranscript
from moonshine_tune.evaluation.benchmark.run import BenchmarkRequest, benchmark
from moonshine_tune.registry.wheel import WheelAssets
from moonshine_tune.runtime.layout import V1_FILES

_QUIET = SilentProgress()
_REFERENCE = "Ever tried, ever failed, no matter, try again, fail again, fail better."


@pytest.fixture(scope="module")
def manifest(wheel_assets: WheelAssets, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips with texts: a long one and the first 1.5 s of another."""
    folder = tmp_path_factory.mktemp("clips")
    write_audio(folder / "beckett.wav", load_audio(wheel_assets.beckett))
    write_audio(folder / "short.wav", load_audio(wheel_assets.two_cities, end=1.5))
    lines = [
        {"id": "beckett", "audio": "beckett.wav", "text": _REFERENCE},
        {"id": "short", "audio": "short.wav", "text": "it was"},
    ]
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


class _ScriptedProcess:
    """A measured process with known times: the clip's length divided by `speed[folder]`."""

    speed: ClassVar[dict[str, float]] = {}
    log: ClassVar[list[str]] = []

    def __init__(self, runtime_dir: Path, keyterms: Sequence[str], boost: float) -> None:
        self._name = runtime_dir.name
        self.log.append(f"load {self._name}")
        self.load_s, self.process_mb, self.loaded_mb = 1 / self.speed[self._name], 20.0, 100.0

    def __enter__(self) -> "_ScriptedProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.log.append(f"close {self._name}")

    def transcribe(self, clip: Path) -> TimedTranscript:
        self.log.append(f"{clip.stem} {self._name}")
        seconds = clip.stat().st_size / 4 / SAMPLE_RATE_HZ
        return TimedTranscript(seconds / self.speed[self._name], "it was")

    def stream(self, clip: Path, chunk_s: float) -> TimedTranscript:
        return TimedTranscript(chunk_s / self.speed[self._name], "it was")

    def peak_mb(self) -> float:
        return 100.0 + self.speed[self._name]


def test_figures_follow_from_the_measured_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = []
    for name, seconds in (("long", 8.0), ("short", 1.5), ("middle", 3.0)):
        write_audio(tmp_path / f"{name}.wav", np.zeros(int(seconds * SAMPLE_RATE_HZ), np.float32))
        lines.append(json.dumps({"audio": f"{name}.wav", "text": "it was"}) + "\n")
    (tmp_path / "clips.jsonl").write_text("".join(lines), encoding="utf-8")
    for folder, speed in (("fast", 20.0), ("slow", 10.0)):
        (tmp_path / folder).mkdir()
        for name in V1_FILES:
            (tmp_path / folder / name).write_bytes(folder.encode())
        monkeypatch.setitem(_ScriptedProcess.speed, folder, speed)
    monkeypatch.setattr(_ScriptedProcess, "log", [])
    monkeypatch.setattr("moonshine_tune.evaluation.benchmark.run.FreshProcess", _ScriptedProcess)
    request = BenchmarkRequest(
        tmp_path / "fast", tmp_path / "clips.jsonl", compare=tmp_path / "slow",
        rounds=2, warm_up=1, processes=2, stream=True,
    )  # fmt: skip
    record = benchmark(request, None, _QUIET).record.to_json()
    assert _ScriptedProcess.log == [
        "load fast", "close fast", "load slow", "close slow", "load fast", "load slow",
        "0 fast", "0 slow",
        "0 fast", "0 slow", "1 slow", "1 fast", "2 fast", "2 slow",
        "0 slow", "0 fast", "1 fast", "1 slow", "2 slow", "2 fast",
        "close slow", "close fast",
    ]  # fmt: skip
    for side, speed in ((record, 20), (record["other"], 10)):
        assert side["load_ms"] == dict.fromkeys(("median", "p95", "max"), 1000 / speed)
        assert side["latency_ms"]["median"] == 3000 / speed
        assert side["latency_ms"]["max"] == 8000 / speed
        bands = side["by_length"]
        assert [(band["from_s"], band["clips"]) for band in bands] == [(0, 1), (2, 1), (5, 1)]
        assert [band["latency_ms"]["max"] for band in bands] == [
            1500 / speed, 3000 / speed, 8000 / speed
        ]  # fmt: skip
        assert side["rtf"] == pytest.approx(1 / speed)
        assert [band["rtf"] for band in bands] == pytest.approx([1 / speed] * 3)
        assert side["stream"]["clips"] == 3 and side["stream"]["final_ms"]["max"] == 100 / speed
        assert side["memory_mb"] == {"peak": 100.0 + speed, "after_load": 100.0, "process": 20.0}
        assert side["wer"]["wer"] == 0 and side["wer"]["reference_words"] == 6
    half = {"ratio": 0.5, "ci95": [0.5, 0.5]}
    timed = ("latency", "median", "p95", "same_text", "load", "stream")
    assert {name: record["ratios"][name] for name in timed} == dict.fromkeys(timed, half)
    assert record["ratios"]["peak_memory"] == {"ratio": round(120 / 110, 4), "ci95": None}


@pytest.mark.real_model
def test_two_folders_are_measured_in_fresh_processes(
    wheel_assets: WheelAssets, manifest: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(wheel_assets.runtime_dir, copy)
    # What the tests themselves hold must not show in the child's memory.
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
    assert record == result.record.to_json()
    assert record["load_processes"] == 2 and record["clips"] == 2
    for side in (record, record["other"]):
        # How fast it is depends on what else runs here: `benchmarks.runtime_speed` looks at that.
        times = side["latency_ms"]
        assert 0 < times["median"] <= times["p95"] <= times["max"]
        assert [band["clips"] for band in side["by_length"]] == [1, 1]
        assert max(band["latency_ms"]["max"] for band in side["by_length"]) == times["max"]
        assert side["rtf"] > 0
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
    low, high = ratios["latency"]["ci95"]
    assert 0 < low <= ratios["latency"]["ratio"] <= high
    # The same files on both sides.
    assert 0.9 < ratios["peak_memory"]["ratio"] < 1.1 and ratios["size"]["ratio"] == 1
    assert str(tmp_path) not in json.dumps(record)


@pytest.mark.real_model
def test_without_texts_there_is_latency_only_and_it_says_so(
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


@pytest.mark.real_model
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


@pytest.mark.real_model
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


@pytest.mark.real_model
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
