"""`moonshine-tune runs list | show | compare | clean`, and `compare` by itself."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from moonshine_tune.cli.console import (
    JsonFlag,
    TerminalProgress,
    change_text,
    number,
    say,
    show,
    table,
    with_interval,
)
from moonshine_tune.cli.help import CommandGroup
from moonshine_tune.cli.live_view import sparkline
from moonshine_tune.core.errors import RequestError

if TYPE_CHECKING:
    from moonshine_tune.metrics.wer import Score
    from moonshine_tune.runs.compare import RunPair, RunsComparison
    from moonshine_tune.runs.manage import Cleaning, RunDetails
    from moonshine_tune.runs.summary import RunSummary, ScoreCurve

app = typer.Typer(
    cls=CommandGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="List, show, compare and clean runs.",
)

_RUNS_FOLDER = Path("runs")


def register(root: typer.Typer) -> None:
    """Add the commands."""
    root.add_typer(app, name="runs")
    root.command("compare", epilog="Example: moonshine-tune compare runs/a runs/b")(compare)


@app.command("list", epilog="Example: moonshine-tune runs list runs --sort wer --status finished")
def list_(
    folder: Annotated[Path, Argument(help="Folder that holds runs.")] = _RUNS_FOLDER,
    sort: Annotated[str, Option(help="wer, canary, created, seconds or name.")] = "wer",
    status: Annotated[str | None, Option(help="Only runs with this status.")] = None,
    model: Annotated[str | None, Option(help="Only runs of this model.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """List all runs at or below a folder, the lowest dev WER first."""
    from moonshine_tune.runs.cached_results import cached_results
    from moonshine_tune.runs.manage import list_runs

    runs = list_runs(folder, sort=sort, status=status, model=model)
    if kept := sum(cached_results().values()):
        say(f"the cache has {kept / 1e6:.1f} MB for later runs: moonshine-tune runs clean --cache")
    show(_list_summary(folder, runs), runs, as_json=as_json)


@app.command("show", epilog="Example: moonshine-tune runs show runs/a")
def show_(run: Annotated[Path, Argument(help="Run folder.")], as_json: JsonFlag = False) -> None:
    """Show one run: settings with their sources, scores, curve."""
    from moonshine_tune.runs.manage import show_run

    details = show_run(run)
    show(_details(details), details, as_json=as_json)


@app.command("compare", epilog="Example: moonshine-tune runs compare runs/a runs/b")
def compare(
    runs: Annotated[list[Path], Argument(help="Run folders, two or more.")],
    changed: Annotated[int, Option(min=0, help="Changed utterances to print for each pair.")] = 5,
    as_json: JsonFlag = False,
) -> None:
    """Compare runs: settings that differ, scores with intervals, what got better and worse."""
    from moonshine_tune.runs.compare import compare_runs

    result = compare_runs(runs, TerminalProgress())
    show(_comparison(result, changed), result, as_json=as_json)


@app.command(epilog="Example: moonshine-tune runs clean runs --keep 5 --dry-run")
def clean(
    folder: Annotated[Path | None, Argument(help="Folder that holds runs.")] = None,
    keep: Annotated[
        int | None, Option(help="Best runs to keep of each dev set; at least 1.")
    ] = None,
    cache: Annotated[
        bool,
        Option("--cache", help="Remove what runs keep in the cache: encoder states, base texts."),
    ] = False,
    dry_run: Annotated[
        bool, Option("--dry-run", help="Show what would be removed, and remove nothing.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Remove all runs but the best. One that may still be running is kept.

    With --cache, remove what runs keep for later ones, which then compute it again; models stay.
    """
    if cache:
        _clean_cache(folder, keep, dry_run=dry_run, as_json=as_json)
        return
    if folder is None or keep is None:
        raise RequestError(
            "no folder of runs and no number to keep",
            hint="moonshine-tune runs clean runs --keep 5 --dry-run; or --cache for the cache",
        )
    from moonshine_tune.runs.manage import clean_leftovers, clean_runs

    cleaned = clean_runs(folder, keep=keep, dry_run=dry_run)
    for path in clean_leftovers(folder, dry_run=dry_run):
        say(f"{'would remove' if dry_run else 'removed'}, left by a dead process: {path}")
    show(_cleaned(cleaned, dry_run), cleaned, as_json=as_json)


def _clean_cache(folder: Path | None, keep: int | None, *, dry_run: bool, as_json: bool) -> None:
    if folder is not None or keep is not None:
        raise RequestError(
            "--cache is for the cache alone",
            hint="clean the runs by themselves: leave out --cache",
        )
    from moonshine_tune.runs.cached_results import remove_cached_results

    removed = remove_cached_results(dry_run=dry_run)
    verb = "would remove" if dry_run else "removed"
    lines = [f"{verb}: {kind}, {size / 1e6:.1f} MB" for kind, size in removed.items()]
    document = {"bytes": removed, "removed": not dry_run}
    show("\n".join(lines) or "the cache has no results of runs", document, as_json=as_json)


