"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

ModelOption = Annotated[
    str,
    typer.Option("--model", help="Catalog name, hub id, checkpoint folder or runtime folder."),
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, mps, cuda or cuda:N.")]
OutFolder = Annotated[Path, typer.Option("--out", help="Folder to write.")]
