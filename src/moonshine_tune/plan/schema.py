"""The file of a plan: phases as a graph of jobs, each with gates, checked as a whole.

Everything wrong in it is reported together, before anything runs: unknown keys and phases with the
nearest name, loops with their path, files that do not exist, gates without a figure.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from moonshine_tune.ablation.space_file import read_space
from moonshine_tune.config.resolve import preset_names, read_preset, resolve_settings
from moonshine_tune.core.errors import ProblemsError, RequestError, TuneError
from moonshine_tune.core.yaml import read_shipped, read_yaml, shipped_names
from moonshine_tune.plan.settings import (
    KINDS,
    ROLES,
    SYNTHESIZED,
    AblatePhase,
    DataSection,
    DoctorPhase,
    PhaseSettings,
    PlanSettings,
    ShipPhase,
    SynthesizePhase,
    TrainPhase,
)


@dataclass(frozen=True)
class Plan:
    """A plan that was read and checked.

    Attributes:
        source: its file, or the name of a shipped one.
        folder: what paths in it are relative to.
        order: names of the phases, each after those it needs.
    """

    source: str
    folder: Path
    settings: PlanSettings
    order: tuple[str, ...]

    def needs(self, name: str) -> tuple[str, ...]:
        """All phases that `name` needs: those it names, and those whose results it reads."""
        return _needs(name, self.settings)


def plan_names() -> tuple[str, ...]:
    """Names of the plans that ship with the package."""
    return shipped_names("plan/plans")


def read_plan(name: str) -> Plan:
    """A plan by the path of its file, or by the name of a shipped one.

    Raises:
        RequestError: there is no such file or name, or it is not YAML.
        ProblemsError: everything that is wrong in it, together.
    """
    path = Path(name)
    if path.is_file():
        content = read_yaml(path)
        folder = path.absolute().parent
    elif name in plan_names():
        content = read_shipped("plan/plans", name)
        folder = Path().absolute()
    else:
        raise RequestError(
            "no such plan",
            where=path,
            hint="write one with: moonshine-tune plan init, or run a shipped one: "
            + ", ".join(plan_names()),
        )
    if not isinstance(content, dict):
        raise RequestError("a plan must be a YAML mapping", where=path)
    return check_plan(content, source=name, folder=folder)


def check_plan(content: Mapping[str, Any], *, source: str, folder: Path) -> Plan:
    """A plan from its content.

    Raises:
        ProblemsError: everything that is wrong in it, together.
    """
    problems = list(_gates_without_figure(content))
    settings: PlanSettings | None = None
    try:
        settings = PlanSettings.model_validate(_with_kinds(content))
    except ValidationError as error:
        # What has no figure is named above, in better words.
        told = {problem.split(" ")[0] for problem in problems}
        found = [_in_words(dict(item), content) for item in error.errors()]
        problems += [text for text in found if text.split(" ")[0].rstrip(":") not in told]
    if settings is not None:
        problems += [
            *_wrong_needs(settings), *_wrong_files(settings, folder), *_wrong_settings(settings)
        ]  # fmt: skip
    loop = _loop_in(settings) if settings is not None and not problems else None
    if loop:
        problems.append(f"phases wait for each other in a loop: {' → '.join(loop)}")
    if problems or settings is None:
        raise ProblemsError(
            f"the plan {source} cannot be carried out",
            problems,
            hint="write a valid plan to start from: moonshine-tune plan init plan.yaml",
        )
    return Plan(source, folder, settings, _in_order(settings))


def _with_kinds(content: Mapping[str, Any]) -> dict[str, Any]:
    """A phase that is called after a kind needs no `kind`."""
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


def _gates_without_figure(content: Mapping[str, Any]) -> Iterator[str]:
    phases = content.get("phases")
    for name, phase in phases.items() if isinstance(phases, dict) else ():
        gates = phase.get("gates") if isinstance(phase, dict) else None
        for gate, figure in gates.items() if isinstance(gates, dict) else ():
            if figure is None:
                yield f"phases.{name}.gates.{gate} has no figure: give one, or write off"


def _in_words(item: Mapping[str, Any], content: Mapping[str, Any]) -> str:
    """One fault that pydantic found, with the nearest name where a key is not known."""
    place = [str(part) for part in item["loc"]]
    if len(place) > 2 and place[0] == "phases" and place[2] in KINDS:
        del place[2]  # pydantic names the kind where it looks into it
    key = ".".join(place)
    if item["type"] == "extra_forbidden":
        return f"{key}: not known here{_nearest(place[-1], _known_keys(place, content))}"
    if item["type"] in ("union_tag_invalid", "union_tag_not_found"):
        phase = item["input"] if isinstance(item["input"], Mapping) else {}
        kind = str(phase.get("kind", place[-1]))
        return f"{key}: no kind of phase is called {kind!r}{_nearest(kind, tuple(KINDS))}"
    if item["type"] == "missing":
        return f"{key}: is missing"
    return f"{key} = {item['input']!r}: {item['msg']}"


def _known_keys(place: Sequence[str], content: Mapping[str, Any]) -> tuple[str, ...]:
    """Keys that are allowed beside the last of `place`."""
    model: type[BaseModel] = PlanSettings
    if place[0] == "data" and len(place) > 1:
        model = DataSection
    elif place[0] == "phases" and len(place) > 2:
        phase = (content.get("phases") or {}).get(place[1]) or {}
        model = KINDS.get(str(phase.get("kind", place[1])), PhaseSettings)
        if len(place) > 3 and "gates" in model.model_fields:
            gates = model.model_fields["gates"].annotation
            model = gates if isinstance(gates, type) else model
    return tuple(model.model_fields)


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"


def _wrong_needs(settings: PlanSettings) -> Iterator[str]:
    phases = settings.phases
    for name, phase in phases.items():
        for needed in phase.needs:
            if needed not in phases:
                near = _nearest(needed, tuple(phases))
                yield f"phases.{name}.needs: no phase is called {needed!r}{near}"
        if isinstance(phase, ShipPhase):
            source = phases.get(phase.source)
            if source is None:
                yield (
                    f"phases.{name}.source: no phase is called {phase.source!r}"
                    f"{_nearest(phase.source, tuple(phases))}"
                )
            elif not isinstance(source, TrainPhase | AblatePhase):
                yield f"phases.{name}.source: {phase.source} trains nothing that can be shipped"


def _wrong_files(settings: PlanSettings, folder: Path) -> Iterator[str]:
    for role in ROLES:
        value = getattr(settings.data, role)
        if value is None:
            continue
        phase, colon, item = value.partition(":")
        if colon and isinstance(settings.phases.get(phase), SynthesizePhase):
            if item not in SYNTHESIZED:
                near = _nearest(item, SYNTHESIZED)
                yield f"data.{role} = {value!r}: {phase} makes no {item!r}{near}"
        elif not (folder / Path(value).expanduser()).is_file():
            yield f"data.{role}: no such manifest: {value}"


def _wrong_settings(settings: PlanSettings) -> Iterator[str]:
    """Presets, spaces and settings of training, which have readers of their own."""
    for name, phase in settings.phases.items():
        if not isinstance(phase, TrainPhase | AblatePhase):
            continue
        if phase.preset is not None and phase.preset not in preset_names():
            near = _nearest(phase.preset, preset_names())
            yield f"phases.{name}.preset: none is called {phase.preset!r}{near}"
            continue
        try:
            preset = read_preset(phase.preset) if phase.preset else {}
            resolve_settings([("preset", preset), (f"phases.{name}.settings", phase.settings)])
        except ProblemsError as error:
            yield from error.problems
        if isinstance(phase, AblatePhase):
            try:
                read_space(phase.space)
            except TuneError as error:
                yield f"phases.{name}.space: {error.message}"


def _needs(name: str, settings: PlanSettings) -> tuple[str, ...]:
    phase = settings.phases[name]
    found = list(phase.needs)
    if isinstance(phase, ShipPhase):
        found.append(phase.source)
    if not isinstance(phase, SynthesizePhase | DoctorPhase):
        for role in ROLES:
            maker = (getattr(settings.data, role) or "").partition(":")
            if maker[1] and isinstance(settings.phases.get(maker[0]), SynthesizePhase):
                found.append(maker[0])
    return tuple(dict.fromkeys(found))


def _loop_in(settings: PlanSettings) -> list[str] | None:
    """The path of a loop, or None."""
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str] | None:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return None
        for needed in _needs(name, settings):
            found = visit(needed, [*path, name])
            if found:
                return found
        done.add(name)
        return None

    return next((found for name in settings.phases if (found := visit(name, []))), None)


def _in_order(settings: PlanSettings) -> tuple[str, ...]:
    """As written, but each phase after those it needs."""
    order: list[str] = []

    def add(name: str) -> None:
        if name not in order:
            for needed in _needs(name, settings):
                add(needed)
            order.append(name)

    for name in settings.phases:
        add(name)
    return tuple(order)
