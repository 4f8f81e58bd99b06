"""The runs of a folder: listed, shown one by one, and cleaned away with care."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from operator import attrgetter
from pathlib import Path
from typing import Any

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import disk_errors
from moonshine_tune.core.locks import one_writer
from moonshine_tune.core.nested import flatten
from moonshine_tune.core.scratch import remove_leftovers
from moonshine_tune.metrics.wer import Score, summarize
from moonshine_tune.runs.folder import RunFolder
from moonshine_tune.runs.kept_adapter import altered_adapter
from moonshine_tune.runs.summary import (
    RunSummary,
    ScoreCurve,
    find_runs,
    is_run,
    read_run,
    read_scored,
    score_curve,
)

_FIGURES = {"wer": "dev_wer", "canary": "canary_wer", "seconds": "train_seconds"}
SORTS = (*_FIGURES, "created", "name")


@dataclass(frozen=True)
class RunDetails:
    """One run in full.

    Attributes:
        chosen: settings that are not at their defaults, each with its source.
        score: of the dev utterances with the chosen adapter; None where they were not kept.
    """

    summary: RunSummary
    base: Mapping[str, Any]
    data: Mapping[str, Any]
    chosen: Mapping[str, tuple[Any, str]]
    score: Score | None
    curve: ScoreCurve
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class Cleaning:
    """One run and what is done with it. `removed` is false in a dry run and where it failed."""

    run: RunSummary
    keep: bool
    reason: str
    removed: bool = False


def list_runs(
    folder: Path, *, sort: str = "wer", status: str | None = None, model: str | None = None
) -> tuple[RunSummary, ...]:
    """All runs at or below `folder`; those without the figure sorted by come last.

    Args:
        sort: `wer` and `canary` (lowest first), `created` (latest first), `seconds`, `name`.
        status, model: keep only the runs with these.

    Raises:
        RequestError: no such folder, or no such order.
    """
    if sort not in SORTS:
        raise RequestError(f"runs cannot be sorted by {sort!r}", hint=f"by {', '.join(SORTS)}")
    runs = [
        run
        for run in map(read_run, find_runs(folder))
        if status in (None, run.status) and model in (None, run.model)
    ]
    runs.sort(key=lambda run: str(run.path))
    if sort == "created":
        runs.sort(key=lambda run: run.created, reverse=True)
    elif sort in _FIGURES:
        figure = attrgetter(_FIGURES[sort])
        runs.sort(key=lambda run: inf if figure(run) is None else figure(run))
    return tuple(runs)


def show_run(path: Path) -> RunDetails:
    """One run with its settings, curve and scores.

    Raises:
        RequestError: it is not a run folder, or run.json is damaged.
    """
    summary, run = read_run(path), RunFolder(path)
    record = run.read_record()
    settings = dict(flatten(record.settings))
    score, problems = None, []
    try:
        score = summarize(read_scored(run.dev_hypotheses_path))
    except RequestError as error:
        problems.append(f"eval/dev.jsonl: {error.message}")
    if altered := altered_adapter(run.adapter_dir):
        problems.append(altered)
    return RunDetails(
        summary=summary,
        base=record.base.to_json(),
        data=record.data,
        chosen={key: (settings.get(key), source) for key, source in sorted(record.sources.items())},
        score=score,
        curve=score_curve(run),
        remarks=(*record.remarks, *problems),
    )


def clean_runs(folder: Path, *, keep: int, dry_run: bool) -> tuple[Cleaning, ...]:
    """Remove all but the best runs; returns for each what is done with it and why.

    Of the runs with the same dev data, scored with one normalizer, the `keep` finished ones with
    the lowest dev WER stay (those that hold the canary first), and every run that may still be
    running. Runs of other dev data or with another normalizer are not ranked against each other.

    Raises:
        RequestError: no such folder, it is a run itself, or `keep` is below 1.
    """
    if keep < 1:
        raise RequestError(f"--keep {keep} would remove the best run too", hint="keep at least 1")
    if is_run(folder):
        raise RequestError(
            "a run, not a folder of runs", where=folder, hint=f"name its parent: {folder.parent}"
        )
    runs = [read_run(path) for path in find_runs(folder)]
    ranks: dict[Path, int] = {}
    for scored_on in {run.scored_on for run in runs}:
        ranked = sorted(
            (
                run
                for run in runs
                if run.scored_on == scored_on and run.ended and run.dev_wer is not None
            ),
            key=lambda run: (run.canary_held is False, run.dev_wer, run.created),
        )
        ranks |= {run.path: rank for rank, run in enumerate(ranked[:keep], start=1)}
    return tuple(_clean(run, ranks.get(run.path), dry_run) for run in runs)


def clean_leftovers(folder: Path, *, dry_run: bool) -> tuple[Path, ...]:
    """Remove scratch files and locks of dead processes at or below `folder`; returns them."""
    parents = [Path(parent) for parent, _, _ in os.walk(folder)]
    return tuple(
        path for parent in sorted(parents) for path in remove_leftovers(parent, dry_run=dry_run)
    )


def _clean(run: RunSummary, rank: int | None, dry_run: bool) -> Cleaning:
    if rank is not None:
        return Cleaning(run, True, "the best of its dev data" if rank == 1 else f"rank {rank}")
    if run.live:
        return Cleaning(run, True, "it may still be running: files changed within a day")
    if run.ended:
        reason = "others are better on the same dev data"
    else:
        reason = f"not finished ({run.status}); it cannot be resumed after this"
    if dry_run:
        return Cleaning(run, False, reason)
    try:
        with one_writer(run.path), disk_errors(run.path):
            shutil.rmtree(run.path)
    except RequestError as error:
        return Cleaning(run, True, error.message)
    return Cleaning(run, False, reason, removed=True)
