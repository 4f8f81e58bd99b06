"""The table of `docs/memory.md`: the peak memory of medium on Macs, as `estimate` counts it.

python -m benchmarks.memory_table
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from moonshine_tune.config.resolve import resolve_settings, settings_layers
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.memory.estimate import GIB, Workload, estimate_run
from moonshine_tune.registry.model_preset import with_model_preset


@dataclass(frozen=True)
class _Row:
    """A row: a machine, its budget, what runs, and the runs whose peaks are named."""

    machine: str
    budget_gib: float
    what: str
    preset: str
    runs: tuple[tuple[str, ...], ...]
    clip_s: float = 30.0
    replays: bool = False


_ON_DISK = "device.state_storage=disk"
_ROWS = (
    _Row(
        "8 GB Mac", 3.5,
        "`medium-pilot`: queries and values, batch 1, recomputed, 16-bit weights",
        "medium-pilot", ((),),
    ),
    _Row(
        "8 GB Mac", 3.5,
        "`medium` from states on disk, clips of 15 s: `--set device.state_storage=disk --set "
        "train.batch_size=1`",
        "medium", ((_ON_DISK, "train.batch_size=1"),), clip_s=15.0, replays=True,
    ),
    _Row(
        "16 GB Mac", 9.5,
        "`medium` as shipped, replay, clips of 30 s, states on disk / in memory",
        "medium", ((_ON_DISK,), ()), replays=True,
    ),
    _Row(
        "16 GB Mac", 9.5,
        "`medium-pilot` without recomputing: `--set train.gradient_checkpointing=false`",
        "medium-pilot", (("train.gradient_checkpointing=false",),),
    ),
    _Row(
        "24 GB Mac", 14.0, "the same with `--set train.batch_size=4`",
        "medium-pilot", (("train.gradient_checkpointing=false", "train.batch_size=4"),),
    ),
)  # fmt: skip


def lines() -> Iterator[str]:
    """The lines of the table."""
    yield "| machine | budget | what fits | peak |"
    yield "|---|---|---|---|"
    for row in _ROWS:
        peaks = " / ".join(f"{_peak_gib(row, assignments):.2f}" for assignments in row.runs)
        yield f"| {row.machine} | {row.budget_gib:g} GiB | {row.what} | {peaks} GiB |"


def _peak_gib(row: _Row, assignments: tuple[str, ...]) -> float:
    layers: Any = settings_layers(row.preset, None, list(assignments), flags={"model": None})
    settings = resolve_settings(with_model_preset(layers)).settings
    hours = 10 if row.preset == "medium" else None
    workload = Workload(clip_s=row.clip_s, audio_s=hours and hours * 3600.0, replays=row.replays)
    result = estimate_run(
        settings, workload, SilentProgress(), device="mps", budget_gib=row.budget_gib
    )
    return result.estimate.total / GIB


if __name__ == "__main__":
    for line in lines():
        print(line, flush=True)
