"""The plan file: phases as a graph of jobs, each with gates, checked before anything runs.

All problems are reported together: unknown keys and phases with the nearest name, cycles with
their path, manifests that do not exist, gates without a number.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from moonshine_tune.ablation.space import read_space
from moonshine_tune.config.resolve import read_preset, resolve_settings
from moonshine_tune.config.settings import REPLAY_WORDS
from moonshine_tune.core.bounded_files import is_file
from moonshine_tune.core.errors import ProblemsError, RequestError, TuneError
from moonshine_tune.core.names import home_expanded, name_problem
from moonshine_tune.core.text import did_you_mean
from moonshine_tune.core.yaml import read_shipped, read_yaml, shipped_names

RANDOM_MODEL = "stand-in"
"""Model name in plan files for a small streaming model with random weights: it runs every step
of a large one, and its accuracy means nothing."""

ROLES = ("train", "dev", "test", "canary", "dev_canary", "replay")
SYNTHESIZED = ("train", "dev", "test", "canary", "general", "replay")
_PLANS = "plan/plans"
_HINT = "write a valid plan to start from: moonshine-tune plan init plan.yaml"


# --- the settings of each kind of phase


def _off_as_none(value: object) -> object:
    """`off`, which YAML 1.1 reads as false, leaves a gate out."""
    if value is False or value == "off":
        return None
    if value is None or value is True:
        raise ValueError("a number, or off")
    return value


_Bound = Annotated[float | None, BeforeValidator(_off_as_none)]
_Count = Annotated[int | None, BeforeValidator(_off_as_none)]


class _PlanSection(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PhaseSettings(_PlanSection):
    needs: tuple[str, ...] = ()  # phases that must pass before this one


class DoctorPhase(PhaseSettings):
    """Check whether this machine can train, as `moonshine-tune doctor`."""

    kind: Literal["doctor"]
    model: str | None = None  # model of the gradient check


class SynthesizePhase(PhaseSettings):
    """Synthesize phraseology and general speech, where there are no recordings."""

    kind: Literal["synthesize"]
    # Sentences of each set.
    train: int = Field(default=100, ge=8, le=2000)
    dev: int = Field(default=16, ge=2)
    test: int = Field(default=32, ge=2)
    seed: int = Field(default=0, ge=0)


class TrainGates(_PlanSection):
    """Bounds of a training phase; `off` leaves a gate out."""

    out_of_memory: _Count = 3  # steps that may run out of memory
    holdout: _Bound = 0.0  # points of WER: the 95 % interval of the change is below this
    canary_points: _Bound = 2.0  # points of WER that the canary may lose
    hours: _Bound = None  # hours that training may take


class TrainPhase(PhaseSettings):
    """Train, score test and canary against the base, reload the adapter from disk."""

    kind: Literal["train"]
    model: str = "tiny"  # catalog name, folder, or `stand-in`
    preset: str | None = None
    settings: dict[str, Any] = {}  # on top of the preset
    # Train on this many, evenly spaced over the manifest.
    utterances: int | None = Field(default=None, ge=8)
    gates: TrainGates = TrainGates()


class AblateGates(_PlanSection):
    """Bounds of an ablation; `off` leaves a gate out."""

    trials: _Count = 2  # trials that must finish
    canary_points: _Bound = 2.0  # points of WER that the canary may lose with the chosen trial
    condition_points: _Bound = 1.0  # points of WER that any condition may lose against the base


class AblatePhase(PhaseSettings):
    """Search settings, choose a trial, score it under other acoustic conditions."""

    kind: Literal["ablate"]
    model: str = "tiny"  # catalog name, folder, or `stand-in`
    preset: str | None = None
    settings: dict[str, Any] = {}  # on top of the preset
    space: str = "quick"  # YAML file, or a shipped search space
    trials: int = Field(default=12, ge=1)
    steps: int | None = Field(default=None, ge=1)  # training steps of each trial
    conditions: tuple[
        Literal["fast", "slow", "quiet", "noise-20dB", "noise-10dB", "telephone"], ...
    ] = ()
    gates: AblateGates = AblateGates()


class ShipGates(_PlanSection):
    """Bounds of the shipped files; `off` leaves a gate out, except parity."""

    parity: float = Field(default=5.0, gt=0)  # points of words beyond the base's own files
    canary_points: _Bound = 2.0  # points of WER that the canary may lose, runtime
    p95_ms: _Bound = None  # latency that 95 % of the clips keep
    peak_memory_mb: _Bound = None  # memory of the runtime


class ShipPhase(PhaseSettings):
    """Export, score with the runtime, benchmark, package, verify."""

    kind: Literal["ship"]
    source: str  # the phase whose adapter is shipped
    method: Literal["graft", "trace"] = "graft"  # as `moonshine-tune export --method`
    benchmark_clips: int = Field(default=24, ge=2)
    rounds: int = Field(default=3, ge=1)  # timed calls of each clip
    sample: bool = False  # pack three test clips, as audio, for `verify` elsewhere
    gates: ShipGates = ShipGates()


KINDS: dict[str, type[PhaseSettings]] = {
    "doctor": DoctorPhase,
    "synthesize": SynthesizePhase,
    "train": TrainPhase,
    "ablate": AblatePhase,
    "ship": ShipPhase,
}


class DataSection(_PlanSection):
    """Manifests: paths relative to the plan file, or `PHASE:NAME` of a synthesize phase."""

    train: str
    test: str  # judges the result; no choice is made on it
    dev: str | None = None  # chooses the adapter; default: speakers held out of train
    canary: str | None = None  # general speech with transcripts that must not get worse
    dev_canary: str | None = None  # canary for the choice of the adapter; default: `canary`
    replay: str | None = None  # general speech for the teacher: a manifest, a folder, auto or none
    normalizer: str | None = None  # of all scores


class PlanSettings(_PlanSection):
    """The content of a plan file."""

    name: str = Field(min_length=1)
    data: DataSection
    phases: dict[
        str,
        Annotated[
            DoctorPhase | SynthesizePhase | TrainPhase | AblatePhase | ShipPhase,
            Field(discriminator="kind"),
        ],
    ] = Field(min_length=1)

    def synthesized(self, role: str) -> tuple[str, str] | None:
        """Phase and set that make the manifest of a role; None for a file and for no manifest."""
        phase, colon, name = (getattr(self.data, role) or "").partition(":")
        made = colon and isinstance(self.phases.get(phase), SynthesizePhase)
        return (phase, name) if made else None

    def needs(self, name: str) -> tuple[str, ...]:
        """Phases that a phase lists as needed, and those whose results it reads."""
        phase = self.phases[name]
        needed = list(phase.needs)
        if isinstance(phase, ShipPhase):
            needed.append(phase.source)
        if not isinstance(phase, SynthesizePhase | DoctorPhase):
            needed += [made[0] for role in ROLES if (made := self.synthesized(role))]
        return tuple(dict.fromkeys(needed))


# --- reading and checking a plan


@dataclass(frozen=True)
class Plan:
    """A plan that was read and checked.

    Attributes:
        source: path of the plan file, or the name of a shipped plan.
        folder: base of relative paths in the plan.
        order: names of the phases, each after those it needs.
    """

    source: str
    folder: Path
    settings: PlanSettings
    order: tuple[str, ...]


def plan_names() -> tuple[str, ...]:
    """Names of the plans that ship with the package."""
    return shipped_names(_PLANS)


def read_plan(name: str) -> Plan:
    """Read a plan file, or a shipped plan by its name.

    Raises:
        RequestError: there is no such file or plan, or it is not YAML.
        ProblemsError: everything that is wrong in it, together.
    """
    path = Path(name)
    if path.is_file():
        content, folder = read_yaml(path), path.absolute().parent
    elif name in plan_names():
        content, folder = read_shipped(_PLANS, name), Path().absolute()
    else:
        raise RequestError(
            "no such plan",
            where=path,
            hint="write one with: moonshine-tune plan init, or run a shipped one: "
            + ", ".join(plan_names()),
        )
    if not isinstance(content, dict):
        raise RequestError("a plan must be a YAML mapping", where=path, hint=_HINT)
    if path.is_file():
        _check_names(content, path)
    return check_plan(content, source=name, folder=folder)


def _check_names(content: Mapping[str, Any], path: Path) -> None:
    """Refuse phases whose names cannot be folders, with the line of each.

    Raises:
        ProblemsError: all of them, together.
    """
    phases = content.get("phases")
    problems = _wrong_names(phases) if isinstance(phases, dict) else {}
    if problems:
        lines = _lines_of_phases(path)
        raise ProblemsError(
            f"the plan {path} has phases that cannot be folders",
            [f"{path}:{lines.get(name, 1)}: {problem}" for name, problem in problems.items()],
            hint=_HINT,
        )


def _wrong_names(names: Iterable[object]) -> dict[str, str]:
    """What is wrong with names of phases, by name: each is a folder in the plan's folder."""
    problems, known = {}, dict[str, str]()
    for name in map(str, names):
        if problem := name_problem(name):
            problems[name] = f"the name of phase {name!r} {problem}"
        elif twin := known.get(name.casefold()):
            problems[name] = f"phases {twin!r} and {name!r} are one folder where case is ignored"
        known.setdefault(name.casefold(), name)
    return problems


