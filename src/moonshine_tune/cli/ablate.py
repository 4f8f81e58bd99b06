"""`moonshine-tune ablate run | show | choose`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moonshine_tune.cli.console import JsonFlag, TerminalProgress, refuse, show, table
from moonshine_tune.cli.options import OutFolder

if TYPE_CHECKING:
    from moonshine_tune.ablation.results import AblationView, Chosen
    from moonshine_tune.ablation.run import AblationResult
    from moonshine_tune.ablation.study import TrialRecord

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Search settings: run trials, look at them, choose one by what was measured.",
)

_OptionalPath = Path | None
_StorageOption = Annotated[
    str | None,
    typer.Option(help="Database URL for many machines: postgresql+psycopg://user@host/name."),
]
_FolderArgument = Annotated[Path, typer.Argument(help="Folder of `ablate run`.")]
_BAR = 24


def register(root: typer.Typer) -> None:
    """Add the commands."""
    root.add_typer(app, name="ablate")


@app.command(
    epilog="Example: moonshine-tune ablate run --space quick --train train.jsonl --dev dev.jsonl "
    "--canary general.jsonl --replay replay.jsonl --trials 12 --steps 100 --out ablation"
)
def run(
    out: OutFolder,
    space: Annotated[
        str | None,
        typer.Option(help="YAML file, or a shipped space: quick, adapter, rates, forgetting."),
    ] = None,
    train: Annotated[_OptionalPath, typer.Option(help="Training manifest.")] = None,
    dev: Annotated[_OptionalPath, typer.Option(help="Development manifest; never a test.")] = None,
    canary: Annotated[
        _OptionalPath, typer.Option(help="General speech that must not get worse.")
    ] = None,
    replay: Annotated[
        _OptionalPath, typer.Option(help="General speech, no texts needed, against forgetting.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Catalog name, hub id or folder.")] = None,
    preset: Annotated[str | None, typer.Option(help="A shipped preset under the search.")] = None,
    config: Annotated[_OptionalPath, typer.Option(help="YAML settings under the search.")] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="One fixed setting: train.batch_size=4.")
    ] = None,
    trials: Annotated[
        int | None, typer.Option(help="Trials in all [default: 20; every point of a grid].")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Begin no trial after so many minutes.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps of each trial.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Trials at a time.")] = 1,
    sampler: Annotated[str | None, typer.Option(help="tpe, random or grid [default: tpe].")] = None,
    prune: Annotated[
        str | None, typer.Option(help="median: stop trials worse than the median of the others.")
    ] = None,
    objective: Annotated[
        list[str] | None,
        typer.Option(
            help="dev_wer [default], canary_loss, latency, adapter_mb, train_seconds; repeatable."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the search [default: 0].")] = None,
    storage: _StorageOption = None,
    study: Annotated[
        str | None, typer.Option(help="Name in the database [default: from space and data].")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Run trials over a search space. The same command, or --out alone, goes on where it stopped.

    Each trial is a run folder in OUT/trials. One that crashes or runs out of memory is recorded and
    the search goes on. Test data is never opened.
    """
    from moonshine_tune.ablation.request import AblateRequest
    from moonshine_tune.ablation.run import run_ablation
    from moonshine_tune.ablation.space_file import read_space
    from moonshine_tune.config.resolve import settings_layers

    manifests = {"train": train, "dev": dev, "canary": canary, "replay": replay}
    request = AblateRequest(
        out=out,
        space=read_space(space) if space else None,
        layers=tuple(
            settings_layers(
                preset, config, assignments, flags={"model": model}, manifests=manifests
            )
        ),
        trials=trials,
        minutes=minutes,
        steps=steps,
        storage=storage,
        study=study,
        workers=workers,
        sampler=sampler,
        pruner=prune,
        objectives=tuple(objective or ()),
        seed=seed,
    )
    result = run_ablation(request, TerminalProgress())
    show(_run_summary(result), result, as_json=as_json)
    if result.stopped == "interrupted":
        raise typer.Exit(130)
    refuse(result.best is None)


