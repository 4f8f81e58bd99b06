"""Writing the commented file of a plan from a few answers."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from moonshine_tune.core.errors import ProblemsError, RequestError
from moonshine_tune.core.files import write_text_atomic
from moonshine_tune.plan.schema import check_plan

_PILOT_PRESETS = {"medium": "medium-pilot", "streaming-medium": "medium-pilot"}


@dataclass(frozen=True)
class PlanAnswers:
    """What a plan is made from. Paths as they are to stand in the file; None leaves a line out."""

    model: str
    train: str
    test: str
    dev: str | None = None
    canary: str | None = None
    replay: str | None = None
    hours: float = 10.0
    canary_points: float = 2.0
    p95_ms: float = 1000.0
    peak_memory_mb: float = 2000.0


def default_answers() -> dict[str, Any]:
    """The usual answers, by name."""
    return {
        "model": "medium", "train": "data/train.jsonl", "test": "data/test.jsonl",
        "dev": None, "canary": None, "replay": None, "hours": 10.0, "canary_points": 2.0,
        "p95_ms": 1000.0, "peak_memory_mb": 2000.0,
    }  # fmt: skip


def write_plan(path: Path, answers: PlanAnswers) -> None:
    """Write the file.

    Raises:
        RequestError: there is a file already.
        ProblemsError: a manifest does not exist, or a bound makes no sense.
    """
    if path.exists():
        raise RequestError("there is a plan already", where=path, hint="choose another file name")
    text = plan_text(answers)
    try:
        check_plan(yaml.safe_load(text), source=path.name, folder=path.absolute().parent)
    except ProblemsError as error:
        raise ProblemsError(
            "no plan was written",
            error.problems,
            hint="paths are relative to the plan's file; make manifests with: "
            "moonshine-tune data import, then data split",
        ) from error
    write_text_atomic(path, text)


def plan_text(answers: PlanAnswers) -> str:
    """The file, with a comment for each choice."""

    def quoted(value: str) -> str:
        return json.dumps(value, ensure_ascii=False)

    data = [
        f"  train: {quoted(answers.train)}",
        f"  test: {quoted(answers.test)}        # judges; nothing is chosen on it",
    ]
    for role, why in (
        ("dev", "chooses the best adapter; without it, speakers are held out of train"),
        ("canary", "general speech that must not get worse"),
        ("replay", "general speech, texts not needed: the base model teaches on it"),
    ):
        value = getattr(answers, role)
        data.append(
            f"  {role}: {quoted(value)}        # {why}"
            if value
            else f"  # {role}: …        # {why}"
        )
    preset = _PILOT_PRESETS.get(answers.model, "tiny")
    return f"""# A plan: phases with gates. It may be stopped at any time; the same command goes on.
#   moonshine-tune plan run THIS-FILE
# Phases that are done are not run again unless their inputs have another content.
# A gate that is not wanted is set to off.
name: {quoted(f"Adapt {answers.model}")}

# Manifests, relative to this file.
data:
{chr(10).join(data)}

phases:
  # Phase 0: can this machine train, and does it compute right?
  doctor:

  # Phase 1: fine-tuning works end to end here, on the small model and little data. It must pass
  # before anything larger starts; `plan run --force` goes on in spite of it and writes that down.
  proof:
    kind: train
    needs: [doctor]
    model: tiny
    preset: tiny-proof
    utterances: 100
    gates:
      holdout: 0               # the 95 % interval of the change in WER lies below this
      canary_points: {answers.canary_points:g}
      out_of_memory: 0         # times that a step may run out of memory

  # Phase 2: the model that is wanted.
  pilot:
    kind: train
    needs: [proof]
    model: {quoted(answers.model)}
    preset: {preset}
    gates:
      holdout: 0
      canary_points: {answers.canary_points:g}      # points of WER that general speech may lose
      out_of_memory: 3         # each halves the micro-batch; more than this is no recovery
      hours: {answers.hours:g}

  # Phase 3: which settings matter, and how the chosen adapter stands noise and haste. On tiny: a
  # tenth of the time; try what it finds on the larger model.
  ablation:
    kind: ablate
    needs: [proof]
    model: tiny
    space: quick
    trials: 12
    steps: 100
    conditions: [fast, slow, noise-20dB, telephone]
    gates:
      trials: 6                # so many must have finished
      canary_points: {answers.canary_points:g}
      condition_points: 1      # under no condition worse than the base by more

  # Phase 4: files for the runtime, measured, packed and checked.
  ship:
    needs: [ablation]
    source: pilot              # the phase whose adapter is shipped
    method: graft              # trace: where no runtime folder of the base is at hand
    gates:
      parity: 5                # percent of words in which runtime and torch may differ
      canary_points: {answers.canary_points:g}
      p95_ms: {answers.p95_ms:g}
      peak_memory_mb: {answers.peak_memory_mb:g}
"""
