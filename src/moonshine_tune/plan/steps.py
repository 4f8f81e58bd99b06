"""The steps of each kind of phase: what each depends on, what it makes, what does it.

Steps are made one after the other, so that a step can depend on what the one before it made.
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moonshine_tune import __version__
from moonshine_tune.config.resolve import ResolvedSettings, read_preset, resolve_settings
from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.hardware import chip_name, total_memory_mb
from moonshine_tune.core.progress import Progress
from moonshine_tune.core.provenance import platform_summary, versions
from moonshine_tune.plan.schema import Plan
from moonshine_tune.plan.settings import (
    STAND_IN,
    AblatePhase,
    DoctorPhase,
    ShipPhase,
    SynthesizePhase,
    TrainPhase,
)
from moonshine_tune.plan.state import (
    Fingerprints,
    PlanFolder,
    PlanRecord,
    StepRecord,
    of_value,
)
from moonshine_tune.registry.resolve import ResolvedModel, resolve_model

Result = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """One job of a phase.

    Attributes:
        activity: `prepare`, `train`, `evaluate` or `export`: what its time is counted as.
        makes: the file or folder that is removed before the step is done anew; None where its
            files are written over.
        goes_on: whether a step that was stopped goes on from what lies there.
        work: does it; is told whether it goes on.
        output: fingerprint of what was made.
    """

    name: str
    activity: str
    inputs: dict[str, str]
    makes: Path | None
    work: Callable[[bool], Result]
    output: Callable[[], str]
    goes_on: bool = False


@dataclass
class Context:
    """What steps are made from."""

    plan: Plan
    folder: PlanFolder
    record: PlanRecord
    fingerprints: Fingerprints
    progress: Progress
    offline: bool = False

    def data(self, role: str) -> Path | None:
        """The manifest of a role; None where the plan has none."""
        value: str | None = getattr(self.plan.settings.data, role)
        if value is None:
            return None
        phase, colon, name = value.partition(":")
        if colon and isinstance(self.plan.settings.phases.get(phase), SynthesizePhase):
            return self.folder.phase_dir(phase) / "data" / name / "manifest.jsonl"
        return (self.plan.folder / Path(value).expanduser()).absolute()

    def data_inputs(self, *roles: str) -> dict[str, str]:
        """Fingerprints of manifests with their recordings, by `data.ROLE`."""
        found = {f"data.{role}": self.data(role) for role in roles}
        return {name: self.fingerprints.manifest(path) for name, path in found.items() if path}

    def model(self, name: str) -> ResolvedModel:
        """The model on this disk."""
        return resolve_model(name, offline=self.offline, progress=self.progress)

    def model_inputs(self, name: str) -> dict[str, str]:
        """Fingerprint of a model's files."""
        return {
            "model": self.fingerprints.folder(
                self.model(name).checkpoint_dir, ("*.json", "*.safetensors")
            )
        }

    def done(self, phase: str, step: str) -> StepRecord:
        """A step that a later one reads.

        Raises:
            RequestError: it is not done.
        """
        found = self.record.phase(phase).steps.get(step)
        if found is None or found.state != "done":
            raise RequestError(
                f"the step {step} of phase {phase} is not done", where=self.folder.path
            )
        return found

    def stand_in(self, phase: str) -> Path:
        """Where a phase's own small random model lies."""
        return self.folder.phase_dir(phase) / "model"


def steps_of(name: str, ctx: Context) -> Iterator[Step]:
    """The steps of a phase, each made when the one before it is done."""
    phase = ctx.plan.settings.phases[name]
    if isinstance(phase, DoctorPhase):
        yield from _doctor(name, phase, ctx)
    elif isinstance(phase, SynthesizePhase):
        yield from _synthesize(name, phase, ctx)
    elif isinstance(phase, TrainPhase):
        yield from _train(name, phase, ctx)
    elif isinstance(phase, AblatePhase):
        yield from _ablate(name, phase, ctx)
    else:
        yield from _ship(name, phase, ctx)


def this_machine() -> str:
    """Fingerprint of processor, memory, system and of the versions that compute."""
    return of_value([chip_name(), total_memory_mb(), platform_summary(), versions()])


def _doctor(name: str, phase: DoctorPhase, ctx: Context) -> Iterator[Step]:
    from moonshine_tune.plan.actions import look_at_machine

    yield Step(
        "doctor",
        "prepare",
        {"machine": this_machine(), "model": str(phase.model)},
        None,
        lambda _: look_at_machine(phase.model, ctx.folder.path, ctx.progress),
        lambda: "looked at",
    )


