"""Reads a folder that a job left behind, whole or torn: what is there is taken, the rest is named.

Kinds: a run, an evaluation, a benchmark, an ablation; a demonstration, which holds a run and
evaluations; a plan, which holds all of them.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from moonshine_tune.core.errors import RequestError
from moonshine_tune.metrics.wer import ScoredUtterance
from moonshine_tune.runs.folder import RunFolder

_HINT = "name a folder that train, evaluate, demo, ablate, benchmark or plan was given as --out"
_SETS = ("domain", "canary")
_MODELS = ("base", "adapted")
_BACKENDS = ("torch", "runtime")


@dataclass(frozen=True)
class EvaluationPart:
    """One evaluation folder.

    Attributes:
        set_name: what was heard: `domain`, `canary`, or the folder's name.
        model: `base`, `adapted`, or empty where the folder's name does not tell.
        backend: `torch`, `runtime`, or empty.
        result: content of result.json; empty where it is missing.
        scored: the utterances of hypotheses.jsonl; empty where it is missing.
    """

    set_name: str
    model: str
    backend: str
    result: Mapping[str, Any]
    scored: tuple[ScoredUtterance, ...]


@dataclass(frozen=True)
class RunPart:
    """One run folder; each part empty where its file is missing."""

    path: Path
    record: Mapping[str, Any]
    metrics: tuple[Mapping[str, Any], ...]
    selection: Mapping[str, Any]
    dev: tuple[ScoredUtterance, ...]


@dataclass(frozen=True)
class SearchPart:
    """The folder of an ablation: its own record, and its trials."""

    record: Mapping[str, Any]
    trials: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class ReportInput:
    """Everything that a report is made of.

    Attributes:
        kind: `plan`, `demo`, `run`, `ablation`, `benchmark` or `evaluation`.
        demo: content of demo.json, or of plan.json, which says more of the same.
        missing: one sentence for each part that is not there or cannot be read.
        others: further runs of a plan, by the phase that made them.
    """

    path: Path
    kind: str
    run: RunPart | None
    evaluations: tuple[EvaluationPart, ...]
    demo: Mapping[str, Any]
    missing: tuple[str, ...]
    search: SearchPart | None = None
    benchmark: Mapping[str, Any] = field(default_factory=dict)
    others: tuple[tuple[str, RunPart], ...] = ()


def read_report_input(path: Path) -> ReportInput:
    """Read what lies in a run, evaluation or demonstration folder.

    Raises:
        RequestError: there is no such folder, or nothing in it is known.
    """
    if not path.is_dir():
        what = "a file, not a folder" if path.exists() else "no such folder"
        raise RequestError(what, where=path, hint=_HINT)
    reader = Reader(path)
    kind = _kind_of(path)
    if kind == "plan":
        return read_plan_input(path, reader)
    search: SearchPart | None = None
    benchmark: Mapping[str, Any] = {}
    run: RunPart | None = None
    evaluations: tuple[EvaluationPart, ...] = ()
    demo: Mapping[str, Any] = {}
    if kind == "demo":
        demo = reader.record(path / "demo.json")
        if (path / "run").is_dir():
            run = reader.run(path / "run")
        else:
            reader.missing.append("run/ is not there: no curves and no settings")
        evaluations = reader.evaluations(path / "eval")
        reader.name_absent(evaluations)
    elif kind == "run":
        run = reader.run(path)
        evaluations = reader.evaluations(path / "eval")
    elif kind == "ablation":
        search = reader.search(path)
        run = best_run(path, search, reader)
    elif kind == "benchmark":
        benchmark = reader.record(path / "benchmark.json")
    else:
        evaluations = (reader.evaluation(path, path.resolve().name, "", ""),)
    return ReportInput(
        path, kind, run, evaluations, demo, tuple(reader.missing), search, benchmark
    )  # fmt: skip


def _kind_of(path: Path) -> str:
    if (path / "plan.json").exists() or (path / "phases").is_dir():
        return "plan"
    if (path / "ablation.json").exists() or (path / "trials.json").exists():
        return "ablation"
    if (path / "benchmark.json").exists():
        return "benchmark"
    if (path / "demo.json").exists() or _is_run(path / "run"):
        return "demo"
    if _is_run(path):
        return "run"
    if _is_evaluation(path):
        return "evaluation"
    if any(_is_evaluation(item) for item in path.glob("eval/*/")):
        return "demo"
    raise RequestError("nothing here to report on", where=path, hint=_HINT)


def _is_run(path: Path) -> bool:
    run = RunFolder(path)
    marks = (run.record_path, run.metrics_path, run.adapter_dir / "selection.json")
    return any(mark.exists() for mark in (*marks, run.dev_hypotheses_path))


def _is_evaluation(path: Path) -> bool:
    return (path / "result.json").exists() or (path / "hypotheses.jsonl").exists()


def number(value: object) -> float | None:
    """`value` where it is a finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if isfinite(value) else None
    except OverflowError:
        return None


