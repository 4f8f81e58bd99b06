"""Run folders read back, whole or torn: what each was given, how it ended, what it heard."""

import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moonshine_tune.core.errors import RequestError, TuneError
from moonshine_tune.metrics.wer import ScoredUtterance
from moonshine_tune.runs.folder import RunFolder

# A live run writes each step. The price of a long time: a run that was killed counts as running
# for so long. Of a short one: a run on a laptop that sleeps is taken for dead, and cleaned away.
_QUIET_S = 24 * 3600
_ENDED = ("finished", "early stop")


@dataclass(frozen=True)
class RunSummary:
    """One run in a line. WER in percent, sizes in MB, times in seconds; None where unknown.

    Attributes:
        status: `finished`, `early stop`, `interrupted`, `pruned`, `failed`, `running`, `stopped`
            (it says running and has written nothing for a day) or `torn` (run.json is unreadable).
        live: whether it may still be at work.
        dev_data: fingerprint of the dev manifest; only runs with the same one can be ranked.
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

    @property
    def ended(self) -> bool:
        """Whether training ran to its end."""
        return self.status in _ENDED


def is_run(path: Path) -> bool:
    """Whether `path` is a run folder (and not a package, which carries a copy of run.json)."""
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
    for place, names, _ in os.walk(folder):
        if is_run(Path(place)):
            names.clear()
            yield Path(place)
        names[:] = [name for name in names if not name.startswith(".")]


def read_run(path: Path) -> RunSummary:
    """The summary of one run folder; a torn one has the status `torn`.

    Raises:
        RequestError: it is not a run folder.
    """
    run = RunFolder.open(path)
    if not is_run(path):
        raise RequestError("not a run folder", where=path, hint="name a folder that train made")
    try:
        record: Mapping[str, Any] = run.read_record()
        problem = ""
    except TuneError as error:
        record, problem = {}, error.message
    if not problem and not isinstance(record.get("settings"), dict):
        record, problem = {}, "run.json has no settings"
    size, changed = _size_and_change(path)
    status, live = _status(record, problem, changed)
    result = _mapping(record.get("result"))
    base, best = _scores(run, result)
    return RunSummary(
        path=path,
        status=status,
        live=live,
        model=str(_mapping(record.get("settings")).get("model", "?")),
        created=str(record.get("created", "")),
        steps=_whole(result.get("steps")) if result else _last_step(run),
        base_dev_wer=_number(base.get("dev_wer")),
        dev_wer=_number(best.get("dev_wer")),
        base_canary_wer=_number(base.get("canary_wer")),
        canary_wer=_number(best.get("canary_wer")),
        canary_held=result.get("canary_held") if result else None,
        train_seconds=_number(result.get("train_seconds")),
        size_mb=round(size / 1e6, 1),
        dev_data=_mapping(record.get("data")).get("dev"),
        remark=problem or str(record.get("error", "")),
    )


def read_scored(path: Path) -> tuple[ScoredUtterance, ...]:
    """The utterances of a `hypotheses.jsonl` or `eval/dev.jsonl`.

    Raises:
        RequestError: it is missing, or a line is torn.
    """
    if not path.is_file():
        raise RequestError("not there", where=path)
    found = []
    for place, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            found.append(ScoredUtterance.from_record(json.loads(line)))
        except (ValueError, KeyError, TypeError) as error:
            raise RequestError("not a scored utterance", where=path, line=place) from error
    return tuple(found)


def _status(record: Mapping[str, Any], problem: str, changed: float) -> tuple[str, bool]:
    if problem:
        return "torn", time.time() - changed < _QUIET_S
    status = str(record.get("status", "?"))
    if status != "running":
        return status, False
    live = time.time() - changed < _QUIET_S
    return ("running", True) if live else ("stopped", False)


def _scores(
    run: RunFolder, result: Mapping[str, Any]
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Scores of the base and of the best adapter; of a run without a result, the best so far."""
    if result:
        return _mapping(result.get("baseline")), _mapping(result.get("best"))
    scores = [line for line in run.read_metrics() if _number(line.get("dev_wer")) is not None]
    base = next((line for line in scores if line.get("step") == 0), {})
    later = [line for line in scores if line.get("step", 0) > 0]
    return base, min(later, key=lambda line: float(line["dev_wer"]), default={})


def _last_step(run: RunFolder) -> int | None:
    return max((_whole(line.get("step")) or 0 for line in run.read_metrics()), default=None)


def _size_and_change(path: Path) -> tuple[int, float]:
    """Bytes of all files, and when the latest of them was written."""
    size, changed = 0, path.stat().st_mtime
    for place, _, names in os.walk(path):
        for name in names:
            try:
                found = (Path(place) / name).lstat()
            except OSError:
                # A live run replaces its files.
                continue
            size += found.st_size
            changed = max(changed, found.st_mtime)
    return size, changed


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value)


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
