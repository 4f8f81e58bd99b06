"""What a plan file holds: phases, their gates and their data, with types, bounds and defaults."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

STAND_IN = "stand-in"
"""Model name for a small streaming model with random weights: the ways of a large one, no sense."""


ROLES = ("train", "dev", "test", "canary", "dev_canary", "replay")


SYNTHESIZED = ("train", "dev", "test", "canary", "general", "replay")


def _off_as_none(value: object) -> object:
    """`off`, which YAML 1.1 reads as false, leaves a gate out."""
    if value is False or value == "off":
        return None
    if value is True:
        raise ValueError("a number, or off")
    return value


_Figure = Annotated[float | None, BeforeValidator(_off_as_none)]


_Count = Annotated[int | None, BeforeValidator(_off_as_none)]


class _PlanSection(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PhaseSettings(_PlanSection):
    needs: Annotated[
        tuple[str, ...], Field(description="Phases that must have passed before this one starts.")
    ] = ()


class SynthesizePhase(PhaseSettings):
    """Speech without recordings: phraseology and general speech by synthetic voices."""

    kind: Literal["synthesize"]
    train: Annotated[int, Field(ge=8, le=2000, description="Sentences to train on.")] = 100
    dev: Annotated[int, Field(ge=2, description="Sentences that choose the adapter.")] = 16
    test: Annotated[int, Field(ge=2, description="Sentences that judge it.")] = 32
    seed: Annotated[int, Field(ge=0, description="Seed of sentences and voices.")] = 0


class DoctorPhase(PhaseSettings):
    """Whether this machine can train: `moonshine-tune doctor`."""

    kind: Literal["doctor"]
    model: Annotated[str | None, Field(description="Model of the gradient check.")] = None


class TrainGates(_PlanSection):
    """Bounds of a training phase. A gate that is not wanted is set to `off`."""

    out_of_memory: Annotated[
        _Count, Field(description="Times that a step may run out of memory.")
    ] = 3
    holdout: Annotated[
        _Figure,
        Field(description="Points of WER: the 95 % interval of the change lies below this."),
    ] = 0.0
    canary_points: Annotated[
        _Figure, Field(description="Points of WER that the canary may lose.")
    ] = 2.0
    hours: Annotated[_Figure, Field(description="Hours that training may take.")] = None


class TrainPhase(PhaseSettings):
    """Train, score on test and canary against the base, read the adapter back."""

    kind: Literal["train"]
    model: Annotated[str, Field(description="Catalog name, folder, or `stand-in`.")] = "tiny"
    preset: Annotated[str | None, Field(description="A shipped preset.")] = None
    settings: Annotated[dict[str, Any], Field(description="Settings on top of the preset.")] = {}
    utterances: Annotated[
        int | None, Field(ge=8, description="Train on so many only, spread over the manifest.")
    ] = None
    gates: TrainGates = TrainGates()


class AblateGates(_PlanSection):
    """Bounds of an ablation."""

    trials: Annotated[_Count, Field(description="Trials that must have finished.")] = 2
    canary_points: Annotated[
        _Figure, Field(description="Points that the chosen one's canary may lose.")
    ] = 2.0
    condition_points: Annotated[
        _Figure,
        Field(description="Points of WER that no condition may lose against the base."),
    ] = 1.0


class AblatePhase(PhaseSettings):
    """Search settings, choose a trial by what was measured, hear it under other conditions."""

    kind: Literal["ablate"]
    model: Annotated[str, Field(description="Catalog name, folder, or `stand-in`.")] = "tiny"
    preset: Annotated[str | None, Field(description="A shipped preset under the search.")] = None
    settings: Annotated[dict[str, Any], Field(description="Settings under the search.")] = {}
    space: Annotated[str, Field(description="YAML file, or a shipped search space.")] = "quick"
    trials: Annotated[int, Field(ge=1, description="Trials in all.")] = 12
    steps: Annotated[int | None, Field(ge=1, description="Steps of each trial.")] = None
    conditions: Annotated[
        tuple[Literal["fast", "slow", "quiet", "noise-20dB", "noise-10dB", "telephone"], ...],
        Field(description="How the test set is changed to see what the adapter stands."),
    ] = ()
    gates: AblateGates = AblateGates()


class ShipGates(_PlanSection):
    """Bounds of what is shipped."""

    parity: Annotated[
        float, Field(gt=0, description="Percent of words in which runtime and torch may differ.")
    ] = 5.0
    canary_points: Annotated[
        _Figure, Field(description="Points that the canary may lose, runtime.")
    ] = 2.0
    p95_ms: Annotated[_Figure, Field(description="95 % of the clips are answered within this.")] = (
        None
    )
    peak_memory_mb: Annotated[
        _Figure, Field(description="Most memory that the runtime may hold.")
    ] = None


class ShipPhase(PhaseSettings):
    """Export, quantize, benchmark, package, verify."""

    kind: Literal["ship"]
    source: Annotated[str, Field(description="The phase whose adapter is shipped.")]
    method: Annotated[
        Literal["graft", "trace"], Field(description="As `moonshine-tune export --method`.")
    ] = "graft"
    benchmark_clips: Annotated[int, Field(ge=2, description="Clips that are timed.")] = 24
    rounds: Annotated[int, Field(ge=1, description="Timed calls of each clip.")] = 3
    sample: Annotated[
        bool, Field(description="Pack three test clips, as audio, for `verify` elsewhere.")
    ] = False
    gates: ShipGates = ShipGates()


Phase = Annotated[
    SynthesizePhase | DoctorPhase | TrainPhase | AblatePhase | ShipPhase,
    Field(discriminator="kind"),
]


KINDS: dict[str, type[PhaseSettings]] = {
    "synthesize": SynthesizePhase,
    "doctor": DoctorPhase,
    "train": TrainPhase,
    "ablate": AblatePhase,
    "ship": ShipPhase,
}


class DataSection(_PlanSection):
    """Manifests: paths relative to the plan's file, or `PHASE:NAME` of a synthesize phase."""

    train: Annotated[str, Field(description="What is trained on.")]
    test: Annotated[str, Field(description="What judges; no choice is made on it.")]
    dev: Annotated[
        str | None, Field(description="What chooses; without one, speakers are held out of train.")
    ] = None
    canary: Annotated[
        str | None, Field(description="General speech, with texts, that must not get worse.")
    ] = None
    dev_canary: Annotated[
        str | None,
        Field(description="Canary that the choice of the adapter sees; without one, `canary`."),
    ] = None
    replay: Annotated[
        str | None, Field(description="General speech, no texts needed; the base teaches on it.")
    ] = None
    normalizer: Annotated[str | None, Field(description="Normalizer of all scores.")] = None


class PlanSettings(_PlanSection):
    """All of a plan."""

    name: Annotated[str, Field(min_length=1, description="What the report is titled.")]
    data: DataSection
    phases: Annotated[dict[str, Phase], Field(min_length=1)]
