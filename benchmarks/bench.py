"""Ours and what a user would pick instead, side by side on this machine.

    make bench                         # or: python -m benchmarks.bench --only transcribe --pairs 5
    python -m benchmarks.bench --full  # all of the corpus; hours on two cores

Each side runs in a fresh process, in turn (ours, peer, ours, peer, …), on the same data, batch,
sites, number format and threads. Writes `bench-out/bench.json` and `bench-out/bench.md`; prints the
table and which goals are met. Needs the recordings of `make acceptance`; says so without them.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.acceptance import SHARED
from benchmarks.comparisons import COMPARISONS, Comparison, Workshop
from benchmarks.fresh import Measured, run_fresh
from moonshine_tune.core.hardware import chip_name
from moonshine_tune.core.provenance import platform_summary, versions

TOOLS = Path(".bench-tools")
# What the peers need beyond this program's own packages; none of them touches torch.
PEER_PACKAGES = ("onnx_shrink_ray", "onnx_graphsurgeon", "onnxscript", "onnx_ir", "ml_dtypes",
                 "pyarrow", "scipy")  # fmt: skip


@dataclass(frozen=True)
class Result:
    """A comparison as it came out; times in seconds, memory in MB, ratios peer ÷ ours."""

    name: str
    what: str
    goal: str
    ratio: float
    ratio_range: tuple[float, float]
    met: bool
    memory_ratio: float
    ours: tuple[dict[str, float], ...]
    peer: tuple[dict[str, float], ...]
    remarks: tuple[str, ...]


def compare(comparison: Comparison, shop: Workshop, pairs: int) -> Result:
    """Run both sides in turn."""
    ours: list[Measured] = []
    peer: list[Measured] = []
    for number in range(pairs):
        for side, runs in ((comparison.ours, ours), (comparison.peer, peer)):
            label = f"{comparison.name}-{side.label}-{number}"
            shop.forget_run(label)
            command = side.command(shop, label)
            print(f"{label}: {' '.join(command)}", file=sys.stderr)
            tools = shop.tools if side.needs_tools else None
            run = run_fresh(command, shop.out / "logs" / f"{label}.log", extra_path=tools)
            print(f"  {side.seconds(run):.2f} s, {run.peak_mb:.0f} MB", file=sys.stderr)
            runs.append(run)
    ratios = [
        comparison.peer.seconds(b) / comparison.ours.seconds(a)
        for a, b in zip(ours, peer, strict=True)
    ]
    memory = statistics.median(run.peak_mb for run in ours) / statistics.median(
        run.peak_mb for run in peer
    )
    return Result(
        name=comparison.name,
        what=comparison.what,
        goal=comparison.goal,
        ratio=statistics.median(ratios),
        ratio_range=(min(ratios), max(ratios)),
        met=comparison.is_met(
            statistics.median(ratios),
            memory,
            statistics.median(comparison.ours.seconds(run) for run in ours),
        ),
        memory_ratio=memory,
        ours=tuple(_brief(run, comparison.ours.seconds) for run in ours),
        peer=tuple(_brief(run, comparison.peer.seconds) for run in peer),
        remarks=tuple(comparison.remarks(ours[-1], peer[-1])),
    )


def _brief(run: Measured, seconds: Callable[[Measured], float]) -> dict[str, float]:
    return {
        "seconds": round(seconds(run), 3),
        "process_seconds": round(run.seconds, 3),
        "peak_mb": round(run.peak_mb, 1),
    }


def as_table(results: Sequence[Result]) -> str:
    """The results as a Markdown table."""
    lines = [
        "| what | ours | peer | peer ÷ ours (range) | memory, ours ÷ peer | goal | met |",
        "|---|---|---|---|---|---|---|",
    ]
    for item in results:
        ours, peer = (
            statistics.median(run["seconds"] for run in side) for side in (item.ours, item.peer)
        )
        low, high = item.ratio_range
        lines.append(
            f"| {item.what} | {ours:.2f} s | {peer:.2f} s | **{item.ratio:.2f}** "
            f"({low:.2f}–{high:.2f}, {len(item.ours)} pairs) | {item.memory_ratio:.2f} | "
            f"{item.goal} | {'yes' if item.met else 'no'} |"
        )
        lines += [f"| ↳ {remark} | | | | | | |" for remark in item.remarks]
    return "\n".join(lines)


def install_peers(tools: Path) -> Path:
    """The folder of the peers' packages, installed where it is missing."""
    if not tools.is_dir():
        words = ["install", "--quiet", "--no-deps", "--target", str(tools), *PEER_PACKAGES]
        subprocess.run([sys.executable, "-m", "pip", *words], check=True)
    return tools.absolute()


def main() -> int:
    """Run the comparisons that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=[item.name for item in COMPARISONS])
    parser.add_argument("--pairs", type=int, help="instead of each comparison's own number")
    parser.add_argument("--full", action="store_true", help="the whole corpus")
    parser.add_argument("--out", type=Path, default=Path("bench-out"))
    options = parser.parse_args()
    if not SHARED.is_dir():
        print(f"skipped: the recordings are not here: {SHARED}", file=sys.stderr)
        return 3
    shop = Workshop(options.out, SHARED, install_peers(TOOLS), full=options.full)
    results: list[Result] = []
    record: dict[str, Any] = {}
    for comparison in COMPARISONS:
        if options.only and comparison.name not in options.only:
            continue
        result = compare(comparison, shop, options.pairs or comparison.pairs)
        results.append(result)
        record = {
            "results": [asdict(item) for item in results],
            "machine": platform_summary() | {"chip": chip_name(), "cores": os.cpu_count()},
            "versions": versions(),
        }
        (options.out / "bench.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
        (options.out / "bench.md").write_text(as_table(results) + "\n", encoding="utf-8")
    print(as_table(results))
    print(json.dumps(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
