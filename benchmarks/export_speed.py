"""Grafting an adapter, beside the official export and quantization: seconds and peak memory.

    python -m benchmarks.export_speed                       # all three models
    python -m benchmarks.export_speed --only tiny --rounds 5
    python -m benchmarks.export_speed --keep DIR            # what the official tools made is reused

Three models: v1 tiny with its own runtime files (there is no official exporter for it), and the
exact streaming-tiny and streaming-medium shapes with random weights, whose runtime folders the
official tools make here, and are timed while they do. Every graft runs in a fresh process. Its time
is that of adding the adapter to the weights, finding them in the files and writing the folder; the
official time is that of moonshine-voice's export, onnx_shrink_ray and the converter, processes and
all. Beside it stands our whole process, with Python's start and the loading of the model.
Last, a graft of the unchanged model must give back every byte. Prints a table and one line of JSON;
exit code 1 where a goal is missed. The official tools are installed into `.bench-tools` beside the
checkout's other packages; none of them touches torch.
"""

import argparse
import filecmp
import json
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.bench import TOOLS, install_peers
from benchmarks.fresh import run_fresh
from benchmarks.public_export import Step, export_publicly
from benchmarks.random_model import save_random_model
from moonshine_tune.cli.console import TerminalProgress
from moonshine_tune.core.hardware import cache_root, chip_name
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.export.graft import graft
from moonshine_tune.export.run import graft_adapter
from moonshine_tune.models.lora import adapter_parameters, adapter_state, inject_lora, save_adapter
from moonshine_tune.registry.base_model import base_identity
from moonshine_tune.registry.open import open_model
from moonshine_tune.registry.resolve import resolve_model
from moonshine_tune.runtime.layout import read_layout
from moonshine_tune.runtime.rebuild import read_weights

# Seconds of a graft; our time over the official one; memory beyond the base's 32-bit weights.
_SECONDS = {"tiny": 1.5, "streaming-tiny": 1.5, "streaming-medium": 10.0}
_SHARE = 1 / 30
_EXTRA_MB = 1000.0
_RUNTIME_FILE = "runtime.txt"


@dataclass(frozen=True)
class Row:
    """One model. Times in seconds, memory in MB; `official_*` are None where there is no exporter.

    Attributes:
        graft_s: median of the rounds; `process_s` with start-up and loading.
        peak_mb: of the whole process that grafts; `weights_mb` is the base in 32 bits.
        unchanged: whether a graft of the unchanged model gave the same bytes.
    """

    model: str
    graft_s: float
    rounds_s: tuple[float, ...]
    process_s: float
    peak_mb: float
    weights_mb: float
    tensors: int
    official_s: float | None
    official_peak_mb: float | None
    unchanged: bool

    @property
    def goals(self) -> dict[str, bool]:
        """Which goals are met."""
        met = {
            f"graft at most {_SECONDS[self.model]:g} s": self.graft_s <= _SECONDS[self.model],
            f"peak at most base weights + {_EXTRA_MB:g} MB":
                self.peak_mb <= self.weights_mb + _EXTRA_MB,
            "unchanged model gives the same bytes": self.unchanged,
        }  # fmt: skip
        if self.official_s is not None:
            met["graft at most 1/30 of the official time"] = (
                self.graft_s <= _SHARE * self.official_s
            )
        return met


def measure(model: str, place: Path, rounds: int) -> Row:
    """Make what is missing below `place`, then graft in fresh processes."""
    checkpoint, runtime, steps = _prepared(model, place)
    adapter = place / f"{model}-adapter"
    if not adapter.is_dir():
        _save_adapter(checkpoint, adapter)
    runs = []
    for number in range(rounds):
        with tempfile.TemporaryDirectory(dir=place) as out:
            command = [sys.executable, "-m", "benchmarks.export_speed", "--graft", str(checkpoint),
                       str(runtime), str(adapter), str(Path(out) / "out")]  # fmt: skip
            runs.append(run_fresh(command, place / "logs" / f"{model}-{number}.log"))
    with tempfile.TemporaryDirectory(dir=place) as out:
        unchanged = _unchanged(runtime, Path(out))
    return Row(
        model=model,
        graft_s=statistics.median(run.told["graft_s"] for run in runs),
        rounds_s=tuple(run.told["graft_s"] for run in runs),
        process_s=statistics.median(run.seconds for run in runs),
        peak_mb=max(run.peak_mb for run in runs),
        weights_mb=runs[0].told["weights_mb"],
        tensors=runs[0].told["tensors"],
        official_s=sum(step.seconds for step in steps) if steps else None,
        official_peak_mb=max(step.peak_mb for step in steps) if steps else None,
        unchanged=unchanged,
    )