def mapping(value: object) -> Mapping[str, Any]:
    """`value` where it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def sequence(value: object) -> list[Any]:
    """`value` where it is a JSON array, else an empty one."""
    return value if isinstance(value, list) else []


def best_run(path: Path, search: SearchPart, reader: "Reader") -> RunPart | None:
    """The run of the trial with the lowest dev WER among those that hold the canary."""
    done = [
        (not mapping(trial.get("figures")).get("canary_held", True), wer, place)
        for trial in search.trials
        if trial.get("state") == "finished"
        and (wer := number(mapping(trial.get("figures")).get("dev_wer"))) is not None
        and (place := number(trial.get("number"))) is not None
    ]
    for *_, place in sorted(done):
        folder = path / "trials" / f"{int(place):04d}"
        if folder.is_dir():
            return reader.run(folder)
    if done:
        reader.missing.append("trials/ holds no folder of a finished trial: no curves")
    return None


def read_plan_input(path: Path, reader: "Reader") -> ReportInput:
    """A plan: the run that is shipped with its evaluations, and what the other phases made."""
    plan = reader.record(path / "plan.json")
    phases = {
        name: mapping(body)
        for name, body in mapping(
            mapping(mapping(plan.get("plan")).get("settings")).get("phases")
        ).items()
    }
    places = sorted(item for item in (path / "phases").glob("*/") if item.is_dir())
    kinds = {item.name: str(phases.get(item.name, {}).get("kind", "")) for item in places}
    shipped = next((n for n, body in phases.items() if body.get("kind") == "ship"), None)
    runs = {item.name: item / "run" for item in places if _is_run(item / "run")}
    source = str(phases.get(shipped or "", {}).get("source") or next(iter(runs), ""))
    searches = [item / "search" for item in places if (item / "search").is_dir()]
    search = reader.search(searches[0]) if searches else None
    if source in runs:
        run: RunPart | None = reader.run(runs.pop(source))
    else:
        run = best_run(searches[0], search, reader) if searches and search else None
    evaluations = [
        part
        for name in (source, shipped)
        if name and (path / "phases" / name / "eval").is_dir()
        for part in reader.evaluations(path / "phases" / name / "eval")
    ]
    for item in places:
        if (item / "conditions" / "eval").is_dir():
            evaluations += reader.evaluations(item / "conditions" / "eval")
    bench = [item / "benchmark" / "benchmark.json" for item in places if kinds[item.name] == "ship"]
    benchmark = reader.record(bench[0]) if bench and bench[0].parent.is_dir() else {}
    others = tuple((name, reader.run(folder)) for name, folder in runs.items())
    return ReportInput(
        path=path,
        kind="plan",
        run=run,
        evaluations=tuple(evaluations),
        demo=plan,
        missing=tuple(reader.missing),  # last: every part above may name something
        search=search,
        benchmark=benchmark,
        others=others,
    )


class Reader:
    """Reads files below one folder and keeps a list of what could not be had."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._home = str(Path.home())
        self.missing: list[str] = []

    def run(self, path: Path) -> RunPart:
        run = RunFolder(path)
        return RunPart(
            path,
            self.record(run.record_path),
            tuple(self._lines(run.metrics_path, dict)),
            self.record(run.adapter_dir / "selection.json"),
            tuple(self._lines(run.dev_hypotheses_path, ScoredUtterance.from_record)),
        )

    def search(self, path: Path) -> SearchPart:
        """An ablation's record and its trials, from trials.json."""
        record = self.record(path / "ablation.json")
        trials: object = []
        text = self._text(path / "trials.json")
        try:
            trials = json.loads(text) if text is not None else []
        except (ValueError, RecursionError) as error:
            self.missing.append(
                f"{self._short(path / 'trials.json')} is torn or not JSON ({_brief(error)})"
            )
        return SearchPart(record, tuple(mapping(item) for item in sequence(trials)))

    def evaluations(self, folder: Path) -> tuple[EvaluationPart, ...]:
        """All evaluations in `eval/`; a demonstration names them `<set>-<model>-<backend>`."""
        found = []
        for path in sorted(folder.glob("*/")):
            set_name, model, backend = [*path.name.rsplit("-", 2), "", ""][:3]
            if _is_evaluation(path) and model in _MODELS and backend in _BACKENDS:
                found.append(self.evaluation(path, set_name, model, backend))
            elif _is_evaluation(path):
                found.append(self.evaluation(path, path.name, "", ""))
            else:
                self.missing.append(f"{self._short(path)}: no result.json, no hypotheses.jsonl")
        return tuple(found)

    def name_absent(self, found: tuple[EvaluationPart, ...]) -> None:
        """Name the evaluations that a whole demonstration has and this one has not."""
        if not found:
            self.missing.append("eval/ holds no evaluation: no headline table")
            return
        there = {(part.set_name, part.model, part.backend) for part in found}
        for wanted in ((s, m, b) for s in _SETS for m in _MODELS for b in _BACKENDS):
            folder = self._root / "eval" / "-".join(wanted)
            if wanted not in there and not folder.is_dir():
                self.missing.append(f"{self._short(folder)} is not there")

    def evaluation(self, path: Path, set_name: str, model: str, backend: str) -> EvaluationPart:
        result = self.record(path / "result.json")
        scored = tuple(self._lines(path / "hypotheses.jsonl", ScoredUtterance.from_record))
        return EvaluationPart(set_name, model, backend, result, scored)

    def record(self, path: Path) -> Mapping[str, Any]:
        """A JSON object; empty and named as missing where it cannot be had."""
        text = self._text(path)
        if text is None:
            return {}
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            self.missing.append(f"{self._short(path)} is torn or not JSON ({_brief(error)})")
            return {}
        if not isinstance(content, dict):
            self.missing.append(f"{self._short(path)} is not a JSON object")
            return {}
        return mapping(content)

    def _lines(self, path: Path, parse: Callable[[dict[str, Any]], Any]) -> list[Any]:
        """The whole lines of a JSON Lines file; what is wrong with the others is counted."""
        found, wrong = [], 0
        for line in (self._text(path) or "").split("\n"):
            if not line.strip():
                continue
            try:
                found.append(parse(json.loads(line)))
            except (ValueError, TypeError, KeyError, RecursionError):
                wrong += 1
        if wrong:
            self.missing.append(
                f"{self._short(path)}: kept {len(found)} of {len(found) + wrong} lines, the others "
                "are torn or lack a field"
            )
        return found

    def _text(self, path: Path) -> str | None:
        try:
            # Reports are shared: the home folder, which names a person, is written as ~.
            text = path.read_text(encoding="utf-8", errors="replace")
            return text.replace(f"{self._home}/", "~/") if len(self._home) > 1 else text
        except FileNotFoundError:
            self.missing.append(f"{self._short(path)} is not there")
        except OSError as error:
            self.missing.append(f"{self._short(path)} cannot be read ({error.strerror})")
        return None

    def _short(self, path: Path) -> str:
        return str(path.relative_to(self._root))


def _brief(error: Exception) -> str:
    return error.msg if isinstance(error, json.JSONDecodeError) else type(error).__name__
