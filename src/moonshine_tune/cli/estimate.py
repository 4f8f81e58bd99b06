"""`moonshine-tune estimate`: will it fit, before anything is loaded."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moonshine_tune.cli.console import JsonFlag, TerminalProgress, refuse, show, table

if TYPE_CHECKING:
    from moonshine_tune.memory.estimate import EstimateResult

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
        list[str] | None, typer.Option("--set", help="One setting: train.batch_size=4.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu, mps or cuda; need not be on this machine.")
    ] = None,
    clip_s: Annotated[
        float | None, typer.Option("--clip-s", help="Longest clip, s [default: data.max_clip_s].")
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(help="Tokens of its text [default: the most for that length].")
    ] = None,
    audio_hours: Annotated[
        float | None, typer.Option("--audio-hours", help="Audio whose encoder states are kept.")
    ] = None,
    replay: Annotated[bool, typer.Option("--replay", help="The run has replay audio.")] = False,
    budget_gib: Annotated[
        float | None,
        typer.Option("--budget-gib", help="Memory it may take [MPS: 9.5, for a 16 GB Mac]."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Estimate the peak memory of a training run by parts, and what would fit.

    No weights are fetched or read. Exit code 1 where the run would not fit.
    """
    from moonshine_tune.config.resolve import (
        parse_assignments,
        read_preset,
        read_settings_file,
        resolve_settings,
    )

    layers: list[tuple[str, dict[str, Any]]] = []
    if preset:
        layers.append((f"preset {preset}", read_preset(preset)))
    if config:
        layers.append((f"file {config.name}", read_settings_file(config)))
    layers.append(("flag", {"model": model} if model else {}))
    layers.append(("--set", parse_assignments(assignments or [])))
    settings = resolve_settings(layers).settings

    from dataclasses import replace

    from moonshine_tune.inference.dataset import read_training_data
    from moonshine_tune.memory.estimate import Workload, estimate_run
    from moonshine_tune.memory.fit import workload_of

    named = settings.data.train is not None
    found = workload_of(settings, read_training_data(settings.data)) if named else Workload()
    workload = replace(
        found,
        clip_s=found.clip_s if clip_s is None else clip_s,
        tokens=tokens,
        audio_s=found.audio_s if audio_hours is None else audio_hours * 3600,
        replays=replay or found.replays,
    )
    result = estimate_run(
        settings,
        workload,
        TerminalProgress(),
        device=device,
        budget_gib=budget_gib,
    )
    show(_text(result), _document(result), as_json=as_json)
    refuse(not result.fits)


def _gib(size: float) -> str:
    return f"{size / (1 << 30):.2f}"


def _text(result: "EstimateResult") -> str:
    found, shape = result.estimate, result.estimate.shape
    names = [name for name in found.peak.parts if any(p.parts[name] for p in found.phases)]
    rows = [[name, *(_gib(phase.parts[name]) for phase in found.phases)] for name in names]
    rows.append(["total", *(_gib(phase.total) for phase in found.phases)])
    verdict = "fits" if result.fits else "does not fit"
    lines = [
        f"{result.model} on {result.device}: {found.model_parameters:,} parameters, adapter "
        f"{found.adapter_parameters:,} (rank {shape.rank}, {shape.sites}), batch "
        f"{shape.batch_size} × {shape.clip_s:g} s × {shape.tokens} tokens",
        "",
        table(["GiB at the peak of", *(phase.name for phase in found.phases)], rows),
        "",
        f"peak {_gib(found.total)} GiB ({found.peak.name}) {verdict} "
        f"{_gib(result.budget.bytes)} GiB: {result.budget.reason}",
        f"fitting with batch {shape.batch_size}: clips of {result.longest_clip_s} s; "
        f"with clips of {shape.clip_s:g} s: batch {result.largest_batch}",
        *(f"assumed: {remark}" for remark in result.remarks),
    ]
    return "\n".join(lines)


def _document(result: "EstimateResult") -> dict[str, Any]:
    from dataclasses import asdict

    found = result.estimate
    shape = asdict(found.shape)
    shape["frozen_dtype"] = str(found.shape.frozen_dtype).removeprefix("torch.")
    return {
        "model": result.model,
        "device": result.device,
        "fits": result.fits,
        "peak_bytes": found.total,
        "peak_phase": found.peak.name,
        "budget_bytes": result.budget.bytes,
        "budget_reason": result.budget.reason,
        "phases": {p.name: {**p.parts, "total": p.total} for p in found.phases},
        "longest_clip_s": result.longest_clip_s,
        "largest_batch": result.largest_batch,
        "model_parameters": found.model_parameters,
        "adapter_parameters": found.adapter_parameters,
        "shape": shape,
        "assumed": list(result.remarks),
    }
