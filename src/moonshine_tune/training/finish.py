"""The end of a training run: which adapter is kept, at which strength, and what is told."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from moonshine_tune.core.errors import RequestError
from moonshine_tune.models.lora import adapter_state, load_adapter_state
from moonshine_tune.runs.folder import RunFolder
from moonshine_tune.training.selection import Candidate
from moonshine_tune.training.trainer import Trainer


@dataclass(frozen=True)
class TrainResult:
    """What a run came to.

    Attributes:
        stopped: `finished`, `early stop`, or `interrupted` (resumable).
        canary_held: whether the chosen adapter keeps the canary within its bound.
        first_loss, last_loss: mean cross-entropy a token, in nats, over the first and the last
            tenth of the steps.
        train_seconds, prepare_seconds: the steps alone; and what was stored before them.
    """

    run: Path
    adapter: Path
    stopped: str
    steps: int
    skipped_steps: int
    baseline: Candidate
    best: Candidate
    canary_held: bool
    first_loss: float
    last_loss: float
    seconds: float
    train_seconds: float
    prepare_seconds: float
    peak_memory_mb: int
    remarks: tuple[str, ...]


def in_words(candidate: Candidate) -> str:
    """Its scores, for a line of the log."""
    canary = "" if candidate.canary_wer is None else f", canary {candidate.canary_wer:.2f}"
    hard = candidate.dev_augmented_wer
    changed = "" if hard is None else f", augmented {hard:.2f}"
    return f"dev WER {candidate.dev_wer:.2f}{changed}{canary}"


def finish_training(
    trainer: Trainer, stopped: str, steps: int, seconds: float, prepare_seconds: float
) -> TrainResult:
    """Choose the strength of the best adapter and put the result together."""
    counters = trainer.counters
    best = counters.candidate("best")
    baseline = counters.candidate("baseline")
    if baseline is None:
        raise RequestError("the saved state has no baseline", where=trainer.run.state_dir)
    if best is None:
        # Interrupted before the first score: what there is so far is still an adapter. It is no
        # part of the run's own scores, so that a resumed run is as one that was never stopped.
        scored = trainer.score(steps)
        trainer.save_best(scored, adapter_state(trainer.model))
        best = scored.candidate
    if stopped != "interrupted":
        best = _try_average(trainer, best, steps)
        best = _choose_strength(trainer, best)
    head, tail = _first_and_last_losses(trainer.run)
    return TrainResult(
        run=trainer.run.path,
        adapter=trainer.run.adapter_dir,
        stopped=stopped,
        steps=steps,
        skipped_steps=counters.skipped,
        baseline=baseline,
        best=best,
        canary_held=trainer.rule.allows(best),
        first_loss=head,
        last_loss=tail,
        seconds=seconds,
        train_seconds=counters.train_seconds,
        prepare_seconds=prepare_seconds,
        peak_memory_mb=trainer.memory().peak_resident_mb,
        remarks=trainer.setup.remarks,
    )


def _first_and_last_losses(run: RunFolder) -> tuple[float, float]:
    """Mean loss of the first and of the last tenth of the steps that counted, from the log."""
    losses = [
        float(record["loss"])
        for record in run.read_metrics()
        if record.get("loss") is not None and record.get("gradient_norm") is not None
    ]
    tenth = max(len(losses) // 10, 1)
    head, tail = losses[:tenth], losses[-tenth:]
    return sum(head) / max(len(head), 1), sum(tail) / max(len(tail), 1)


def _try_average(trainer: Trainer, best: Candidate, steps: int) -> Candidate:
    """Score the mean of the last adapters, where it is asked for, and keep it if it is as good."""
    found = trainer.late.mean(steps)
    if found is None:
        return best
    state, count = found
    load_adapter_state(trainer.model, state)
    scored = trainer.score(steps, averaged=count)
    candidate = scored.candidate
    trainer.rule = replace(trainer.rule, dev_words=scored.words)
    is_taken = trainer.rule.is_as_good(candidate, best)
    trainer.log(steps, {"average_of": count, **scored.figures("average_")})
    verdict = "taken" if is_taken else "not as good"
    trainer.progress.say(f"mean of the last {count}: {in_words(candidate)}, {verdict}")
    if not is_taken:
        return best
    trainer.best_state = state
    trainer.save_best(scored, state)
    return candidate


def _choose_strength(trainer: Trainer, best: Candidate) -> Candidate:
    """Try weaker versions of the best adapter where a canary can tell what they are worth."""
    strengths = trainer.settings.retain.strengths
    if trainer.setup.canary is None or not strengths or strengths == (1.0,):
        return best
    load_adapter_state(trainer.model, trainer.best_state)
    tried = {value: trainer.score(best.step, value, best.averaged) for value in strengths}
    for scored in tried.values():
        candidate = scored.candidate
        trainer.progress.say(f"strength {candidate.strength:g}: {in_words(candidate)}")
        told = {"strength": candidate.strength, **scored.figures("strength_")}
        trainer.log(best.step, told)
    trainer.rule = replace(trainer.rule, dev_words=next(iter(tried.values())).words)
    chosen = trainer.rule.choose([scored.candidate for scored in tried.values()])
    trainer.save_best(tried[chosen.strength], trainer.best_state)
    return chosen


def result_record(result: TrainResult) -> dict[str, Any]:
    """The result as run.json has it."""
    return {
        "steps": result.steps,
        "skipped_steps": result.skipped_steps,
        "baseline": result.baseline.to_record(),
        "best": result.best.to_record(),
        "canary_held": result.canary_held,
        "first_loss": result.first_loss,
        "last_loss": result.last_loss,
        "seconds": round(result.seconds, 1),
        "train_seconds": round(result.train_seconds, 1),
        "prepare_seconds": round(result.prepare_seconds, 1),
        "peak_memory_mb": result.peak_memory_mb,
    }
