"""`moonshine-tune ablate run | show | choose`."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from moonshine_tune.cli.console import JsonFlag, TerminalProgress, number, refuse, show, table
from moonshine_tune.cli.help import CommandGroup
from moonshine_tune.cli.options import OutFolder
from moonshine_tune.core.text import quoted

if TYPE_CHECKING:
    from moonshine_tune.ablation.results import AblationView, Chosen
    from moonshine_tune.ablation.run import AblationResult
    from moonshine_tune.ablation.study import TrialSummary

app = typer.Typer(
    cls=CommandGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Search settings: run trials, compare them, choose one by what was measured.",
)

_Text = str | None
_Texts = list[str] | None
_Whole = int | None
_Number = float | None
_File = Path | None
_Storage = Annotated[
    _Text, Option(help="Database URL for many machines: postgresql+psycopg://user@host/name.")
]
_FolderArgument = Annotated[Path, Argument(help="Folder of `ablate run`.")]
_BAR = 24
# Key, head and format of the figures in the table.
_COLUMNS = (("dev_wer", "dev WER", ".2f"), ("canary_loss", "canary", "+.2f"),
            ("latency", "latency", ".2f"), ("adapter_mb", "adapter MB", ".2f"),
            ("train_seconds", "train s", ".0f"))  # fmt: skip


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
        _Text, Option(help="YAML file, or a shipped space: quick, adapter, rates, forgetting.")
    ] = None,
    train: Annotated[_File, Option(help="Training manifest.")] = None,
    dev: Annotated[_File, Option(help="Development manifest; never a test.")] = None,
    canary: Annotated[_File, Option(help="General speech; shows what gets worse on it.")] = None,
    replay: Annotated[
        _Text, Option(help="General speech against forgetting; as of `train`.")
    ] = None,
    model: Annotated[_Text, Option(help="Catalog name, hub id or folder.")] = None,
    preset: Annotated[_Text, Option(help="A shipped preset under the search.")] = None,
    config: Annotated[_File, Option(help="YAML settings under the search.")] = None,
    assignments: Annotated[
        _Texts, Option("--set", help="One setting, repeatable: train.batch_size=4.")
    ] = None,
    trials: Annotated[
        _Whole, Option(help="Trials in all [default: the whole grid, else 20 or by --minutes].")
    ] = None,
    minutes: Annotated[_Number, Option(help="Start no trial after this time.")] = None,
    steps: Annotated[_Whole, Option(help="Training steps of each trial.")] = None,
    workers: Annotated[int, Option(min=1, help="Trials at a time.")] = 1,
    sampler: Annotated[_Text, Option(help="tpe, random or grid [default: tpe].")] = None,
    prune: Annotated[_Text, Option(help="median: stop trials worse than the median.")] = None,
    objective: Annotated[
        _Texts,
        Option(
            help="dev_wer [default], canary_loss, latency, adapter_mb, train_seconds; repeatable."
        ),
    ] = None,
    seed: Annotated[_Whole, Option(help="Seed of the search [default: 0].")] = None,
    storage: _Storage = None,
    study: Annotated[_Text, Option(help="Name in the database [default: from the data].")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Run trials over a search space. The same command, or --out alone, continues the search.

    Each trial is a run folder in OUT/trials. One that crashes or runs out of memory is recorded and
    the search continues. Test data is never opened.
    """
    from moonshine_tune.ablation.request import AblateRequest
    from moonshine_tune.ablation.run import run_ablation
    from moonshine_tune.ablation.space import read_space
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
    objective: Annotated[_Texts, Option(help="Pareto front over these; repeatable.")] = None,
    storage: _Storage = None,
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
    max_canary: Annotated[_Number, Option(help="Points of WER the canary may lose.")] = None,
    max_seconds: Annotated[_Number, Option(help="Seconds of training.")] = None,
    max_adapter_mb: Annotated[_Number, Option(help="Size of the adapter, MB.")] = None,
    max_latency: Annotated[_Number, Option(help="Exported files' latency over the base's.")] = None,
    out: Annotated[
        _File, Option(dir_okay=False, help="Settings file [default: FOLDER/chosen.yaml].")
    ] = None,
    storage: _Storage = None,
    as_json: JsonFlag = False,
) -> None:
    """Choose a trial by what was measured; say why, and write its settings for `train --config`."""
    from moonshine_tune.ablation.results import Bounds
    from moonshine_tune.ablation.results import choose as choose_trial

    bounds = Bounds(max_canary, max_seconds, max_adapter_mb, max_latency)
    chosen = choose_trial(folder, bounds, out=out, storage=storage, progress=TerminalProgress())
    show(_choice_summary(chosen), chosen, as_json=as_json)


