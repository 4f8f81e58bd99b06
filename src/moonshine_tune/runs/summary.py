"""Run folders read back, complete or damaged: their settings, how they ended, their scores."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from platform import node
from typing import Any

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import read_json, read_lines
from moonshine_tune.core.json_text import parse_json_object
from moonshine_tune.core.locks import last_writer, writer_of
from moonshine_tune.core.nested import flatten
from moonshine_tune.metrics.wer import ScoredUtterance
from moonshine_tune.runs.folder import RunFolder, status_now
from moonshine_tune.runs.records import BETTER, RunRecord, SelectionRecord

# For a run without a lock: of an earlier version, or of a machine whose locks are not visible here.
# A live run writes each step. The price of a long time: a dead run is kept for so long.
_QUIET_S = 24 * 3600
SEARCH_LOCK = Path("locks/search.lock")
"""Held below the folder of a search by each process that works on it."""

ENDED = ("finished", "early stop")

# (step, dev WER, canary WER or None) of each score during a run.
ScoreCurve = tuple[tuple[int, float, float | None], ...]


@dataclass(frozen=True)
class RunSummary:
    """One run in a line. WER in percent, sizes in MB, times in seconds; None where unknown.

    Attributes:
        status: `finished`, `early stop`, `interrupted`, `pruned`, `failed`, `running`, `stopped`
            (marked as running, but no process works in the folder) or `torn` (run.json is
            unreadable).
        live: whether it may still be running.
        dev_data: fingerprint of the dev manifest.
        scored_on: the dev set and the normalizer of its scores; only runs with the same can be
            ranked.
        verdict: on the adapter that was kept; empty where there is none.
        voices: whose voices the dev WER is for, in a sentence; empty for voices that train has not.
        canary_name: `canary (librispeech_other, 50 clips)`.
        replay: the general speech that was replayed, in a sentence; empty where it is not recorded.
    """

    path: Path
    status: str
    live: bool
    model: str
    created: str
    steps: int | None
    base_dev_wer: float | None
    dev_wer: float | None
    base_canary_wer: float | None
    canary_wer: float | None
    canary_held: bool | None
    train_seconds: float | None
    size_mb: float
    dev_data: str | None
    remark: str = ""
    scored_on: str = ""
    verdict: str = ""
    voices: str = ""
    canary_name: str = "canary"
    replay: str = ""

    @property
    def ended(self) -> bool:
        """Whether training ran to its end."""
        return self.status in ENDED


def is_run(path: Path) -> bool:
    """Whether `path` is a run folder (and not a package, which has a copy of run.json)."""
    run = RunFolder(path)
    if not run.record_path.is_file():
        return False
    if run.metrics_path.is_file():
        return True
    return not (path / "runtime").exists() and not (path / "manifests.json").exists()


def find_runs(folder: Path) -> tuple[Path, ...]:
    """All run folders at or below `folder`, by path; links are not followed.

    Raises:
        RequestError: there is no such folder.
    """
    if not folder.is_dir():
        raise RequestError(
            "a file, not a folder" if folder.exists() else "no such folder",
            where=folder,
            hint="name a folder that holds runs",
        )
    return tuple(sorted(_walk(folder)))


def _walk(folder: Path) -> Iterator[Path]:
    for path, names, _ in os.walk(folder):
        if is_run(Path(path)):
            names.clear()
            yield Path(path)
        names[:] = [name for name in names if not name.startswith(".")]


def read_run(path: Path) -> RunSummary:
    """The summary of one run folder; one with an unreadable run.json has the status `torn`.

    Raises:
        RequestError: it is not a run folder.
    """
    run = RunFolder.open(path)
    if not is_run(path):
        raise RequestError("not a run folder", where=path, hint="name a folder that train made")
    record, problem = RunRecord(), ""
    wrong: tuple[str, ...] = ()
    try:
        record, wrong = RunRecord.salvage(read_json(run.record_path))
        if "settings" not in record.model_fields_set:
            record, problem = RunRecord(), "run.json has no settings"
    except RequestError as error:
        problem = error.message
    size, changed = _size_and_change(path)
    recent = time.time() - changed < _QUIET_S
    status = "torn" if problem else status_now(path, record.status) or "?"
    writer, last = writer_of(path), last_writer(path)
    is_dead = writer is None and last is not None and last.host == node()
    base, best = _scores(run, record)
    result = record.result
    verdict = "" if result.is_empty else result.judged
    return RunSummary(
        path=path,
        status=status,
        live=writer is not None
        or (recent and not is_dead and (status == "torn" or record.status == "running")),
        model=str(record.settings.get("model", "?")),
        created=record.created,
        steps=_last_step(run)
        if result.steps is None or record.status == "running"
        else result.steps,
        base_dev_wer=base.dev_wer,
        dev_wer=best.dev_wer,
        base_canary_wer=base.canary_wer,
        canary_wer=best.canary_wer,
        canary_held=result.canary_held,
        train_seconds=result.train_seconds,
        size_mb=round(size / 1e6, 1),
        dev_data=record.data.get("dev"),
        remark=problem or record.error or "; ".join([*wrong, *_warnings(verdict)]),
        scored_on=_scored_on(record),
        verdict=verdict,
        voices=record.dev_voices,
        canary_name=best.canary_name,
        replay=record.replay.sentence if record.replay else "",
    )


def _warnings(verdict: str) -> list[str]:
    return [] if verdict in ("", BETTER) else [verdict]


def _scored_on(record: RunRecord) -> str:
    """What the dev WER of a run depends on besides the adapter, as one text."""
    settings = dict(flatten(record.settings))
    names = ["data.max_clip_s", "select.max_dev_utterances"]
    manifest = record.data.get("dev")
    if manifest is None:
        manifest = record.data.get("train")
        names += ["data.dev_share", "train.seed"]
    values = (f"{name}={settings[name]}" for name in names if name in settings)
    return " ".join([str(record.normalizer), str(manifest), *values])


def read_scored(path: Path) -> tuple[ScoredUtterance, ...]:
    """The utterances of a `hypotheses.jsonl` or `eval/dev.jsonl`.

    Raises:
        RequestError: it is missing, or a line is damaged.
    """
    scored = []
    for number, line in enumerate(read_lines(path), start=1):
        if not line:
            continue
        try:
            scored.append(ScoredUtterance.from_record(parse_json_object(line)))
        except (ValueError, KeyError, TypeError) as error:
            raise RequestError("not a scored utterance", where=path, line=number) from error
    return tuple(scored)


def _scores(run: RunFolder, record: RunRecord) -> tuple[SelectionRecord, SelectionRecord]:
    """Scores of the base and of the best adapter; of a run without a result, the best so far."""
    if not record.result.is_empty:
        return record.result.baseline, record.result.best
    base = best = SelectionRecord()
    for score in run.read_scores():
        if score.step == 0:
            base = score if base.is_empty else base
        elif best.is_empty or (score.dev_wer or 0.0) < (best.dev_wer or 0.0):
            best = score
    return base, best


def score_curve(run: RunFolder) -> ScoreCurve:
    """The scores during the run, in the order in which they were logged."""
    return tuple(
        (score.step or 0, score.dev_wer or 0.0, score.canary_wer) for score in run.read_scores()
    )


def _last_step(run: RunFolder) -> int | None:
    steps: list[Any] = [line.get("step") for line in run.read_metrics()]
    return max((step for step in steps if isinstance(step, int)), default=None)


def _size_and_change(path: Path) -> tuple[int, float]:
    """Bytes of all files, and when the latest of them was written."""
    size, changed = 0, path.stat().st_mtime
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                stat = (Path(folder) / name).lstat()
            except OSError:
                # A live run replaces its files.
                continue
            size += stat.st_size
            changed = max(changed, stat.st_mtime)
    return size, changed
