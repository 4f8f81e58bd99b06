"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="Catalog name, hub id, checkpoint or runtime folder "
        "[default: the adapter's base, else tiny].",
    ),
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, mps, cuda or cuda:N.")]
NormalizerOption = Annotated[
    str | None,
    typer.Option("--normalizer", help="english-1, spelled-1 or basic-1 [default: by language]."),
]
KeyTermsOption = Annotated[
    Path | None,
    typer.Option(
        "--keyterms",
        help="Terms whose recall is counted, one per line. The runtime boosts them (streaming "
        "models only).",
    ),
]
BoostOption = Annotated[float, typer.Option("--boost", min=0, help="Strength of the boost.")]
MaxClipOption = Annotated[
    float | None,
    typer.Option("--max-clip-s", min=1, help="Longest clip, s [default: that of data.max_clip_s]."),
]
OutFolder = Annotated[Path, typer.Option("--out", file_okay=False, help="Folder to write.")]


def longest_clip_s(named: float | None) -> float:
    """The value of `MaxClipOption`, or its default."""
    from moonshine_tune.config.settings import DataSettings

    return DataSettings().max_clip_s if named is None else named