def _lines_of_phases(path: Path) -> dict[str, int]:
    """The line of each key of `phases` in a plan file."""
    root = yaml.compose(path.read_text(encoding="utf-8"), yaml.SafeLoader)
    for key, value in root.value if isinstance(root, yaml.MappingNode) else ():
        if key.value == "phases" and isinstance(value, yaml.MappingNode):
            return {str(name.value): name.start_mark.line + 1 for name, _ in value.value}
    return {}


def check_plan(content: Mapping[str, Any], *, source: str, folder: Path) -> Plan:
    """Check the content of a plan.

    Raises:
        ProblemsError: everything that is wrong in it, together.
    """
    try:
        settings = PlanSettings.model_validate(_with_kinds(content))
        problems = [
            *_wrong_names(settings.phases).values(), *_wrong_needs(settings),
            *_missing_files(settings, folder), *_wrong_settings(settings),
        ]  # fmt: skip
        order = () if problems else _in_order(settings)
    except ValidationError as error:
        problems = [_in_words(dict(item)) for item in error.errors()]
    except _CycleError as error:
        problems = [f"phases need each other in a cycle: {error}"]
    if problems:
        raise ProblemsError(f"the plan {source} has problems", problems, hint=_HINT)
    return Plan(source, folder, settings, order)


