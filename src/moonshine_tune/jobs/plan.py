"""Carrying a plan out: what is done stays done while its inputs are the same.

A step runs where it never ran, failed, was stopped, or one of its inputs has another content; all
others are left alone. A phase starts when those it needs have passed their gates.
"""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moonshine_tune.errors import RequestError, TuneError
from moonshine_tune.jobs.plan_file import ROLES, AblatePhase, Plan, ShipPhase, TrainPhase
from moonshine_tune.jobs.plan_gates import PlanGate, gates_of
from moonshine_tune.jobs.plan_record import (
    DONE,
    FAILED,
    RUNNING,
    Fingerprints,
    PhaseRecord,
    PlanFolder,
    PlanRecord,
    StepRecord,
    changed_inputs,
    new_record,
)
from moonshine_tune.jobs.plan_steps import Context, Step, steps_of
from moonshine_tune.machine import peak_resident_mb
from moonshine_tune.progress import Progress

_HINT_STATUS = "moonshine-tune plan status"


@dataclass(frozen=True)
class PhaseState:
    """Where a phase stands.

    Attributes:
        state: `done`, `failed`, `running`, `interrupted`, `changed`, `waiting` or `to do`.
        why: one sentence; empty for what is done.
        next: what the next `plan run` would do with it; empty for nothing.
        steps: names and states of the steps that were begun.
        forced: what was not waited for.
    """

    name: str
    kind: str
    state: str
    why: str
    next: str
    seconds: float
    steps: tuple[tuple[str, str, float], ...]
    gates: tuple[PlanGate, ...]
    forced: tuple[str, ...]

    def to_record(self) -> dict[str, Any]:
        """As JSON data."""
        return {
            "name": self.name,
            "kind": self.kind,
            "state": self.state,
            "why": self.why,
            "next": self.next,
            "seconds": round(self.seconds, 1),
            "steps": [
                {"name": name, "state": state, "seconds": round(seconds, 1)}
                for name, state, seconds in self.steps
            ],
            "gates": [gate.to_record() for gate in self.gates],
            "forced": list(self.forced),
        }


@dataclass(frozen=True)
class PlanResult:
    """A plan as it stands. `ran` names the steps of this call; `stopped`: it was asked to end."""

    path: Path
    plan: Plan
    phases: tuple[PhaseState, ...]
    record: PlanRecord
    holder: str | None
    ran: tuple[str, ...] = ()
    stopped: bool = False

    @property
    def passed(self) -> bool:
        """Whether every phase is done with its gates."""
        return all(phase.state == "done" for phase in self.phases)

    @property
    def exit_code(self) -> int:
        """0 done; 1 a gate said no, or something is left; else that of the step that failed."""
        if self.stopped:
            return 130
        codes = [
            step.exit_code
            for phase in self.record.phases.values()
            for step in phase.steps.values()
            if step.state == FAILED
        ]
        return max(codes) if codes else int(not self.passed)

    def to_record(self) -> dict[str, Any]:
        """The JSON document of `plan run` and `plan status`: the demonstration's, and `phases`."""
        return summary_record(self.plan, self.record, self.phases, self.path) | {
            "ran": list(self.ran),
            "stopped": self.stopped,
            "holder": self.holder,
        }


def run_plan(
    plan: Plan, out: Path, progress: Progress, *, only: Sequence[str] = (), force: bool = False
) -> PlanResult:
    """Do what is left of a plan; a step that fails holds up only the phases that need it.

    Args:
        only: phases to look at; all where none is named.
        force: start phases although those they need have not passed; it is written down.

    Raises:
        RequestError: an unknown phase in `only`, or another process works in the folder.
    """
    for name in only:
        if name not in plan.order:
            raise RequestError(
                f"the plan has no phase {name!r}", hint=f"phases: {', '.join(plan.order)}"
            )
    folder = PlanFolder(out)
    with folder.locked():
        record = folder.read() or new_record()
        runner = _Runner(plan, folder, record, progress)
        stopped = False
        try:
            for name in plan.order:
                if not only or name in only:
                    runner.phase(name, force=force)
        except _Stopped:
            stopped = True
        finally:
            runner.save()
        phases = runner.states()
        return PlanResult(out, plan, phases, record, None, tuple(runner.ran), stopped)


