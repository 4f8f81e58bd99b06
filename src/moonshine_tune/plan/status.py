"""What came of a plan: where its phases stand, and all of it as one JSON document."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moonshine_tune.plan.gates import PlanGate
from moonshine_tune.plan.schema import Plan
from moonshine_tune.plan.settings import AblatePhase, ShipPhase, TrainPhase
from moonshine_tune.plan.state import (
    DONE,
    FAILED,
    PhaseRecord,
    PlanFolder,
    PlanRecord,
)


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