def _prepared(model: str, place: Path) -> tuple[Path, Path, list[Step]]:
    """Checkpoint, runtime folder, and the official tools' steps."""
    if model == "tiny":
        found = resolve_model("tiny", cache=cache_root(), sources=("cache", "wheel"),
                              progress=SilentProgress())  # fmt: skip
        if found.runtime_dir is None:
            raise RuntimeError("the runtime files of tiny are not at hand")
        return found.checkpoint_dir, found.runtime_dir, []
    checkpoint, runtime = place / model, place / f"{model}-public"
    if not checkpoint.is_dir():
        save_random_model(model, checkpoint)
    record = place / f"{model}-public.json"
    if not record.is_file():
        steps = export_publicly(checkpoint, runtime, tools=install_peers(TOOLS))
        record.write_text(json.dumps([asdict(step) for step in steps]))
    return checkpoint, runtime, [Step(**step) for step in json.loads(record.read_text())]


def _save_adapter(checkpoint: Path, folder: Path) -> None:
    """An adapter of rank 8 on every linear layer of the decoder, with an effect."""
    opened = open_model(str(checkpoint), device="cpu", dtype="float32", progress=SilentProgress())
    inject_lora(opened.model, rank=8, sites="decoder", seed=1)
    chance = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in adapter_parameters(opened.model.module):
            if ".lora_B" in name:
                value.copy_(0.02 * torch.randn(value.shape, generator=chance))
    folder.mkdir()
    save_adapter(folder, opened.model, adapter_state(opened.model),
                 base=base_identity(opened.resolved))  # fmt: skip


def graft_once(checkpoint: Path, runtime: Path, adapter: Path, out: Path) -> dict[str, Any]:
    """Load the model with its adapter, and graft: what a fresh process does and tells."""
    begun = time.monotonic()
    opened = open_model(
        str(checkpoint), adapter=adapter, device="cpu", dtype="float32", progress=SilentProgress()
    )
    load_s = time.monotonic() - begun
    out.mkdir(parents=True)
    begun = time.monotonic()
    report = graft_adapter(opened, read_layout(runtime), out)
    graft_s = time.monotonic() - begun
    stored = {name: value for name, value in opened.model.module.named_parameters()
              if ".lora_" not in name}  # fmt: skip
    return {
        "graft_s": round(graft_s, 3),
        "load_s": round(load_s, 3),
        "weights_mb": round(sum(4 * value.numel() for value in stored.values()) / 1e6, 1),
        "tensors": report.changed,
        "files": list(report.changed_files),
    }


def _unchanged(runtime: Path, out: Path) -> bool:
    """Graft every tensor of the folder into it, as it is."""
    layout = read_layout(runtime)
    weights = {key: value for key, value in read_weights(layout).items() if value.ndim}
    report = graft(layout, weights, weights, out)
    same, different, missing = filecmp.cmpfiles(runtime, out, layout.files, shallow=False)
    return not (report.changed or different or missing) and len(same) == len(layout.files)


def table(rows: list[Row]) -> str:
    """Figures and goals for a terminal."""
    lines = [f"{'model':18}{'graft s':>9}{'process s':>11}{'peak MB':>9}{'weights MB':>12}"
             f"{'official s':>12}{'official MB':>13}{'ratio':>8}"]  # fmt: skip
    for row in rows:
        official, peak, ratio = "-", "-", "-"
        if row.official_s is not None and row.official_peak_mb is not None:
            official, peak = f"{row.official_s:.1f}", f"{row.official_peak_mb:.0f}"
            ratio = f"1/{row.official_s / row.graft_s:.0f}"
        lines.append(f"{row.model:18}{row.graft_s:9.2f}{row.process_s:11.1f}{row.peak_mb:9.0f}"
                     f"{row.weights_mb:12.0f}{official:>12}{peak:>13}{ratio:>8}")  # fmt: skip
    for row in rows:
        lines += [f"{'met   ' if met else 'MISSED'}  {row.model}: {goal}"
                  for goal, met in row.goals.items()]  # fmt: skip
    return "\n".join(lines)


def main() -> int:
    """Measure, print, answer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=list(_SECONDS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="folder of everything that is made")
    parser.add_argument("--graft", type=Path, nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.graft:
        print(json.dumps(graft_once(*given.graft)))
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        place = given.keep or Path(scratch)
        place.mkdir(parents=True, exist_ok=True)
        progress = TerminalProgress()
        rows = []
        for model in [given.only] if given.only else _SECONDS:
            progress.say(f"{model} …")
            rows.append(measure(model, place, given.rounds))
    print(table(rows))
    met = all(value for row in rows for value in row.goals.values())
    print(json.dumps({"passed": met, "chip": chip_name(),
                      "models": [asdict(row) | {"goals": row.goals} for row in rows]}))  # fmt: skip
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
