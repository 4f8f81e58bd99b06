"""Run a plan: what is done stays done while its inputs have the same content.

A step runs where it never ran, failed, was interrupted, or one of its inputs has changed; all
others are left alone. A phase starts when the phases that it needs have passed their gates.
"""

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from moonshine_tune.core.errors import RequestError, TuneError
from moonshine_tune.core.hardware import peak_resident_mb
from moonshine_tune.core.progress import Progress
from moonshine_tune.plan.actions import StoppedError
from moonshine_tune.plan.gates import gates_of
from moonshine_tune.plan.schema import Plan
from moonshine_tune.plan.state import (
    DONE,
    FAILED,
    RUNNING,
    Fingerprints,
    PlanFolder,
    changed_inputs,
)
from moonshine_tune.plan.status import PlanResult, plan_record
from moonshine_tune.plan.steps import Context, Step, steps_of
from moonshine_tune.runs.records import PhaseRecord, PhaseSummary, PlanRecord, StepRecord

# Inputs whose names say too little.
_IN_WORDS = {"program": "version of moonshine-tune", "machine": "machine or library versions"}


def run_plan(
    plan: Plan, out: Path, progress: Progress, *, only: Sequence[str] = (), force: bool = False
) -> PlanResult:
    """Do what is left of a plan; a step that fails holds up only the phases that need it.

    Args:
        only: phases to run; all where none is named.
        force: start phases although those they need have not passed; that is recorded.

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
        runner = _Runner(plan, folder, progress)
        stopped = False
        try:
            for name in plan.order:
                if not only or name in only:
                    runner.run_phase(name, force=force)
        except StoppedError:
            stopped = True
        finally:
            runner.save()
        runner.assess()
        runner.save()
        return PlanResult(out, runner.plan_record(), None, tuple(runner.ran), stopped)


def plan_status(plan: Plan, out: Path, progress: Progress) -> PlanResult:
    """The state of a plan and what the next run would do. Nothing is changed.

    Raises:
        RequestError: plan.json cannot be read.
    """
    folder = PlanFolder(out)
    holder = folder.holder()
    runner = _Runner(plan, folder, progress, holder=holder, offline=True)
    return PlanResult(out, runner.plan_record(), holder)


class _Runner:
    """One pass over a plan. `holder` is another process that works in the folder."""

    def __init__(
        self,
        plan: Plan,
        folder: PlanFolder,
        progress: Progress,
        *,
        holder: str | None = None,
        offline: bool = False,
    ) -> None:
        record, fingerprints = folder.read(), Fingerprints(folder.path / "prints.json")
        self._context = Context(plan, folder, record, fingerprints, progress, offline)
        self._plan, self._done, self._holder = plan, record.record, holder
        self._say = progress.say
        self._peak_memory_mb = record.peak_memory_mb or 0
        self._phases: dict[str, PhaseSummary] = {}
        self.ran: list[str] = []
        self.assess()

    def run_phase(self, name: str, *, force: bool) -> None:
        """Bring one phase up to date, where those it needs allow it."""
        self._assess(name)
        state, todo = self._phases[name].state, self._phases[name].next
        if not todo:
            self._say(f"{name}: nothing to do ({state})")
            return
        missing = self._missing(name)
        if missing and not force:
            self._say(f"{name}: waits for {'; '.join(missing)}")
            return
        if missing:
            self._say(f"{name}: started although {'; '.join(missing)} (--force)")
        phase = self._done.setdefault(name, PhaseRecord())
        phase.forced = missing
        self._say(f"== {name}: {todo}")
        self._run_steps(name, phase)
        self._assess(name)
        for gate in self._phases[name].gates:
            self._say(f"   {gate.verdict}  {gate.name}: {gate.figure} ({gate.bound})")
        self.save()

    def _run_steps(self, name: str, phase: PhaseRecord) -> None:
        names = []
        try:
            for step in steps_of(name, self._context):
                names.append(step.name)
                if not _is_current(step, phase.steps.get(step.name)):
                    self._run(name, phase, step)
                if phase.steps[step.name].state == FAILED:
                    return
        except TuneError as error:
            # The next step could not be made: no source has its model, for example.
            phase.steps["prepare"] = _failed(StepRecord(), error)
            return
        phase.steps = {step_name: phase.steps[step_name] for step_name in names}

    def _run(self, name: str, phase: PhaseRecord, step: Step) -> None:
        before = phase.steps.get(step.name)
        record = StepRecord(state=RUNNING, inputs=step.inputs)
        resume = False
        if before is not None and not changed_inputs(before.inputs, step.inputs):
            resume = step.can_resume and before.state in (RUNNING, FAILED)
            record.starts = before.starts + 1
            record.seconds = before.seconds if resume else 0.0
        if step.makes is not None and not resume:
            _remove(step.makes)
        phase.steps[step.name] = record
        self.ran.append(f"{name}/{step.name}")
        self._phases[name] = self._summary(name, RUNNING, step.name, "")
        self.save()
        start_time = time.monotonic()
        try:
            record.result = step.work(resume)
        except KeyboardInterrupt as error:
            raise StoppedError from error
        except TuneError as error:
            _failed(record, error)
        else:
            record.state, record.output = DONE, step.output() if step.output else ""
        finally:
            record.seconds += time.monotonic() - start_time
        self._peak_memory_mb = max(self._peak_memory_mb, peak_resident_mb())
        self.save()

    def save(self) -> None:
        """Write plan.json and the fingerprints."""
        self._context.fingerprints.save()
        self.plan_record().write(self._context.folder.record_path)

    def plan_record(self) -> PlanRecord:
        """The content of plan.json."""
        return plan_record(self._context, list(self._phases.values()), self._peak_memory_mb)

    def assess(self) -> None:
        """Compare the inputs of all steps with those that are recorded."""
        for name in self._plan.order:
            self._assess(name)

    def _assess(self, name: str) -> None:
        self._phases[name] = self._summary(name, *self._state(name))

    def _missing(self, name: str) -> list[str]:
        """Why the phases that `name` needs do not allow it to start."""
        words = {"to do": "not run yet", "waiting": "not run yet"}
        return [
            f"{phase.name} is {words.get(phase.state, phase.state)}"
            + (f" ({phase.why})" if phase.why else "")
            for phase in (self._phases[needed] for needed in self._plan.settings.needs(name))
            if phase.state != "done"
        ]

    def _state(self, name: str) -> tuple[str, str, str]:
        """State of a phase, the reason, and what the next run would do."""
        phase = self._done.get(name, PhaseRecord())
        for record in phase.steps.values():
            if record.state == FAILED:
                hint = f"; hint: {record.hint}" if record.hint else ""
                return "failed", record.error + hint, "try again"
        if not phase.steps:
            needed = self._plan.settings.needs(name)
            waits_for = ", ".join(need for need in needed if self._phases[need].state != "done")
            why = f"waits for {waits_for}" if waits_for else ""
            return "waiting" if waits_for else "to do", why, "run"
        try:
            for step in steps_of(name, self._context):
                state = _step_state(step, phase.steps.get(step.name), self._holder)
                if state is not None:
                    return state
        except TuneError as error:
            return "changed", f"cannot be compared: {error}", "run"
        gates = gates_of(name, self._plan.settings, phase)
        failed = "; ".join(f"{gate.name}: {gate.figure}" for gate in gates if not gate.holds)
        return "failed" if failed else "done", failed, ""

    def _summary(self, name: str, state: str, why: str, next_: str) -> PhaseSummary:
        phase, settings = self._done.get(name, PhaseRecord()), self._plan.settings
        return PhaseSummary(
            name=name,
            kind=settings.phases[name].kind,
            state=state,
            why=why,
            next=next_,
            seconds=round(sum(step.seconds for step in phase.steps.values()), 1),
            steps=[
                {
                    "name": step,
                    # A step runs only in a phase that runs: its process is dead otherwise.
                    "state": "interrupted" if body.state == RUNNING != state else body.state,
                    "seconds": round(body.seconds, 1),
                }
                for step, body in phase.steps.items()
            ],
            gates=list(gates_of(name, settings, phase)) if phase.steps else [],
            forced=phase.forced,
        )


def _is_current(step: Step, record: StepRecord | None) -> bool:
    return record is not None and record.state != FAILED and _step_state(step, record, None) is None


def _step_state(
    step: Step, record: StepRecord | None, holder: str | None
) -> tuple[str, str, str] | None:
    """The state that a step gives its phase; None where everything is as recorded."""
    if record is None:
        return "interrupted", f"before {step.name}", f"run {step.name}"
    if record.state == RUNNING and holder:
        return "running", f"{step.name}, by {holder}", ""
    changed = changed_inputs(record.inputs, step.inputs)
    if changed:
        words = ", ".join(_IN_WORDS.get(name, name) for name in changed)
        return "changed", f"other {words}", f"run {step.name} again"
    if record.state == RUNNING:
        how = "resume" if step.can_resume else "run"
        return "interrupted", f"in {step.name}", f"{how} {step.name}"
    if step.output is not None and step.output() != record.output:
        return "changed", f"what {step.name} made is missing or changed", f"run {step.name} again"
    return None


def _failed(record: StepRecord, error: TuneError) -> StepRecord:
    record.state, record.error, record.hint = FAILED, str(error), error.hint or ""
    record.exit_code = error.exit_code
    return record


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