def _run_summary(result: "AblationResult") -> str:
    from moonshine_tune.ablation.run import shown_figures

    counts = ", ".join(f"{count} {state}" for state, count in sorted(result.counts.items()))
    lines = [f"{result.stopped}: {len(result.trials)} trials in {result.seconds:.0f} s: {counts}"]
    if result.stopped != "finished":
        lines.append(f"continue with: moonshine-tune ablate run --out {quoted(result.path)}")
    if result.counts.get("running"):
        lines.append("other workers run trials; the next `ablate run` takes up those that died")
    best = next((trial for trial in result.trials if trial.number == result.best), None)
    if best is None:
        lines.append(f"no trial is finished; the logs: {result.path / 'logs'}")
    else:
        lines.append(f"best so far: trial {best.number}, {shown_figures(best.figures)}")
        lines.append(f"show all:    moonshine-tune ablate show {quoted(result.path)}")
        lines.append(f"choose one:  moonshine-tune ablate choose {quoted(result.path)}")
    return "\n".join(lines)


def _view_summary(view: "AblationView") -> str:
    rows = [_row(view, trial) for trial in sorted(view.trials, key=_by_score)]
    heads = ["trial", "state", *(head for _, head, _ in _COLUMNS), *view.dimensions]
    lines = [table(heads, rows), f"* on the Pareto front of {', '.join(view.objectives)}"]
    for objective, shares in view.importances.items():
        lines.append(f"what explains the spread of {objective}:")
        width = max(len(name) for name in shares)
        for name, share in shares.items():
            lines.append(f"  {name.ljust(width)}  {share:5.0%}  {'█' * round(share * _BAR)}")
    if not view.importances:
        lines.append("too few trials are finished to say which setting matters")
    remarks = [f"  trial {trial.number}: {trial.remark}" for trial in view.trials if trial.remark]
    return "\n".join(lines + (["remarks:", *remarks] if remarks else []))


def _by_score(trial: "TrialSummary") -> float:
    """Finished trials first, by dev WER; the others in their order."""
    return float(trial.figures["dev_wer"]) if trial.state == "finished" else math.inf


def _row(view: "AblationView", trial: "TrialSummary") -> list[str]:
    """A trial in the table; a pruned one has only the dev WER at which it was stopped."""
    from moonshine_tune.ablation.run import shown_value

    front = "*" * (trial.number in view.front)
    marks = " best" * (trial.number == view.best) + " start" * (trial.number == view.start)
    params = [trial.params.get(name) for name in view.dimensions]
    cells = [number(trial.figures.get(key), form) for key, _, form in _COLUMNS]
    cells += ["-" if value is None else shown_value(value) for value in params]
    return [f"{trial.number}{front}{marks}", trial.state, *cells]


def _choice_summary(chosen: "Chosen") -> str:
    from moonshine_tune.ablation.run import shown_figures, shown_params

    lines = [
        f"trial {chosen.number}: {shown_figures(chosen.figures)}",
        f"  {shown_params(chosen.params)}",
        "because:",
        *(f"  - {reason}" for reason in chosen.reasons),
        f"its settings: {chosen.settings_file}",
        f"train it: moonshine-tune train --config {quoted(chosen.settings_file)} --out runs/chosen",
    ]
    return "\n".join(lines)