def _synthesize(name: str, phase: SynthesizePhase, ctx: Context) -> Iterator[Step]:
    from moonshine_tune.plan.actions import synthesize

    out = ctx.folder.phase_dir(name) / "data"
    counts = (phase.train, phase.dev, phase.test)
    yield Step(
        "synthesize",
        "prepare",
        {"settings": of_value([counts, phase.seed, __version__])},
        out,
        lambda _: synthesize(counts, phase.seed, out, ctx.progress),
        lambda: ctx.fingerprints.folder(out),
    )


def _stand_in(name: str, ctx: Context) -> Iterator[Step]:
    from moonshine_tune.registry.random_model import write_random_model

    tokenizer, out = ctx.model("tiny").checkpoint_dir, ctx.stand_in(name)

    def work(_: bool) -> Result:
        write_random_model(tokenizer, out)
        return {"weights": "random"}

    tokens = ctx.fingerprints.file(tokenizer / "tokenizer.json")
    inputs = {"tokenizer": tokens, "program": __version__}
    yield Step("stand-in", "prepare", inputs, out, work, lambda: ctx.fingerprints.folder(out))


def _settings(
    phase: TrainPhase | AblatePhase, model: str, ctx: Context, train: Path | None
) -> tuple[ResolvedSettings, str]:
    """Settings of a run, and their fingerprint without the places of files."""
    canary = ctx.data("dev_canary") or ctx.data("canary")
    paths = {"train": train, "dev": ctx.data("dev"), "canary": canary, "replay": ctx.data("replay")}
    data: dict[str, Any] = {key: str(path) for key, path in paths.items() if path}
    normalizer = ctx.plan.settings.data.normalizer
    data |= {"normalizer": normalizer} if normalizer else {}
    layers = [(f"preset {phase.preset}", read_preset(phase.preset))] if phase.preset else []
    layers += [("plan", {"model": model, "data": data}), ("plan", phase.settings)]
    resolved = resolve_settings(layers)
    plain = resolved.settings.model_dump(mode="json", exclude={"model"})
    for role in paths:
        plain["data"].pop(role)
    return resolved, of_value(plain)


def _train(name: str, phase: TrainPhase, ctx: Context) -> Iterator[Step]:
    from moonshine_tune.plan.actions import read_back, spread_subset, train_adapter

    place = ctx.folder.phase_dir(name)
    model = phase.model
    if model == STAND_IN:
        yield from _stand_in(name, ctx)
        model = str(ctx.stand_in(name))
    manifest, trained_on = ctx.data("train"), ctx.data_inputs("train")
    if phase.utterances and manifest:
        whole, count, manifest = manifest, phase.utterances, place / "train.jsonl"
        yield Step(
            "subset",
            "prepare",
            trained_on | {"utterances": str(count)},
            manifest,
            lambda _: spread_subset(whole, count, place / "train.jsonl"),
            lambda: ctx.fingerprints.manifest(place / "train.jsonl"),
        )
        trained_on = {"data.train": ctx.fingerprints.manifest(place / "train.jsonl")}
    resolved, settings = _settings(phase, model, ctx, manifest)
    run = place / "run"
    # A phase that others wait for proves something about this machine.
    others = ctx.plan.settings.phases.values()
    proves = {"machine": this_machine()} if any(name in other.needs for other in others) else {}
    weights = ctx.model_inputs(model)
    yield Step(
        "train",
        "train",
        {"settings": settings, "program": __version__, **weights, **trained_on, **proves,
         **ctx.data_inputs("dev", "canary", "dev_canary", "replay")},
        run,
        lambda goes_on: train_adapter(resolved, run, ctx.progress, resume=goes_on),
        lambda: adapter_print(run, ctx),
        goes_on=True,
    )  # fmt: skip
    adapter = {"adapter": adapter_print(run, ctx)}
    heard = ctx.data("dev") or manifest
    if heard is not None:
        yield Step(
            "read back",
            "evaluate",
            adapter | weights,
            None,
            lambda _: read_back(run, model, heard, ctx.progress),
            lambda: "read",
        )
    yield score_step(
        name, "torch", ctx, adapter | weights, lambda out: _torch(ctx, model, run, out)
    )


def _torch(ctx: Context, model: str, run: Path, out: Path) -> Result:
    from moonshine_tune.plan.actions import score_torch

    normalizer = ctx.plan.settings.data.normalizer
    return score_torch(model, run, judged(ctx), normalizer, out, ctx.progress)


def adapter_print(run: Path, ctx: Context) -> str:
    """Fingerprint of the adapter of a run."""
    return ctx.fingerprints.folder(run / "adapter", ("*.safetensors", "selection.json"))


def judged(ctx: Context) -> dict[str, Path]:
    """The sets that judge, by name."""
    named = {"domain": ctx.data("test"), "canary": ctx.data("canary")}
    return {name: path for name, path in named.items() if path}


