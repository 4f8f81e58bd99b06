"""`moonshine-tune estimate`: the peak memory of a run, before anything is loaded."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moonshine_tune.cli.console import JsonFlag, TerminalProgress, refuse, show, table

if TYPE_CHECKING:
    from moonshine_tune.memory.duration import Duration
    from moonshine_tune.memory.estimate import EstimateResult
    from moonshine_tune.memory.model import MemoryEstimate

_EXAMPLE = "Example: moonshine-tune estimate --preset medium-pilot --device mps --clip-s 15"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("estimate", epilog=_EXAMPLE)(estimate)


def estimate(
    model: Annotated[
        str | None, typer.Option(help="Catalog name or checkpoint folder [default: tiny].")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="A shipped preset.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML settings file.")] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="One setting, repeatable: train.batch_size=4.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu, mps or cuda; this machine need not have it.")
    ] = None,
    clip_s: Annotated[
        float | None, typer.Option("--clip-s", help="Longest clip, s [default: data.max_clip_s].")
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(help="Tokens of its transcript [default: the most for that length]."),
    ] = None,
    audio_hours: Annotated[
        float | None, typer.Option("--audio-hours", help="Audio whose encoder states are stored.")
    ] = None,
    replay: Annotated[bool, typer.Option("--replay", help="The run has replay audio.")] = False,
    full: Annotated[
        bool, typer.Option("--full", help="Full fine-tuning, as of `train --full`.")
    ] = False,
    budget_gib: Annotated[
        float | None,
        typer.Option(
            "--budget-gib",
            help="Memory that the run may take [default on MPS: this Mac's, or 9.5].",
        ),
    ] = None,
    no_time: Annotated[
        bool, typer.Option("--no-time", help="Do not measure steps for the time of the run.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Estimate the peak memory of a training run by phase and part, and what would fit.

    Also its disk space, and on the CPU its time, with a training manifest in the settings. No
    weights are fetched or read. Exit code 1 if the run would not fit.
    """
    from dataclasses import replace

    from moonshine_tune.config.resolve import resolve_settings, settings_layers
    from moonshine_tune.inference.dataset import read_training_data
    from moonshine_tune.memory.estimate import Workload, estimate_run
    from moonshine_tune.memory.fit import workload_of
    from moonshine_tune.registry.model_preset import with_model_preset

    flags = {"model": model, "adapter.kind": "full" if full else None}
    layers = settings_layers(preset, config, assignments, flags=flags)
    layers = with_model_preset(layers)
    settings = resolve_settings(layers).settings
    presets = [source for source, _ in layers if source.startswith("preset ")]
    workload, data = Workload(), None
    if settings.data.train is not None:
        data = read_training_data(settings.data)
        workload = workload_of(settings, data)
    workload = replace(
        workload,
        clip_s=workload.clip_s if clip_s is None else clip_s,
        tokens=tokens,
        audio_s=workload.audio_s if audio_hours is None else audio_hours * 3600,
        replays=replay or settings.data.replay is not None,
    )
    result = estimate_run(
        settings,
        workload,
        TerminalProgress(),
        device=device,
        budget_gib=budget_gib,
        timed=None if no_time else data,
    )
    document = _document(result) | {"preset": presets[-1].removeprefix("preset ")}
    show(_text(result), document, as_json=as_json)
    refuse(not result.fits)


def _gib(size: float) -> str:
    return f"{size / (1 << 30):.2f}"


def _text(result: "EstimateResult") -> str:
    estimate, shape = result.estimate, result.estimate.shape
    phases = estimate.phases
    names = [name for name in estimate.peak.parts if any(phase.parts[name] for phase in phases)]
    rows = [[name, *(_gib(phase.parts[name]) for phase in phases)] for name in names]
    rows.append(["total", *(_gib(phase.total) for phase in phases)])
    verdict = "fits" if result.fits else "does not fit"
    lines = [
        f"{result.model} on {result.device}: {estimate.model_parameters:,} parameters, "
        f"{_trained(estimate)}, batch "
        f"{shape.batch_size} × {shape.clip_s:g} s × {shape.tokens} tokens",
        "",
        table(["GiB at the peak of", *(phase.name for phase in phases)], rows),
        "",
        f"peak {_gib(estimate.total)} GiB ({estimate.peak.name}) {verdict} "
        f"{_gib(result.budget.bytes)} GiB: {result.budget.reason}",
        f"fitting with batch {shape.batch_size}: clips of {result.longest_clip_s} s; "
        f"with clips of {shape.clip_s:g} s: batch {result.largest_batch}",
        *(f"instead: {line}" for line in result.instead),
        "disk: " + ", ".join(f"{name} {size / 1e6:.0f} MB" for name, size in result.disk.items()),
        *([_time(result.duration)] if result.duration else []),
        *(f"assumed: {remark}" for remark in result.remarks),
    ]
    return "\n".join(lines)


def _trained(estimate: "MemoryEstimate") -> str:
    shape, count = estimate.shape, f"{estimate.adapter_parameters:,}"
    if shape.full:
        return f"{count} of them train ({shape.sites})"
    return f"adapter {count} (rank {shape.rank}, {shape.sites})"


def _time(duration: "Duration") -> str:
    total = duration.total
    taken = sorted(duration.seconds.items(), key=lambda item: -item[1])
    parts = ", ".join(f"{name} {value / total:.0%}" for name, value in taken)
    return f"time: about {total / 60:.0f} min without an early stop, as busy as it is now: {parts}"


def _document(result: "EstimateResult") -> dict[str, Any]:
    from dataclasses import asdict

    estimate = result.estimate
    shape = asdict(estimate.shape)
    shape["frozen_dtype"] = str(estimate.shape.frozen_dtype).removeprefix("torch.")
    return {
        "model": result.model,
        "device": result.device,
        "fits": result.fits,
        "peak_bytes": estimate.total,
        "peak_phase": estimate.peak.name,
        "budget_bytes": result.budget.bytes,
        "budget_reason": result.budget.reason,
        "phases": {p.name: {**p.parts, "total": p.total} for p in estimate.phases},
        "longest_clip_s": result.longest_clip_s,
        "largest_batch": result.largest_batch,
        "model_parameters": estimate.model_parameters,
        "adapter_parameters": estimate.adapter_parameters,
        "shape": shape,
        "disk_bytes": dict(result.disk),
        **({"seconds": result.duration.seconds} if result.duration else {}),
        **({"instead": list(result.instead)} if result.instead else {}),
        "assumed": list(result.remarks),
    }