def plan_status(plan: Plan, out: Path, progress: Progress) -> PlanResult:
    """Where a plan stands and what the next run would do. Nothing is changed.

    Raises:
        RequestError: plan.json cannot be read.
    """
    folder = PlanFolder(out)
    record = folder.read() or new_record()
    holder = folder.holder()
    runner = _Runner(plan, folder, record, progress, offline=True)
    return PlanResult(out, plan, runner.states(holder), record, holder)


class _Stopped(Exception):
    pass


class _Runner:
    """One pass over a plan."""

    def __init__(
        self,
        plan: Plan,
        folder: PlanFolder,
        record: PlanRecord,
        progress: Progress,
        *,
        offline: bool = False,
    ) -> None:
        self._plan, self._folder, self._record = plan, folder, record
        self._progress = progress
        self._prints = Fingerprints(folder.path / "prints.json")
        self._context = Context(plan, folder, record, self._prints, progress, offline)
        self._states: dict[str, PhaseState] = {}
        self.ran: list[str] = []

    def phase(self, name: str, *, force: bool) -> None:
        """Bring one phase up to date, where those it needs allow it."""
        state = self._state(name, None)
        if state.state == "done" or state.next == "":
            self._progress.say(f"{name}: nothing to do ({state.state})")
            self._states[name] = state
            return
        in_the_way = self._in_the_way(name)
        phase = self._record.phase(name)
        if in_the_way and not force:
            self._progress.say(f"{name}: waits for {'; '.join(in_the_way)}")
            return
        if in_the_way:
            self._progress.say(f"{name}: started although {'; '.join(in_the_way)} (--force)")
        phase.forced = in_the_way
        self._progress.say(f"== {name}: {state.next}")
        self._run_steps(name, phase)
        self._states[name] = self._state(name, None)
        for gate in self._states[name].gates:
            self._progress.say(f"   {gate.verdict}  {gate.name}: {gate.figure} ({gate.bound})")
        self.save()

    def _run_steps(self, name: str, phase: PhaseRecord) -> None:
        met: list[str] = []
        try:
            for step in steps_of(name, self._context):
                met.append(step.name)
                before = phase.steps.get(step.name)
                if not _is_current(before, step):
                    self._run(name, phase, step, before)
                    if phase.steps[step.name].state == FAILED:
                        return
        except TuneError as error:
            # The next step could not even be made: a model that no source has, say.
            phase.steps["prepare"] = _failed(StepRecord(RUNNING, {}), error)
            return
        for gone in [step for step in phase.steps if step not in met]:
            del phase.steps[gone]

    def _run(self, name: str, phase: PhaseRecord, step: Step, before: StepRecord | None) -> None:
        from moonshine_tune.jobs.plan_work import StoppedError

        same = before is not None and not changed_inputs(before.inputs, step.inputs)
        goes_on = bool(same and step.goes_on and before and before.state in (RUNNING, FAILED))
        if not goes_on and step.makes is not None:
            _remove(step.makes)
        starts = before.starts + 1 if before is not None and same else 1
        spent = before.seconds if goes_on and before is not None else 0.0
        record = StepRecord(RUNNING, step.inputs, starts=starts, seconds=spent)
        phase.steps[step.name] = record
        self.ran.append(f"{name}/{step.name}")
        self.save()
        begun = time.monotonic()
        try:
            record.result = step.work(goes_on)
        except (StoppedError, KeyboardInterrupt) as error:
            record.seconds += time.monotonic() - begun
            raise _Stopped from error
        except TuneError as error:
            _failed(record, error)
        else:
            record.state, record.output = DONE, step.output()
        record.seconds += time.monotonic() - begun
        self._record.peak_memory_mb = max(self._record.peak_memory_mb, peak_resident_mb())
        self.save()

    def save(self) -> None:
        """Write everything down."""
        self._prints.save()
        phases = self._known_states()
        self._folder.write(
            self._record,
            plan={
                "source": self._plan.source,
                "order": list(self._plan.order),
                "settings": self._plan.settings.model_dump(mode="json"),
                "manifests": {
                    role: str(path) for role in ROLES if (path := self._context.data(role))
                },
            },
            **summary_record(self._plan, self._record, phases, self._folder.path),
        )

    def states(self, holder: str | None = None) -> tuple[PhaseState, ...]:
        """All phases as they stand."""
        for name in self._plan.order:
            self._states[name] = self._state(name, holder)
        return tuple(self._states[name] for name in self._plan.order)

    def _known_states(self) -> tuple[PhaseState, ...]:
        """States without hashing anything: what is known of each phase now."""
        return tuple(
            self._states.get(name) or self._describe(name, "to do", "", "run")
            for name in self._plan.order
        )

    def _in_the_way(self, name: str) -> list[str]:
        found = []
        for needed in self._plan.needs(name):
            state = self._states.get(needed) or self._state(needed, None)
            self._states[needed] = state
            if state.state != "done":
                reason = f" ({state.why})" if state.why else ""
                found.append(f"{needed} is {_spoken(state.state)}{reason}")
        return found

    def _state(self, name: str, holder: str | None) -> PhaseState:
        """Where a phase stands, by comparing the inputs of its steps with what is recorded."""
        phase = self._record.phase(name)
        for body in phase.steps.values():
            if body.state == FAILED:
                told = body.error + (f"; hint: {body.hint}" if body.hint else "")
                return self._describe(name, "failed", told, "try again")
        if not phase.steps:
            waits = [n for n in self._plan.needs(name) if not self._is_done(n, holder)]
            why = f"waits for {', '.join(waits)}" if waits else ""
            return self._describe(name, "waiting" if waits else "to do", why, "run")
        try:
            for step in steps_of(name, self._context):
                found = self._state_by_step(name, step, phase.steps.get(step.name), holder)
                if found is not None:
                    return found
        except TuneError as error:
            return self._describe(name, "changed", f"cannot be compared: {error}", "run")
        gates = gates_of(name, self._plan.settings, phase)
        failed = [gate for gate in gates if not gate.holds]
        if failed:
            told = "; ".join(f"{gate.name}: {gate.figure}" for gate in failed)
            return self._describe(name, "failed", told, "")
        return self._describe(name, "done", "", "")

    def _state_by_step(
        self, name: str, step: Step, record: StepRecord | None, holder: str | None
    ) -> PhaseState | None:
        """The state that one step gives the phase; None where it is as recorded."""
        if record is None:
            return self._describe(name, "interrupted", f"before {step.name}", f"run {step.name}")
        changed = changed_inputs(record.inputs, step.inputs)
        if record.state == RUNNING and holder:
            return self._describe(name, "running", f"{step.name}, by {holder}", "")
        if changed:
            return self._describe(
                name, "changed", f"other content: {', '.join(changed)}", f"run {step.name} again"
            )
        if record.state == RUNNING:
            how = "go on with" if step.goes_on else "run"
            return self._describe(name, "interrupted", f"in {step.name}", f"{how} {step.name}")
        if step.output() != record.output:
            return self._describe(
                name, "changed", f"what {step.name} made is not there any more, or was changed",
                f"run {step.name} again",
            )  # fmt: skip
        return None

    def _is_done(self, name: str, holder: str | None) -> bool:
        state = self._states.get(name) or self._state(name, holder)
        return state.state == "done"

    def _describe(self, name: str, state: str, why: str, next_: str) -> PhaseState:
        phase = self._record.phase(name)
        gates: tuple[PlanGate, ...] = ()
        if phase.steps:
            gates = gates_of(name, self._plan.settings, phase)
        return PhaseState(
            name=name,
            kind=self._plan.settings.phases[name].kind,
            state=state,
            why=why,
            next=next_,
            seconds=sum(step.seconds for step in phase.steps.values()),
            steps=tuple((step, body.state, body.seconds) for step, body in phase.steps.items()),
            gates=gates,
            forced=tuple(phase.forced),
        )


