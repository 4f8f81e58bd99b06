"""The gates of a phase: from the figures of its steps and the bounds of the plan, nothing else.

So a changed bound is judged again without repeating the work.
"""

from collections.abc import Iterator, Mapping

from moonshine_tune.demo.gates import (
    Figures,
    at_most,
    export_gates,
    gate,
    improves,
    keeps,
    reload_gate,
    training_gates,
)
from moonshine_tune.plan.schema import (
    RANDOM_MODEL,
    AblatePhase,
    DoctorPhase,
    PlanSettings,
    ShipPhase,
    SynthesizePhase,
    TrainPhase,
)
from moonshine_tune.runs.records import GateResult, PhaseRecord

Results = Mapping[str, Figures]


def gates_of(name: str, settings: PlanSettings, record: PhaseRecord) -> tuple[GateResult, ...]:
    """All gates of a phase; those without figures yet are `not measured`, which does not pass."""
    phase = settings.phases[name]
    done = {step: body.result for step, body in record.steps.items() if body.state == "done"}
    has_canary = settings.data.canary is not None
    trained = settings.phases[phase.source] if isinstance(phase, ShipPhase) else phase
    is_random = getattr(trained, "model", None) == RANDOM_MODEL
    if isinstance(phase, DoctorPhase):
        gates = _doctor(done)
    elif isinstance(phase, SynthesizePhase):
        gates = _synthesize(phase, done)
    elif isinstance(phase, TrainPhase):
        gates = _train(phase, done, has_canary, is_random)
    elif isinstance(phase, AblatePhase):
        gates = _ablate(phase, done, is_random)
    else:
        gates = _ship(phase, done, has_canary, is_random)
    return tuple(gate.model_copy(update={"phase": name}) for gate in gates)


def _doctor(done: Results) -> Iterator[GateResult]:
    figures = done.get("doctor", {})
    figure = "{checks} checks, {failures} failures, {warnings} warnings"
    yield gate("this machine can train", "no failure", figures, figure, figures.get("can_train"))


def _synthesize(phase: SynthesizePhase, done: Results) -> Iterator[GateResult]:
    figures = done.get("synthesize", {})
    wanted = {"train": phase.train, "dev": phase.dev, "test": phase.test}
    bound = "at least " + ", ".join(f"{count} {name}" for name, count in wanted.items())
    complete = all(figures.get(name, 0) >= count for name, count in wanted.items())
    figure = "{train} train, {dev} dev, {test} test"
    yield gate("speech is synthesized", bound, figures, figure, complete)


def _train(
    phase: TrainPhase, done: Results, has_canary: bool, is_random: bool
) -> Iterator[GateResult]:
    gates, figures, scores = phase.gates, done.get("train", {}), done.get("score torch", {})
    yield from training_gates(figures)
    count = figures.get("out_of_memory")
    yield from at_most("out of memory does not recur", gates.out_of_memory, "times", count)
    hours = figures["train_seconds"] / 3600 if figures else None
    yield from at_most("training time", gates.hours, "h", hours, digits=2)
    yield reload_gate(done.get("read back", {}))
    if gates.holdout is not None:
        yield improves("holdout WER improves", scores, gates.holdout, is_random)
    if gates.canary_points is not None and has_canary:
        yield keeps("canary is kept", scores, gates.canary_points, is_random)


def _ablate(phase: AblatePhase, done: Results, is_random: bool) -> Iterator[GateResult]:
    gates, search, chosen = phase.gates, done.get("search", {}), done.get("choose", {})
    if gates.trials is not None:
        enough = search.get("finished", 0) >= gates.trials
        figure = f"{{finished}} of {len(search.get('trials', ()))} finished"
        yield gate("trials finish", f"{gates.trials} at least", search, figure, enough)
    has_one = chosen.get("number") is not None
    figure = "trial {number}" if has_one else "{reasons[0]}"
    yield gate("a trial is chosen", "one within the bounds", chosen, figure, has_one)
    lost = chosen["figures"].get("canary_loss") if has_one else None
    if gates.canary_points is not None and lost is not None:
        bound, kept = f"+{gates.canary_points:g} points at most", lost <= gates.canary_points + 1e-9
        name, figure = "chosen trial keeps the canary", "{figures[canary_loss]:+.2f}"
        yield gate(name, bound, chosen, figure, kept, is_random=is_random)
    if phase.conditions and gates.condition_points is not None:
        scores = {n: body for n, body in done.get("conditions", {}).items() if n != "normalizer"}
        changes = {name: body["comparison"]["difference"] for name, body in scores.items()}
        bound = f"no condition more than +{gates.condition_points:g} points against the base"
        figure = ", ".join(f"{name} {points:+.2f}" for name, points in changes.items())
        kept = changes and max(changes.values()) <= gates.condition_points
        name = "other conditions stay within bounds"
        yield gate(name, bound, changes, figure, kept, is_random=is_random)


def _ship(
    phase: ShipPhase, done: Results, has_canary: bool, is_random: bool
) -> Iterator[GateResult]:
    gates, scores = phase.gates, done.get("score runtime", {})
    yield from export_gates(done.get("export", {}), gates.parity)
    if "base" in scores.get("domain", {}):
        yield improves("holdout WER improves, runtime", scores, 0.0, is_random)
        if gates.canary_points is not None and has_canary:
            yield keeps("canary is kept, runtime", scores, gates.canary_points, is_random)
    measured = done.get("benchmark", {})
    latency = measured.get("latency_ms", {}).get("p95")
    yield from at_most("95 % answered within", gates.p95_ms, "ms", latency)
    memory = measured.get("memory_mb", {}).get("peak")
    yield from at_most("peak memory", gates.peak_memory_mb, "MB", memory)
    verified = done.get("verify", {})
    figure = "{problems[0]}" if verified.get("problems") else "{files} files complete"
    if verified.get("sample_clips") and not verified["problems"]:
        figure += ", sample: {sample_identical} of {sample_clips} the same"
    bound, passed = "complete, and it loads", verified.get("passed")
    yield gate("package verifies", bound, verified, figure, passed)
