"""The gates of a phase: from the figures of its steps and the bounds of the plan, nothing else.

So a bound that is changed is judged anew without doing the work again.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from moonshine_tune.plan.settings import (
    STAND_IN,
    AblatePhase,
    DoctorPhase,
    PlanSettings,
    ShipPhase,
    SynthesizePhase,
    TrainPhase,
)
from moonshine_tune.plan.state import PhaseRecord

PASSED, FAILED, NOT_MEANINGFUL, NOT_MEASURED = (
    "passed", "FAILED", "not meaningful", "not measured",
)  # fmt: skip
_RANDOM = "the weights are random: this model cannot hear"

Figures = Mapping[str, Any]


@dataclass(frozen=True)
class PlanGate:
    """One promise of a phase.

    Attributes:
        verdict: `passed`, `FAILED`, `not meaningful` (measured, and says nothing), or `not
            measured`.
        note: why it is not meaningful.
    """

    phase: str
    name: str
    verdict: str
    figure: str
    bound: str
    note: str = ""

    @property
    def holds(self) -> bool:
        """Whether it does not stand in the way."""
        return self.verdict in (PASSED, NOT_MEANINGFUL)

    def to_record(self) -> dict[str, Any]:
        """As JSON data; `passed` is null where the gate says nothing."""
        passed = {PASSED: True, FAILED: False}.get(self.verdict)
        return {
            "phase": self.phase,
            "name": self.name,
            "passed": passed,
            "verdict": self.verdict,
            "figure": self.figure,
            "bound": self.bound,
            "note": self.note,
        }


def gates_of(name: str, settings: PlanSettings, record: PhaseRecord) -> tuple[PlanGate, ...]:
    """All gates of a phase; those without a figure yet are not measured."""
    phase = settings.phases[name]
    done = {step: body.result for step, body in record.steps.items() if body.state == "done"}
    if isinstance(phase, DoctorPhase):
        found = list(_doctor(done))
    elif isinstance(phase, SynthesizePhase):
        found = list(_synthesize(phase, done))
    elif isinstance(phase, TrainPhase):
        found = list(_train(phase, done, has_canary=settings.data.canary is not None))
    elif isinstance(phase, AblatePhase):
        found = list(_ablate(phase, done))
    else:
        blind = _is_blind(phase, settings)
        found = list(_ship(phase, done, blind, has_canary=settings.data.canary is not None))
    return tuple(PlanGate(name, *gate) for gate in found)


_Gate = tuple[str, str, str, str, str]


def _judge(name: str, holds: object, figure: str, bound: str, *, blind: bool = False) -> _Gate:
    """A gate; `holds` is None where there is no figure, `blind` where it means nothing."""
    if holds is None:
        return (name, NOT_MEASURED, "–", bound, "")
    if blind:
        return (name, NOT_MEANINGFUL, figure, bound, _RANDOM)
    return (name, PASSED if holds else FAILED, figure, bound, "")


def _doctor(done: Mapping[str, Figures]) -> Iterator[_Gate]:
    found = done.get("doctor")
    figure = "" if found is None else (
        f"{found['checks']} checks, {found['failures']} failures, {found['warnings']} warnings"
    )  # fmt: skip
    yield _judge("this machine can train", found and found["can_train"], figure, "no failure")


def _synthesize(phase: SynthesizePhase, done: Mapping[str, Figures]) -> Iterator[_Gate]:
    found = done.get("synthesize")
    wanted = {"train": phase.train, "dev": phase.dev, "test": phase.test}
    figure = ", ".join(f"{found[key]} {key}" for key in wanted) if found else ""
    whole = found and all(found[key] >= count for key, count in wanted.items())
    bound = ", ".join(f"{count} {key}" for key, count in wanted.items())
    yield _judge("speech is there", whole, figure, f"at least {bound}")


def _train(phase: TrainPhase, done: Mapping[str, Figures], *, has_canary: bool) -> Iterator[_Gate]:
    gates, blind, found = phase.gates, phase.model == STAND_IN, done.get("train")
    ended = found and found["stopped"] in ("finished", "early stop")
    figure = f"{found['stopped']}, {found['steps']} steps" if found else ""
    yield _judge("training completes", ended, figure, "finished or early stop")
    if gates.out_of_memory is not None:
        count = found["out_of_memory"] if found else 0
        yield _judge(
            "out of memory does not recur",
            found and count <= gates.out_of_memory,
            f"{count} times",
            f"{gates.out_of_memory} times at most",
        )
    falls = found and found["last_loss"] < found["first_loss"]
    losses = f"{found['first_loss']:.3f} → {found['last_loss']:.3f}" if found else ""
    yield _judge("training loss falls", falls, losses, "last tenth below first tenth")
    if gates.hours is not None:
        spent = found["train_seconds"] / 3600 if found else 0.0
        within = found and spent <= gates.hours
        yield _judge("training time", within, f"{spent:.2f} h", f"{gates.hours:g} h at most")
    again = done.get("read back")
    same = again and 0 < again["utterances"] == again["same"]
    read = f"{again['same']} of {again['utterances']} transcripts the same" if again else ""
    yield _judge("adapter reloads", same, read, "every transcript the same")
    scores = done.get("score torch", {})
    if gates.holdout is not None:
        yield _improves("holdout WER improves", scores, gates.holdout, blind)
    if gates.canary_points is not None and has_canary:
        yield _canary("canary is kept", scores, gates.canary_points, blind)


def _improves(name: str, scores: Figures, bound: float, blind: bool) -> _Gate:
    change = scores.get("domain", {}).get("comparison")
    asked = "95 % interval of the change below " + (f"{bound:+g} points" if bound else "zero")
    if change is None:
        return _judge(name, None, "", asked)
    low, high = change["ci95"]
    figure = (
        f"{change['before']:.2f} → {change['after']:.2f}, {change['difference']:+.2f} points "
        f"[{low:+.2f}, {high:+.2f}]"
    )
    return _judge(name, high < bound, figure, asked, blind=blind)


def _canary(name: str, scores: Figures, bound: float, blind: bool) -> _Gate:
    change = scores.get("canary", {}).get("comparison")
    asked = f"+{bound:g} points at most"
    if change is None:
        return _judge(name, None, "", asked)
    figure = f"{change['before']:.2f} → {change['after']:.2f} ({change['difference']:+.2f})"
    return _judge(name, change["difference"] <= bound + 1e-9, figure, asked, blind=blind)


def _ablate(phase: AblatePhase, done: Mapping[str, Figures]) -> Iterator[_Gate]:
    gates, blind, found = phase.gates, phase.model == STAND_IN, done.get("search")
    if gates.trials is not None:
        enough = found and found["finished"] >= gates.trials
        figure = f"{found['finished']} of {len(found['trials'])} finished" if found else ""
        yield _judge("trials finish", enough, figure, f"{gates.trials} at least")
    chosen = done.get("choose")
    has_one = chosen and chosen["number"] is not None
    figure = ""
    if chosen:
        figure = f"trial {chosen['number']}" if has_one else str(chosen["reasons"][0])
    yield _judge("a trial is chosen", has_one, figure, "one within the bounds")
    lost = chosen["figures"].get("canary_loss") if chosen and has_one else None
    if gates.canary_points is not None and lost is not None:
        asked = f"+{gates.canary_points:g} points at most"
        kept = lost <= gates.canary_points + 1e-9
        yield _judge("chosen trial keeps the canary", kept, f"{lost:+.2f}", asked, blind=blind)
    if phase.conditions and gates.condition_points is not None:
        heard = done.get("conditions", {})
        changes = {
            name: body["comparison"]["difference"]
            for name, body in heard.items()
            if isinstance(body, dict) and "comparison" in body
        }
        figure = ", ".join(f"{name} {points:+.2f}" for name, points in changes.items())
        held = max(changes.values()) <= gates.condition_points if changes else None
        bound = f"no condition more than +{gates.condition_points:g} points against the base"
        yield _judge("other conditions are stood", held, figure, bound, blind=blind)


def _is_blind(phase: ShipPhase, settings: PlanSettings) -> bool:
    source = settings.phases.get(phase.source)
    return isinstance(source, TrainPhase | AblatePhase) and source.model == STAND_IN


def _ship(
    phase: ShipPhase, done: Mapping[str, Figures], blind: bool, *, has_canary: bool
) -> Iterator[_Gate]:
    gates, exported = phase.gates, done.get("export")
    figure = f"{exported['changed']} matrices" if exported else ""
    if exported:
        figure += f" in {', '.join(exported['changed_files'])}"
    loads = exported and exported["changed"] > 0 and exported["parity"]["clips"] > 0
    yield _judge("export loads", loads, figure, "the runtime transcribes with it")
    parity = exported["parity"] if exported else {}
    figure = (
        f"{parity['word_difference']:.2f} % of {parity['words']} words differ" if parity else ""
    )
    agrees = bool(parity["passed"]) if parity else None
    yield _judge("export agrees with torch", agrees, figure, f"{gates.parity:g} % at most")
    scores = done.get("score runtime", {})
    if "base" in scores.get("domain", {}):
        yield _improves("holdout WER improves, runtime", scores, 0.0, blind)
        if gates.canary_points is not None and has_canary:
            yield _canary("canary is kept, runtime", scores, gates.canary_points, blind)
    measured = done.get("benchmark")
    if gates.p95_ms is not None:
        p95 = measured["latency_ms"]["p95"] if measured else 0.0
        within = measured and p95 <= gates.p95_ms
        yield _judge("95 % answered within", within, f"{p95:.0f} ms", f"{gates.p95_ms:g} ms")
    if gates.peak_memory_mb is not None:
        peak = measured["memory_mb"]["peak"] if measured else 0.0
        within = measured and peak <= gates.peak_memory_mb
        yield _judge("peak memory", within, f"{peak:.0f} MB", f"{gates.peak_memory_mb:g} MB")
    packed = done.get("verify")
    figure = ""
    if packed:
        figure = f"{packed['files']} files whole"
        if packed["sample_clips"]:
            figure += f", sample: {packed['sample_identical']} of {packed['sample_clips']} the same"
        if packed["problems"]:
            figure = str(packed["problems"][0])
    yield _judge("package verifies", packed and packed["passed"], figure, "whole, and it loads")
