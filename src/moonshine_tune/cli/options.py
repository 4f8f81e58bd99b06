"""Options that several commands share, and the settings that they make."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

ModelOption = Annotated[
    str,
    typer.Option("--model", help="Catalog name, hub id, checkpoint folder or runtime folder."),
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, mps, cuda or cuda:N.")]
NormalizerOption = Annotated[
    str | None,
    typer.Option("--normalizer", help="english-1, spelled-1 or basic-1 [default: by language]."),
]
KeyTermsOption = Annotated[
    Path | None,
    typer.Option(
        "--keyterms", help="Terms that the runtime boosts, one per line; streaming models."
    ),
]
BoostOption = Annotated[float, typer.Option("--boost", min=0, help="Strength of the boost.")]
OutFolder = Annotated[Path, typer.Option("--out", help="Folder to write.")]


def settings_layers(
    model: str | None,
    manifests: Mapping[str, Path | None],
    preset: str | None,
    config: Path | None,
    assignments: Sequence[str],
) -> tuple[tuple[str, Mapping[str, Any]], ...]:
    """The settings of the usual options, weakest first, each layer with its source."""
    from moonshine_tune.config.resolve import parse_assignments, read_preset, read_settings_file

    flags: dict[str, Any] = {"model": model} if model else {}
    paths = {key: str(path.absolute()) for key, path in manifests.items() if path}
    layers: list[tuple[str, Mapping[str, Any]]] = []
    if preset:
        layers.append((f"preset {preset}", read_preset(preset)))
    if config:
        layers.append((f"file {config.name}", read_settings_file(config)))
    if flags or paths:
        layers.append(("flag", flags | ({"data": paths} if paths else {})))
    if assignments:
        layers.append(("--set", parse_assignments(assignments)))
    return tuple(layers)