def _list_summary(folder: Path, runs: "tuple[RunSummary, ...]") -> str:
    if not runs:
        return f"no runs in {folder}"
    rows = [
        [
            _below(run.path, folder),
            run.status,
            run.model,
            number(run.base_dev_wer),
            number(run.dev_wer),
            number(run.canary_wer),
            number(run.steps, "d"),
            number(run.train_seconds, ".0f"),
            f"{run.size_mb:.1f}",
            run.created[:16].replace("T", " "),
        ]
        for run in runs
    ]
    headers = ["run", "status", "model", "base WER", "dev WER", "canary", "steps", "train s", "MB",
               "created"]  # fmt: skip
    lines = [table(headers, rows)]
    lines += [f"{_below(run.path, folder)}: {run.remark}" for run in runs if run.remark]
    if len({run.scored_on for run in runs if run.dev_wer is not None}) > 1:
        lines.append(
            "not all runs are scored on the same dev data with one normalizer: their WERs cannot "
            "be compared"
        )
    return "\n".join(lines)


def _below(path: Path, folder: Path) -> str:
    return path.name if path == folder else str(path.relative_to(folder))


def _details(details: "RunDetails") -> str:
    run = details.summary
    lines = [
        f"{run.path}: {run.status}, {run.model}, {run.steps or 0} steps, {run.size_mb:.1f} MB",
        f"dev WER {number(run.base_dev_wer)} → {number(run.dev_wer)}, "
        f"{run.canary_name} {number(run.base_canary_wer)} → {number(run.canary_wer)}",
        *([f"dev WER is {run.voices}"] if run.voices else []),
        *([f"replayed: {run.replay}"] if run.replay else []),
    ]
    if details.score:
        lines.append(f"dev: {_score(details.score)}")
    if details.curve:
        lines.append(f"dev WER by step: {_curve(details.curve)}")
    if details.chosen:
        rows = [[key, str(value), source] for key, (value, source) in details.chosen.items()]
        lines.append(table(["setting", "value", "from"], rows))
    lines += [f"{name}: sha256 {str(digest)[:12]}" for name, digest in details.data.items()]
    lines += [run.remark] if run.remark else []
    return "\n".join([*lines, *details.remarks])


def _score(score: "Score | None", recorded: float | None = None) -> str:
    if score is None:
        return number(recorded)
    return f"{with_interval(score.wer, score.ci95)} on {score.utterances} utterances"


def _curve(curve: "ScoreCurve") -> str:
    if not curve:
        return "-"
    values = [wer for _, wer, _ in curve]
    return f"{sparkline(values)} {values[0]:.1f} → {values[-1]:.1f}"


def _comparison(result: "RunsComparison", changed: int) -> str:
    rows = [
        [
            run.name,
            run.summary.status,
            _score(run.scores.get("dev"), run.summary.dev_wer),
            _score(run.scores.get("canary"), run.summary.canary_wer),
            _curve(run.curve),
        ]
        for run in result.runs
    ]
    lines = [table(["run", "status", "dev WER", "canary WER", "dev WER by step"], rows), ""]
    if result.differing:
        names = [run.name for run in result.runs]
        differing = [
            [key, *("-" if value is None else str(value) for value in values)]
            for key, values in result.differing.items()
        ]
        lines.append(table(["differs", *names], differing))
    else:
        lines.append("no setting differs")
    for pair in result.pairs:
        lines += ["", *_pair(pair, changed)]
    if result.remarks:
        lines += ["", *(f"note: {remark}" for remark in result.remarks)]
    return "\n".join(lines)


def _pair(pair: "RunPair", changed: int) -> list[str]:
    change = pair.comparison
    lines = [
        f"{pair.which}, {pair.before} → {pair.after}, {pair.utterances} utterances: "
        f"{change.before:.2f} → {change.after:.2f}, {change_text(change)}",
        f"  {len(pair.better)} utterances better, {len(pair.worse)} worse",
    ]
    for title, items in (("better", pair.better), ("worse", pair.worse)):
        for item in items[:changed]:
            lines += [
                f"  {title}: {item.id}, {item.errors_before} → {item.errors_after} errors",
                f"    reference: {item.reference}",
                f"    before:    {item.before}",
                f"    after:     {item.after}",
            ]
    return lines


def _cleaned(cleaned: "tuple[Cleaning, ...]", dry_run: bool) -> str:
    if not cleaned:
        return "no runs here"
    verb = "would remove" if dry_run else "removed"
    lines = [
        f"{'keep' if item.keep else verb}: {item.run.path} (dev WER "
        f"{number(item.run.dev_wer)}): {item.reason}"
        for item in cleaned
    ]
    gone = [item for item in cleaned if not item.keep]
    size = sum(item.run.size_mb for item in gone)
    lines.append(f"{verb} {len(gone)} of {len(cleaned)} runs, {size:.1f} MB")
    return "\n".join(lines)