def _is_current(record: StepRecord | None, step: Step) -> bool:
    return (
        record is not None
        and record.state == DONE
        and not changed_inputs(record.inputs, step.inputs)
        and step.output() == record.output
    )


def _failed(record: StepRecord, error: TuneError) -> StepRecord:
    record.state, record.error, record.hint = FAILED, str(error), error.hint or ""
    record.exit_code = error.exit_code
    return record


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _spoken(state: str) -> str:
    return {"to do": "not run yet", "waiting": "not run yet"}.get(state, state)


_ACTIVITIES = {
    "doctor": "prepare", "synthesize": "prepare", "stand-in": "prepare", "subset": "prepare",
    "prepare": "prepare", "train": "train", "search": "train", "export": "export",
    "package": "export",
}  # fmt: skip


def summary_record(
    plan: Plan, record: PlanRecord, phases: Sequence[PhaseState], path: Path
) -> dict[str, Any]:
    """The demonstration's JSON document, and the phases."""
    shipped = next(
        (n for n in reversed(plan.order) if isinstance(plan.settings.phases[n], ShipPhase)), None
    )
    source = _source(plan, shipped)
    seconds = {"prepare": 0.0, "train": 0.0, "evaluate": 0.0, "export": 0.0}
    for phase in record.phases.values():
        for name, step in phase.steps.items():
            seconds[_ACTIVITIES.get(name, "evaluate")] += step.seconds
    seconds["total"] = sum(seconds.values())
    heard = _heard(record, source, shipped)
    place = PlanFolder(path)
    run = None if source is None else _run_of(plan, record, place, source)
    return {
        "name": plan.settings.name,
        "gates": [gate.to_record() for phase in phases for gate in phase.gates],
        "domain": heard["domain"],
        "canary": heard["canary"],
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "peak_memory_mb": record.peak_memory_mb,
        "adapter": None if run is None else str(run / "adapter"),
        "runtime_dir": None if shipped is None else str(place.phase_dir(shipped) / "runtime"),
        "run": None if run is None else str(run),
        "normalizer": heard["normalizer"],
        "passed": all(phase.state == "done" for phase in phases),
        "phases": [phase.to_record() for phase in phases],
    }


