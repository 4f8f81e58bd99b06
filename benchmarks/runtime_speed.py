"""Speed of the real tiny in the Moonshine runtime, compared with a copy of itself.

    python -m benchmarks.runtime_speed

Measures two equal folders alternately and checks what a quiet machine must show: faster than real
time, longer clips take longer, and equal files are equally fast. Prints the figures as one line of
JSON; exits with 1 where a check fails.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

from moonshine_tune.audio.io import load_audio, write_audio
from moonshine_tune.cli.console import TerminalProgress
from moonshine_tune.core.hardware import cache_root
from moonshine_tune.evaluation.benchmark.run import BenchmarkRequest, benchmark
from moonshine_tune.registry.wheel import fetch_wheel_assets


def main() -> int:
    """Measure, check, print."""
    progress = TerminalProgress()
    assets = fetch_wheel_assets(cache_root(), progress)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        shutil.copytree(assets.runtime_dir, folder / "copy")
        write_audio(folder / "long.wav", load_audio(assets.beckett))
        write_audio(folder / "short.wav", load_audio(assets.two_cities, end=1.5))
        (folder / "clips.jsonl").write_text('{"audio": "long.wav"}\n{"audio": "short.wav"}\n')
        request = BenchmarkRequest(
            assets.runtime_dir, folder / "clips.jsonl", compare=folder / "copy", rounds=10
        )
        record = benchmark(request, None, progress).record.to_json()
    short, long = (band["latency_ms"]["max"] for band in record["by_length"])
    checks = {
        "median latency above 5 ms": record["latency_ms"]["median"] > 5,
        "longer clips take longer": short < long,
        "faster than real time": 0 < record["rtf"] < 1,
        "equal files are equally fast": 0.5 < record["ratios"]["latency"]["ratio"] < 2,
    }
    figures = {name: record[name] for name in ("latency_ms", "by_length", "rtf", "ratios")}
    sys.stdout.write(json.dumps({"checks": checks} | figures) + "\n")
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
