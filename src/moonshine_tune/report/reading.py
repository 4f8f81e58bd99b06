"""Reads the folder of a command, complete or damaged: takes what is there, names the rest.

Kinds: a run, an evaluation, a benchmark, an ablation, a curve; a demonstration, which holds a run
and evaluations; a plan, which holds all of them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from moonshine_tune.core.bounded_files import read_bounded
from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.json_text import JsonError, parse_json, parse_json_object
from moonshine_tune.core.locks import is_anyone_working, writer_of
from moonshine_tune.core.nested import flatten
from moonshine_tune.core.secrets import mask_values
from moonshine_tune.metrics.wer import ScoredUtterance
from moonshine_tune.runs.folder import RunFolder, status_now
from moonshine_tune.runs.kept_adapter import adapter_checksums, altered_adapter
from moonshine_tune.runs.records import (
    AblationRecord,
    BenchmarkRecord,
    CurveRecord,
    EvaluationRecord,
    PhaseSummary,
    PlanRecord,
    Record,
    RunRecord,
    SelectionRecord,
    TrialRecord,
    rank_trials,
)
from moonshine_tune.runs.summary import SEARCH_LOCK

_HINT = (
    "name a folder that train, evaluate, demo, ablate, curve, benchmark or plan was given as --out"
)
_SETS = ("domain", "canary")
_MODELS = ("base", "adapted")
_BACKENDS = ("torch", "runtime")

# Hypotheses of 100,000 utterances are 30 MB.
_MAX_BYTES = 256_000_000
_NO_SUMMARY = PlanRecord()

_Record = TypeVar("_Record", bound=Record)
_Json = TypeVar("_Json", dict[str, Any], list[Any])
_Line = TypeVar("_Line")


@dataclass(frozen=True)
class EvaluationPart:
    """One evaluation folder.

    Attributes:
        set_name: what was scored: `domain`, `canary`, or the folder's name.
        model: `base`, `adapted`, or empty where the folder's name does not tell.
        backend: `torch`, `runtime`, or empty.
        result: of result.json; empty where it is missing.
        scored: the utterances of hypotheses.jsonl; empty where it is missing.
        folder: its name.
    """

    set_name: str
    model: str
    backend: str
    result: EvaluationRecord
    scored: tuple[ScoredUtterance, ...]
    folder: str = ""


@dataclass(frozen=True)
class RunPart:
    """One run folder; each part empty where its file is missing."""

    path: Path
    record: RunRecord
    metrics: tuple[Mapping[str, Any], ...]
    selection: SelectionRecord
    dev: tuple[ScoredUtterance, ...]

    def setting(self, name: str) -> object:
        """The value of a setting by its dotted name, of whatever type it is; None without one."""
        return dict(flatten(self.record.settings)).get(name)


@dataclass(frozen=True)
class SearchPart:
    """The folder of an ablation: its own record, and its trials."""

    record: AblationRecord
    trials: tuple[TrialRecord, ...]


@dataclass(frozen=True)
class ReportInput:
    """Everything that a report is made of.

    Attributes:
        kind: `plan`, `demo`, `run`, `ablation`, `curve`, `benchmark` or `evaluation`.
        summary: plan.json, or demo.json, which has a part of its keys.
        missing: one sentence for each part that is not there or cannot be read.
        others: further runs of a plan, by the phase that made them.
    """

    path: Path
    kind: str
    run: RunPart | None = None
    evaluations: tuple[EvaluationPart, ...] = ()
    summary: PlanRecord = _NO_SUMMARY
    search: SearchPart | None = None
    benchmark: BenchmarkRecord | None = None
    curve: CurveRecord | None = None
    others: tuple[tuple[str, RunPart], ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def run_alone(self) -> RunPart | None:
        """The run of a folder that is about nothing else."""
        return self.run if self.kind in ("run", "ablation") else None


def read_report_input(path: Path) -> ReportInput:
    """Read the folder of a command.

    Raises:
        RequestError: there is no such folder, or nothing in it is known.
    """
    if not path.is_dir():
        what = "a file, not a folder" if path.exists() else "no such folder"
        raise RequestError(what, where=path, hint=_HINT)
    reader, kind = _Reader(path), _kind_of(path)
    parts = reader.parts(kind)
    return ReportInput(path, kind, **parts, missing=tuple(reader.missing))


def _kind_of(path: Path) -> str:
    if (path / "plan.json").exists() or (path / "phases").is_dir():
        return "plan"
    if (path / "ablation.json").exists() or (path / "trials.json").exists():
        return "ablation"
    if (path / "curve.json").exists():
        return "curve"
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
    files = (run.record_path, run.metrics_path, run.selection_path, run.dev_hypotheses_path)
    return any(file.exists() for file in files)


def _is_evaluation(path: Path) -> bool:
    return (path / "result.json").exists() or (path / "hypotheses.jsonl").exists()


def _without_process(phase: PhaseSummary) -> PhaseSummary:
    """A phase of a plan that no process works on: what is recorded as running was interrupted."""
    if phase.state != "running":
        return phase
    steps = [
        step | {"state": "interrupted"} if step.get("state") == "running" else step
        for step in phase.steps
    ]
    return phase.model_copy(update={"state": "interrupted", "steps": steps})


class _Reader:
    """Reads files below one folder and keeps a list of what is missing or damaged."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._home = str(Path.home())
        self.missing: list[str] = []

    def parts(self, kind: str) -> dict[str, Any]:
        """What a folder of this kind holds, by the names of `ReportInput`."""
        root = self._root
        if kind == "plan":
            return self._plan()
        if kind == "demo":
            return self._demo()
        if kind == "ablation":
            search = self._search(root)
            return {"search": search, "run": self._best_run(root, search)}
        if kind == "curve":
            return {"curve": self._record(root / "curve.json", CurveRecord)}
        if kind == "benchmark":
            return {"benchmark": self._benchmark(root)}
        if kind == "run":
            evaluations = self._evaluations(root / "eval")
            self._name_other_adapters(root, evaluations)
            return {"run": self._run(root), "evaluations": evaluations}
        return {"evaluations": (self._evaluation(root, root.resolve().name, "", ""),)}

    def _plan(self) -> dict[str, Any]:
        """A plan: the run that is shipped with its evaluations, and the other phases' results."""
        plan = self._record(self._root / "plan.json", PlanRecord)
        if not writer_of(self._root):
            phases = [_without_process(phase) for phase in plan.phases]
            if phases != plan.phases:
                plan = plan.model_copy(update={"phases": phases})
        folders = sorted(item for item in (self._root / "phases").glob("*/") if item.is_dir())
        shipped = next((phase.name for phase in plan.phases if phase.kind == "ship"), None)
        runs = {item.name: item / "run" for item in folders if _is_run(item / "run")}
        settings = dict(flatten(plan.plan.settings))
        source = str(settings.get(f"phases.{shipped}.source") or next(iter(runs), ""))
        search = next((item / "search" for item in folders if (item / "search").is_dir()), None)
        trials = self._search(search) if search else None
        if source in runs:
            run: RunPart | None = self._run(runs.pop(source))
        else:
            run = self._best_run(search, trials) if search and trials else None
        scored = [self._root / "phases" / name / "eval" for name in (source, shipped) if name]
        scored += [item / "conditions" / "eval" for item in folders]
        measured = [item / "benchmark" for item in folders if (item / "benchmark").is_dir()]
        return {
            "summary": plan,
            "search": trials,
            "run": run,
            "evaluations": tuple(part for item in scored for part in self._evaluations(item)),
            "benchmark": self._benchmark(measured[0]) if measured else None,
            "others": tuple((name, self._run(folder)) for name, folder in runs.items()),
        }

    def _demo(self) -> dict[str, Any]:
        """A demonstration, with what of it is not there."""
        summary = self._record(self._root / "demo.json", PlanRecord)
        run = None
        if (self._root / "run").is_dir():
            run = self._run(self._root / "run")
        else:
            self.missing.append("run/ is not there: no curves and no settings")
        evaluations = self._evaluations(self._root / "eval")
        if not evaluations:
            self.missing.append("eval/ holds no evaluation: no headline table")
        there = {(part.set_name, part.model, part.backend) for part in evaluations}
        for wanted in ((s, m, b) for s in _SETS for m in _MODELS for b in _BACKENDS):
            folder = self._root / "eval" / "-".join(wanted)
            if evaluations and wanted not in there and not folder.is_dir():
                self.missing.append(f"{self._short(folder)} is not there")
        return {"summary": summary, "run": run, "evaluations": evaluations}

    def _run(self, path: Path) -> RunPart:
        run = RunFolder(path)
        record = self._record(run.record_path, RunRecord)
        if (status := status_now(path, record.status)) != record.status:
            record = record.model_copy(update={"status": status})
        if altered := altered_adapter(run.adapter_dir):
            self.missing.append(f"{self._short(run.adapter_dir)}: {altered}")
        return RunPart(
            path,
            record,
            # A sum of adapters has no steps.
            () if record.result.combined else self._lines(run.metrics_path, dict),
            self._record(run.selection_path, SelectionRecord),
            self._lines(run.dev_hypotheses_path, ScoredUtterance.from_record),
        )

    def _benchmark(self, path: Path) -> BenchmarkRecord | None:
        record = self._record(path / "benchmark.json", BenchmarkRecord)
        return None if record.is_empty else record

    def _search(self, path: Path) -> SearchPart:
        """An ablation's record and its trials."""
        record = self._record(path / "ablation.json", AblationRecord)
        trials = []
        for index, item in enumerate(self._json(path / "trials.json", list) or [], start=1):
            trial, problems = TrialRecord.salvage(item)
            if trial.state == "running" and not is_anyone_working(path / SEARCH_LOCK):
                trial = trial.model_copy(update={"state": "stopped"})
            self._name_damage(path / "trials.json", [f"trial {index}, {text}" for text in problems])
            trials.append(trial)
        return SearchPart(record, tuple(trials))

    def _best_run(self, path: Path, search: SearchPart) -> RunPart | None:
        """The run of the best trial that has a folder."""
        ranked = rank_trials(search.trials)
        for trial in ranked:
            folder = path / "trials" / f"{trial.number or 0:04d}"
            if folder.is_dir():
                return self._run(folder)
        if ranked:
            self.missing.append("trials/ holds no folder of a finished trial: no curves")
        return None

    def _evaluations(self, folder: Path) -> tuple[EvaluationPart, ...]:
        """All evaluations in `eval/`; a demonstration names them `<set>-<model>-<backend>`."""
        parts = []
        for path in sorted(folder.glob("*/")):
            set_name, model, backend = [*path.name.rsplit("-", 2), "", ""][:3]
            if not _is_evaluation(path):
                self.missing.append(f"{self._short(path)}: no result.json, no hypotheses.jsonl")
            elif model in _MODELS and backend in _BACKENDS:
                parts.append(self._evaluation(path, set_name, model, backend))
            else:
                parts.append(self._evaluation(path, path.name, "", ""))
        return tuple(parts)

    def _name_other_adapters(self, run: Path, evaluations: Sequence[EvaluationPart]) -> None:
        """Evaluations of an adapter that the run does not hold any more, or never did."""
        own = adapter_checksums(RunFolder(run).adapter_dir).get("weights")
        for part in evaluations:
            scored = {part.result.adapter_sha256, part.result.exported} - {None, own}
            if own is not None and scored:
                self.missing.append(
                    f"eval/{part.folder}: of another adapter than the run holds now; evaluate it "
                    "again"
                )

    def _evaluation(self, path: Path, set_name: str, model: str, backend: str) -> EvaluationPart:
        result = self._record(path / "result.json", EvaluationRecord)
        scored = self._lines(path / "hypotheses.jsonl", ScoredUtterance.from_record)
        return EvaluationPart(set_name, model, backend, result, scored, path.name)

    def _record(self, path: Path, model: type[_Record]) -> _Record:
        """A record, as much of it as is right; what is missing or damaged is named."""
        record, problems = model.salvage(self._json(path, dict) or {})
        self._name_damage(path, problems)
        return record

    def _name_damage(self, path: Path, problems: Sequence[str]) -> None:
        self.missing += [f"{self._short(path)}: {problem}" for problem in problems]

    def _json(self, path: Path, kind: type[_Json]) -> _Json | None:
        text = self._text(path)
        if text is None:
            return None
        try:
            content = parse_json(text, lenient=True)
        except JsonError as error:
            self.missing.append(f"{self._short(path)} is damaged or {error}")
            return None
        if not isinstance(content, kind):
            what = {dict: "object", list: "array"}[kind]
            self.missing.append(f"{self._short(path)} is not a JSON {what}")
            return None
        # Records of earlier versions may hold the password of a database.
        masked: _Json = mask_values(content)
        return masked

    def _lines(self, path: Path, parse: Callable[[dict[str, Any]], _Line]) -> tuple[_Line, ...]:
        """The right lines of a JSON Lines file; the others are counted."""
        parsed, wrong = [], 0
        for line in (self._text(path) or "").split("\n"):
            if not line.strip():
                continue
            try:
                parsed.append(parse(parse_json_object(line, lenient=True)))
            except (ValueError, TypeError, KeyError):
                wrong += 1
        if wrong:
            self.missing.append(
                f"{self._short(path)}: kept {len(parsed)} of {len(parsed) + wrong} lines, the "
                "others are damaged or lack a field"
            )
        return tuple(parsed)

    def _text(self, path: Path) -> str | None:
        try:
            # Reports are shared: the home folder, which names a person, is written as ~.
            text = read_bounded(path, _MAX_BYTES).decode("utf-8", errors="replace")
            return text.replace(f"{self._home}/", "~/") if len(self._home) > 1 else text
        except FileNotFoundError:
            self.missing.append(f"{self._short(path)} is not there")
        except OSError as error:
            self.missing.append(f"{self._short(path)} cannot be read ({error.strerror})")
        except RequestError as error:
            self.missing.append(f"{self._short(path)} cannot be read ({error.message})")
        return None

    def _short(self, path: Path) -> str:
        return str(path.relative_to(self._root))
