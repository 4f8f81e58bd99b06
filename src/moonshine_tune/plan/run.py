"""Carrying a plan out: what is done stays done while its inputs are the same.

A step runs where it never ran, failed, was stopped, or one of its inputs has another content; all
others are left alone. A phase starts when those it needs have passed their gates.
"""

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from moonshine_tune.core.errors import RequestError, TuneError
from moonshine_tune.core.hardware import peak_resident_mb
from moonshine_tune.core.progress import Progress
from moonshine_tune.plan.gates import PlanGate, gates_of
from moonshine_tune.plan.schema import Plan
from moonshine_tune.plan.settings import ROLES
from moonshine_tune.plan.state import (
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
from moonshine_tune.plan.status import PhaseState, PlanResult, summary_record
from moonshine_tune.plan.steps import Context, Step, steps_of

_HINT_STATUS = "moonshine-tune plan status"


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
        from moonshine_tune.plan.actions import StoppedError

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