def score_step(
    phase: str, backend: str, ctx: Context, inputs: dict[str, str], work: Callable[[Path], Result]
) -> Step:
    """Scoring on the test set and the canary; `work` is given the folder to write to."""
    out = ctx.folder.phase_dir(phase) / "eval"
    return Step(
        f"score {backend}",
        "evaluate",
        {
            **inputs,
            **ctx.data_inputs("test", "canary"),
            "normalizer": str(ctx.plan.settings.data.normalizer),
        },
        None,
        lambda _: work(out),
        lambda: ctx.fingerprints.folder(out, (f"*-{backend}/hypotheses.jsonl",)),
    )


def _ablate(name: str, phase: AblatePhase, ctx: Context) -> Iterator[Step]:
    from moonshine_tune.ablation.request import AblateRequest
    from moonshine_tune.ablation.space_file import read_space
    from moonshine_tune.plan.actions import choose_trial, hear_conditions, search

    place = ctx.folder.phase_dir(name)
    model = phase.model
    if model == STAND_IN:
        yield from _stand_in(name, ctx)
        model = str(ctx.stand_in(name))
    resolved, settings = _settings(phase, model, ctx, ctx.data("train"))
    space, out = read_space(phase.space), place / "search"
    weights = ctx.model_inputs(model)
    layer = resolved.settings.model_dump(mode="json")
    moved = {key for dimension in space.dimensions for key in dimension.keys}
    request = AblateRequest(
        out=out,
        space=space,
        layers=(("plan", _without(layer, moved)),),
        trials=phase.trials,
        steps=phase.steps,
    )

    def run_search(goes_on: bool) -> Result:
        if not goes_on and out.exists():
            shutil.rmtree(out)
        return search(request, ctx.progress)

    yield Step(
        "search",
        "train",
        {"settings": of_value([settings, space.to_record(), phase.trials, phase.steps]),
         "program": __version__, **weights,
         **ctx.data_inputs("train", "dev", "canary", "dev_canary", "replay")},
        out,
        run_search,
        lambda: ctx.fingerprints.folder(out, ("trials/*/adapter/*.safetensors",)),
        goes_on=True,
    )  # fmt: skip
    found = ctx.done(name, "search")
    bound = phase.gates.canary_points
    yield Step(
        "choose",
        "evaluate",
        {"search": found.output, "bound": str(bound)},
        None,
        lambda _: choose_trial(out, bound, found.result["trials"]),
        lambda: ctx.fingerprints.file(out / "chosen.yaml"),
    )
    chosen = ctx.done(name, "choose").result.get("run")
    if phase.conditions and chosen:
        run, test = out / str(chosen), ctx.data("test")
        heard = place / "conditions"
        normalizer = ctx.plan.settings.data.normalizer
        if test is None:
            return
        yield Step(
            "conditions",
            "evaluate",
            {"adapter": adapter_print(run, ctx), "conditions": of_value(phase.conditions),
             "normalizer": str(normalizer), **weights, **ctx.data_inputs("test")},
            heard,
            lambda _: hear_conditions(
                model, run, test, phase.conditions, normalizer, heard, ctx.progress
            ),
            lambda: ctx.fingerprints.folder(heard / "eval", ("*/hypotheses.jsonl",)),
        )  # fmt: skip


def _without(layer: Result, keys: set[str], prefix: str = "") -> Result:
    """Settings without those that the search moves."""
    kept: Result = {}
    for key, value in layer.items():
        if isinstance(value, dict):
            kept[key] = _without(value, keys, f"{prefix}{key}.")
        elif f"{prefix}{key}" not in keys and value is not None:
            kept[key] = value
    return kept


def source_run(ctx: Context, name: str) -> tuple[Path, str]:
    """Run folder and model name of the phase whose adapter is shipped.

    Raises:
        RequestError: it has no adapter, or is not done.
    """
    phase = ctx.plan.settings.phases[name]
    place = ctx.folder.phase_dir(name)
    model = phase.model if isinstance(phase, TrainPhase | AblatePhase) else ""
    model = str(ctx.stand_in(name)) if model == STAND_IN else model
    if isinstance(phase, TrainPhase):
        ctx.done(name, "train")
        return place / "run", model
    chosen = ctx.done(name, "choose").result.get("run")
    if not chosen:
        raise RequestError(f"phase {name} has chosen no trial", where=ctx.folder.path)
    return place / "search" / str(chosen), model


def _ship(name: str, phase: ShipPhase, ctx: Context) -> Iterator[Step]:
    from moonshine_tune.plan.ship import ship_steps

    yield from ship_steps(name, phase, ctx)