def _source(plan: Plan, shipped: str | None) -> str | None:
    """The phase whose adapter the plan is about."""
    phase = plan.settings.phases.get(shipped) if shipped else None
    if isinstance(phase, ShipPhase):
        return phase.source
    trained = [n for n in plan.order if isinstance(plan.settings.phases[n], TrainPhase)]
    return trained[-1] if trained else None


def _run_of(plan: Plan, record: PlanRecord, place: PlanFolder, source: str) -> Path | None:
    if isinstance(plan.settings.phases[source], AblatePhase):
        chosen = record.phase(source).steps.get("choose")
        told = chosen.result.get("run") if chosen else None
        return place.phase_dir(source) / "search" / str(told) if told else None
    return place.phase_dir(source) / "run"


def _heard(record: PlanRecord, source: str | None, shipped: str | None) -> dict[str, Any]:
    """Scores by set, model and back end, where they were measured."""
    found: dict[str, Any] = {
        name: {"base": {}, "adapted": {}} for name in ("domain", "canary")
    }  # fmt: skip
    found["normalizer"] = None
    for phase, step, backend in (
        (source, "score torch", "torch"), (shipped, "score runtime", "runtime"),
    ):  # fmt: skip
        body = record.phases.get(phase or "", PhaseRecord()).steps.get(step)
        result = body.result if body is not None and body.state == DONE else {}
        found["normalizer"] = result.get("normalizer") or found["normalizer"]
        for name in ("domain", "canary"):
            for model in ("base", "adapted"):
                if model in result.get(name, {}):
                    found[name][model][backend] = result[name][model]
    return found