def _with_kinds(content: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in `kind` for phases that are named after their kind."""
    phases = content.get("phases")
    if not isinstance(phases, dict):
        return dict(content)
    filled = {}
    for name, phase in phases.items():
        body = {} if phase is None else phase
        if isinstance(body, dict) and "kind" not in body and name in KINDS:
            body = {"kind": name, **body}
        filled[str(name)] = body
    return {**content, "phases": filled}


def _in_words(item: Mapping[str, Any]) -> str:
    """A pydantic error as a sentence, with the nearest name for an unknown key."""
    path = [str(part) for part in item["loc"]]
    model: type[BaseModel] = PlanSettings
    if path[0] == "data" and len(path) > 1:
        model = DataSection
    if path[0] == "phases" and len(path) > 2 and path[2] in KINDS:
        model = KINDS[path.pop(2)]  # pydantic adds the kind to the location
        if len(path) > 3 and path[2] == "gates":
            model = type(model.model_fields["gates"].default)
    error, key, value = item["type"], ".".join(path), item["input"]
    if error == "extra_forbidden":
        return f"{key}: unknown key{_nearest(path[-1], model.model_fields)}"
    if error in ("union_tag_invalid", "union_tag_not_found"):
        kind = str(value.get("kind", path[-1]) if isinstance(value, Mapping) else path[-1])
        return f"{key}: no kind of phase is called {kind!r}{_nearest(kind, KINDS)}"
    if error == "missing":
        return f"{key}: is missing"
    if value is None and "gates" in path:
        return f"{key} has no number: give one, or write off"
    return f"{key} = {value!r}: {item['msg']}"


def _nearest(name: str, known: Collection[str]) -> str:
    return did_you_mean(name, known) or f"; known: {', '.join(known)}"


def _wrong_needs(settings: PlanSettings) -> Iterator[str]:
    phases = settings.phases
    for name, phase in phases.items():
        named = [("needs", needed) for needed in phase.needs]
        if isinstance(phase, ShipPhase):
            named.append(("source", phase.source))
        for key, needed in named:
            if needed not in phases:
                near = _nearest(needed, phases)
                yield f"phases.{name}.{key}: no phase is called {needed!r}{near}"
            elif key == "source" and not isinstance(phases[needed], TrainPhase | AblatePhase):
                yield f"phases.{name}.source: {needed} trains no adapter that can be shipped"


def _missing_files(settings: PlanSettings, folder: Path) -> Iterator[str]:
    for role in ROLES:
        value = getattr(settings.data, role)
        made = settings.synthesized(role)
        if made and made[1] not in SYNTHESIZED:
            near = _nearest(made[1], SYNTHESIZED)
            yield f"data.{role} = {value!r}: {made[0]} synthesizes no {made[1]!r}{near}"
        elif role == "replay" and (value in REPLAY_WORDS or _is_folder(folder, value)):
            continue
        elif value is not None and not made and not _is_file(folder, value):
            yield f"data.{role}: no such manifest: {value}"


def _is_folder(folder: Path, name: str | None) -> bool:
    """Whether a folder of recordings exists."""
    try:
        return name is not None and (folder / home_expanded(name)).is_dir()
    except (OSError, RuntimeError, ValueError):
        return False


def _is_file(folder: Path, name: str) -> bool:
    """Whether a manifest exists; a name that no disk or system takes does not."""
    try:
        return is_file(folder / home_expanded(name))
    except RuntimeError:
        # No user of that name.
        return False


def _wrong_settings(settings: PlanSettings) -> Iterator[str]:
    """Problems of presets, search spaces and training settings, found by their own readers."""
    for name, phase in settings.phases.items():
        if not isinstance(phase, TrainPhase | AblatePhase):
            continue
        try:
            preset = read_preset(phase.preset) if phase.preset else {}
            resolve_settings([("preset", preset), (f"phases.{name}.settings", phase.settings)])
        except ProblemsError as error:
            yield from error.problems
        except RequestError as error:
            yield f"phases.{name}.preset: {error.message}"
        if isinstance(phase, AblatePhase):
            try:
                read_space(phase.space)
            except TuneError as error:
                yield f"phases.{name}.space: {error.message}"


class _CycleError(Exception):
    """Phases need each other; the message is the path."""


def _in_order(settings: PlanSettings) -> tuple[str, ...]:
    """Phases as written, but each after those it needs."""
    order: list[str] = []

    def add(name: str, path: list[str]) -> None:
        if name in path:
            raise _CycleError(" → ".join([*path[path.index(name) :], name]))
        if name not in order:
            for needed in settings.needs(name):
                add(needed, [*path, name])
            order.append(name)

    for name in settings.phases:
        add(name, [])
    return tuple(order)
