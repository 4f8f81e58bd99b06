"""A manifest of 100,000 lines: seconds and memory to open it, split it, find leaks and draw steps.

    python -m benchmarks.large_manifest [--rows 100000]

No audio is decoded: the lines name a thousand small files in a temporary folder. Prints one line of
JSON; memory is the peak of this process in MB of 10^6 bytes, after each stage. Exit code 1 where
opening takes more than 30 s or the whole more than 1000 MB.
"""

import argparse
import json
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from moonshine_tune.corpus.manifest import read_manifest
from moonshine_tune.corpus.sampler import BucketSampler
from moonshine_tune.corpus.splits import find_leaks, split_by_speaker

_FILES, _STEPS = 1000, 1000
_MAX_OPEN_S, _MAX_MB = 30.0, 1000.0
_WORDS = ("turn", "left", "heading", "three", "one", "zero", "descend", "to", "flight", "level")


def write_rows(folder: Path, rows: int) -> Path:
    """A manifest of so many lines, each a span of one of a thousand files."""
    chance = random.Random(0)
    for number in range(_FILES):
        (folder / f"{number}.wav").write_bytes(b"")
    path = folder / "large.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for row in range(rows):
            length = round(chance.uniform(0.8, 20.0), 2)
            record = {
                "id": f"u{row:06d}",
                "audio": f"{row % _FILES}.wav",
                "text": " ".join(chance.choices(_WORDS, k=12)) + f" {row}",
                "speaker": f"s{row % _FILES}",
                "start": row // _FILES * 20.0,
                "end": row // _FILES * 20.0 + length,
            }
            file.write(json.dumps(record) + "\n")
    return path


def main() -> int:
    """Run the stages and print what they took."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000)
    rows = parser.parse_args().rows
    figures: dict[str, Any] = {"rows": rows, "before_mb": _peak_mb()}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        begun = time.monotonic()
        found = work()
        figures[name] = {"seconds": round(time.monotonic() - begun, 2), "peak_mb": _peak_mb()}
        return found

    with tempfile.TemporaryDirectory() as name:
        path = write_rows(Path(name), rows)
        manifest = timed("open", lambda: read_manifest(path))
        utterances = manifest.utterances
        parts = timed(
            "split by speaker", lambda: split_by_speaker(utterances, dev=0.1, test=0.1, seed=0)
        )
        leaks = timed("find leaks", lambda: find_leaks({"train": parts.train, "test": parts.test}))
        seconds = [item.known_seconds or 0.0 for item in utterances]
        sampler = timed("make a sampler", lambda: BucketSampler(seconds, batch_size=8))
        timed(f"draw {_STEPS} steps", lambda: [sampler.plan(step) for step in range(_STEPS)])
    figures["leaking_speakers"] = len(leaks.speakers)
    figures["passed"] = figures["open"]["seconds"] <= _MAX_OPEN_S and _peak_mb() <= _MAX_MB
    print(json.dumps(figures))
    return 0 if figures["passed"] else 1


def _peak_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KiB, macOS in bytes.
    return round(peak * (1 if sys.platform == "darwin" else 1024) / 1e6, 1)


if __name__ == "__main__":
    sys.exit(main())