@app.command("show", epilog="Example: moonshine-tune ablate show ablation")
def show_trials(
    folder: _FolderArgument,
    objective: Annotated[
        list[str] | None, typer.Option(help="Draw the Pareto front over these; repeatable.")
    ] = None,
    storage: _StorageOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Show all trials, the Pareto front, and which settings mattered."""
    from moonshine_tune.ablation.results import show_ablation

    view = show_ablation(folder, storage=storage, objectives=objective or ())
    show(_view_summary(view), view, as_json=as_json)


@app.command(
    epilog="Example: moonshine-tune ablate choose ablation --max-canary 0.5 --max-latency 1.05"
)
def choose(
    folder: _FolderArgument,
    max_canary: Annotated[
        float | None, typer.Option(help="Points of WER that the canary may lose.")
    ] = None,
    max_seconds: Annotated[float | None, typer.Option(help="Seconds of training.")] = None,
    max_adapter_mb: Annotated[float | None, typer.Option(help="Size of the adapter, MB.")] = None,
    max_latency: Annotated[
        float | None,
        typer.Option(help="Latency of the exported files as a multiple of the base's; measured."),
    ] = None,
    out: Annotated[
        _OptionalPath, typer.Option(help="Settings file [default: chosen.yaml in the folder].")
    ] = None,
    storage: _StorageOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Choose a trial by what was measured; say why, and write its settings for `train --config`."""
    from moonshine_tune.ablation.results import Bounds
    from moonshine_tune.ablation.results import choose as run_choice

    bounds = Bounds(max_canary, max_seconds, max_adapter_mb, max_latency)
    chosen = run_choice(folder, bounds, out=out, storage=storage, progress=TerminalProgress())
    show(_choice_summary(chosen), chosen, as_json=as_json)


def _run_summary(result: "AblationResult") -> str:
    counts = ", ".join(f"{count} {state}" for state, count in sorted(result.counts.items()))
    lines = [f"{result.stopped}: {len(result.trials)} trials in {result.seconds:.0f} s: {counts}"]
    if result.stopped != "finished":
        lines.append(f"go on with: moonshine-tune ablate run --out {result.path}")
    if result.best is None:
        lines.append(f"no trial is finished; what happened: {result.path / 'logs'}")
    else:
        best = next(trial for trial in result.trials if trial.number == result.best)
        lines.append(f"best so far: trial {best.number}, {_figures(best.figures)}")
        lines.append(f"look at them:  moonshine-tune ablate show {result.path}")
        lines.append(f"choose one:    moonshine-tune ablate choose {result.path}")
    return "\n".join(lines)


def _view_summary(view: "AblationView") -> str:
    names = list(view.dimensions)
    headers = ["trial", "state", "dev WER", "canary", "latency", "adapter MB", "train s", *names]
    rows = []
    for trial in sorted(view.trials, key=_by_score):
        marks = ("*" if trial.number in view.front else "") + (
            " best" if trial.number == view.best else ""
        )
        start = " start" if trial.number == view.start else ""
        rows.append([f"{trial.number}{marks}{start}", trial.state, *_cells(trial),
                     *(_value(trial.params.get(name)) for name in names)])  # fmt: skip
    lines = [table(headers, rows), f"* on the Pareto front of {', '.join(view.objectives)}"]
    for objective, found in view.importances.items():
        lines.append(f"what the spread of {objective} comes from:")
        width = max(len(name) for name in found)
        for name, share in found.items():
            lines.append(f"  {name.ljust(width)}  {share:5.0%}  {'█' * round(share * _BAR)}")
    if not view.importances:
        lines.append("too few trials are finished to say which setting matters")
    remarks = [f"  trial {trial.number}: {trial.remark}" for trial in view.trials if trial.remark]
    return "\n".join(lines + (["remarks:", *remarks] if remarks else []))


def _by_score(trial: "TrialRecord") -> tuple[bool, float, int]:
    done = trial.state == "finished"
    return (not done, trial.figures["dev_wer"] if done else 0.0, trial.number)


def _cells(trial: "TrialRecord") -> list[str]:
    """The figures of a trial; a pruned one has only the dev WER at which it was stopped."""
    formats = (("dev_wer", "{:.2f}"), ("canary_loss", "{:+.2f}"), ("latency", "{:.2f}"),
               ("adapter_mb", "{:.2f}"), ("train_seconds", "{:.0f}"))  # fmt: skip
    cells = []
    for name, form in formats:
        figure = trial.figures.get(name)
        cells.append("-" if figure is None else form.format(figure))
    return cells


def _value(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "-" if value is None else str(value)


def _figures(figures: Mapping[str, Any]) -> str:
    loss = figures.get("canary_loss")
    canary = "" if loss is None else f", canary {loss:+.2f} points"
    return f"dev WER {figures['dev_wer']:.2f}{canary}"


def _choice_summary(chosen: "Chosen") -> str:
    params = ", ".join(f"{name}={_value(value)}" for name, value in chosen.params.items())
    return "\n".join(
        [
            f"trial {chosen.number}: {_figures(chosen.figures)}",
            f"  {params}",
            "because:",
            *(f"  - {reason}" for reason in chosen.reasons),
            f"its settings: {chosen.settings_file}",
            f"train it:     moonshine-tune train --config {chosen.settings_file} --out runs/chosen",
        ]
    )
