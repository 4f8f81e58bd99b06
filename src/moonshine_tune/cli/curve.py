"""`moonshine-tune curve`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Option

from moonshine_tune.cli.console import JsonFlag, TerminalProgress, refuse, show, table
from moonshine_tune.cli.options import OutFolder
from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.text import quoted

if TYPE_CHECKING:
    from moonshine_tune.curve.run import CurveResult

_EXAMPLE = (
    "Example: moonshine-tune curve --train train.jsonl --dev dev.jsonl --more 40 --budget 30 "
    "--out curve"
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("curve", epilog=_EXAMPLE)(curve)


def curve(
    out: OutFolder,
    train: Annotated[Path | None, Option(help="Training manifest.")] = None,
    dev: Annotated[
        Path | None, Option(help="Development manifest [default: a share of train is held out].")
    ] = None,
    replay: Annotated[
        Path | None, Option(help="General speech against forgetting; no texts needed.")
    ] = None,
    canary: Annotated[Path | None, Option(help="General speech; bounds the adapters.")] = None,
    model: Annotated[
        str | None, Option(help="Catalog name, hub id or folder [default: tiny].")
    ] = None,
    preset: Annotated[
        str | None, Option(help="Shipped preset [default: that of the model].")
    ] = None,
    config: Annotated[Path | None, Option(help="YAML settings file.")] = None,
    assignments: Annotated[
        list[str] | None, Option("--set", help="One setting, repeatable: train.steps=100.")
    ] = None,
    sizes: Annotated[
        str | None,
        Option(help="Numbers of clips to train on [default: 1/8, 1/4, 1/2 and all]: 10,20,40."),
    ] = None,
    seeds: Annotated[int, Option(help="Trainings of each size.")] = 3,
    more: Annotated[
        list[int] | None, Option(help="Number of further recordings to predict; repeatable.")
    ] = None,
    budget: Annotated[float | None, Option(help="Minutes after which no training begins.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Say what more recordings would gain, from trainings on parts of what there is.

    The same command again continues. Each training is a run folder in OUT/runs.
    """
    wanted = _numbers(sizes) if sizes else ()
    from moonshine_tune.config.resolve import resolve_settings, settings_layers
    from moonshine_tune.curve.run import CurveRequest, learning_curve
    from moonshine_tune.registry.model_preset import with_model_preset

    manifests = {"train": train, "dev": dev, "replay": replay, "canary": canary}
    layers = settings_layers(
        preset, config, assignments, flags={"model": model}, manifests=manifests
    )
    request = CurveRequest(
        out,
        resolve_settings(with_model_preset(layers)),
        wanted,
        seeds,
        tuple(more or ()),
        budget,
    )
    result = learning_curve(request, TerminalProgress())
    show(_summary(result), result.to_record(), as_json=as_json)
    if result.stopped == "interrupted":
        raise typer.Exit(130)
    refuse(result.record.verdict == "no better than the base")


def _numbers(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise RequestError(
            f"--sizes {text!r} are not numbers of clips", hint="write it as: --sizes 10,20,40"
        )
    return tuple(map(int, parts))


def _summary(result: "CurveResult") -> str:
    record = result.record
    rows = []
    for size in sorted({item.recordings for item in record.points}):
        wers = [item.wer for item in record.points if item.recordings == size]
        rows.append(
            [str(size), f"{sum(wers) / len(wers):.2f}", ", ".join(f"{w:.2f}" for w in wers)]
        )
    if record.base_wer is not None:
        rows.insert(0, ["0", f"{record.base_wer:.2f}", "the base model"])
    lines = [table(["recordings", "WER %", "trainings"], rows)] if rows else []
    lines += record.sentences
    if not record.sentences:
        lines.append("too little is trained to predict anything: two sizes are needed")
    elif record.voices:
        lines.append(f"WER on dev is {record.voices.sentence}")
    out = quoted(result.path)
    if result.trained < result.planned:
        lines.append(
            f"{result.stopped} after {result.trained} of {result.planned} trainings; the same "
            "command continues"
        )
    lines.append(f"draw it: moonshine-tune report {out}")
    return "\n".join(lines)
