"""The state of a plan, as the commands show it and as plan.json holds it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moonshine_tune.core.provenance import command_line, git_state, platform_summary, versions
from moonshine_tune.plan.schema import ROLES, AblatePhase, Plan, ShipPhase, TrainPhase
from moonshine_tune.plan.state import DONE, FAILED, PlanFolder
from moonshine_tune.plan.steps import Context
from moonshine_tune.runs.records import PhaseRecord, PhaseSummary, PlanRecord, PlanSource

# What the time of a step is counted as; the time of all others is evaluation.
_ACTIVITIES = {
    "doctor": "prepare", "synthesize": "prepare", "stand-in": "prepare", "subset": "prepare",
    "prepare": "prepare", "train": "train", "search": "train", "export": "export",
    "package": "export",
}  # fmt: skip
# Keys of plan.json that the JSON document of the commands leaves out.
_OF_THE_FILE = {"schema_version", "kind", "created", "command", "plan", "versions", "platform",
                "git", "record"}  # fmt: skip


@dataclass(frozen=True)
class PlanResult:
    """The state of a plan after a command.

    Attributes:
        record: as plan.json holds it. The `state` of a phase is `done`, `failed`, `running`,
            `interrupted`, `changed`, `waiting` or `to do`, with `why`, and with `next`: what the
            next run would do.
        holder: the process that is working in the folder.
        ran: steps of this call, as `PHASE/STEP`.
        stopped: the call was interrupted.
    """

    path: Path
    record: PlanRecord
    holder: str | None = None
    ran: tuple[str, ...] = ()
    stopped: bool = False

    @property
    def phases(self) -> list[PhaseSummary]:
        """The phases in their order."""
        return self.record.phases

    @property
    def passed(self) -> bool:
        """Whether every phase is done and its gates passed."""
        return bool(self.record.passed)

    @property
    def exit_code(self) -> int:
        """0 done; 1 a gate failed, or something is left; else that of the step that failed."""
        if self.stopped:
            return 130
        steps = [step for phase in self.record.record.values() for step in phase.steps.values()]
        codes = [step.exit_code for step in steps if step.state == FAILED]
        return max(codes, default=int(not self.passed))

    def to_record(self) -> dict[str, Any]:
        """The JSON document of `plan run` and `plan status`: the demonstration's, and `phases`."""
        document = self.record.model_dump(mode="json", exclude=_OF_THE_FILE, exclude_unset=True)
        rest = {"ran": list(self.ran), "stopped": self.stopped, "holder": self.holder}
        return document | rest


def plan_record(ctx: Context, phases: list[PhaseSummary], peak_memory_mb: float) -> PlanRecord:
    """The content of plan.json: the steps, and a summary for people and the report."""
    plan, folder, done = ctx.plan, ctx.folder, ctx.record.record
    kinds = plan.settings.phases
    shipped = next((n for n in reversed(plan.order) if isinstance(kinds[n], ShipPhase)), None)
    source = _source(plan, shipped)
    run = _run_of(plan, done, folder, source) if source else None
    seconds = {"prepare": 0.0, "train": 0.0, "evaluate": 0.0, "export": 0.0}
    for phase in done.values():
        for name, step in phase.steps.items():
            seconds[_ACTIVITIES.get(name, "evaluate")] += step.seconds
    seconds["total"] = sum(seconds.values())
    return PlanRecord(
        schema_version=ctx.record.schema_version,
        kind="plan",
        created=ctx.record.created,
        command=command_line(),
        plan=PlanSource(
            source=plan.source,
            order=list(plan.order),
            settings=plan.settings.model_dump(mode="json"),
            manifests={role: str(path) for role, path in ctx.manifests(*ROLES).items()},
        ),
        name=plan.settings.name,
        gates=[gate for phase in phases for gate in phase.gates],
        **_scores(done, {"torch": source, "runtime": shipped}),
        seconds={name: round(value, 1) for name, value in seconds.items()},
        peak_memory_mb=peak_memory_mb,
        adapter=str(run / "adapter") if run else None,
        runtime_dir=str(folder.phase_dir(shipped) / "runtime") if shipped else None,
        run=str(run) if run else None,
        passed=all(phase.state == "done" for phase in phases),
        phases=phases,
        versions=versions(),
        platform=platform_summary(),
        git=git_state(Path(__file__).parent),
        record=done,
    )


def _source(plan: Plan, shipped: str | None) -> str | None:
    """The phase whose adapter the plan is about: the shipped one, else the last trained one."""
    phases = plan.settings.phases
    phase = phases.get(shipped or "")
    if isinstance(phase, ShipPhase):
        return phase.source
    trained = [name for name in plan.order if isinstance(phases[name], TrainPhase)]
    return trained[-1] if trained else None


def _run_of(
    plan: Plan, done: Mapping[str, PhaseRecord], folder: PlanFolder, source: str
) -> Path | None:
    if not isinstance(plan.settings.phases[source], AblatePhase):
        return folder.phase_dir(source) / "run"
    chosen = _figures(done, source, "choose").get("run")
    return folder.phase_dir(source) / "search" / chosen if chosen else None


def _figures(done: Mapping[str, PhaseRecord], phase: str | None, step: str) -> dict[str, Any]:
    """The figures of a step; empty where it is not done."""
    steps = done[phase].steps if phase is not None and phase in done else {}
    return steps[step].result if step in steps and steps[step].state == DONE else {}


def _scores(done: Mapping[str, PhaseRecord], phases: Mapping[str, str | None]) -> dict[str, Any]:
    """Scores by set, model and back end, where they were measured; and their normalizer.

    Args:
        phases: the phase that measures with each back end.
    """
    sets: dict[str, Any] = {name: {"base": {}, "adapted": {}} for name in ("domain", "canary")}
    normalizer = None
    for backend, phase in phases.items():
        figures = _figures(done, phase, f"score {backend}")
        normalizer = figures.get("normalizer") or normalizer
        for name, models in sets.items():
            for model in models.keys() & figures.get(name, {}).keys():
                models[model][backend] = figures[name][model]
    return sets | {"normalizer": normalizer}
