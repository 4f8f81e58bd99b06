"""The steps of a phase that ships: export, score as users hear it, benchmark, package, verify."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from moonshine_tune import __version__
from moonshine_tune.core.errors import RequestError
from moonshine_tune.plan.settings import ShipPhase
from moonshine_tune.plan.steps import (
    Context,
    Step,
    adapter_print,
    judged,
    score_step,
    source_run,
    this_machine,
)

Result = dict[str, Any]


def ship_steps(name: str, phase: ShipPhase, ctx: Context) -> Iterator[Step]:
    """All steps of the phase."""
    place = ctx.folder.phase_dir(name)
    run, model = source_run(ctx, phase.source)
    adapter = {"adapter": adapter_print(run, ctx)}
    runtime, base_dir = place / "runtime", ctx.model(model).runtime_dir
    test = ctx.data("test")
    if test is None:
        raise RequestError("a plan that ships needs a test set", where=ctx.folder.path)
    yield Step(
        "export",
        "export",
        {**adapter, **ctx.model_inputs(model), **ctx.data_inputs("test"),
         "method": phase.method, "parity": str(phase.gates.parity), "program": __version__},
        runtime,
        lambda _: _export(phase, run, model, test, runtime, ctx),
        lambda: _runtime_print(runtime, ctx),
    )  # fmt: skip
    files = {"runtime": _runtime_print(runtime, ctx)}
    yield score_step(name, "runtime", ctx, files, lambda out: _score(base_dir, runtime, out, ctx))
    heard = ctx.done(name, "score runtime").output
    bench = place / "benchmark"
    yield Step(
        "benchmark",
        "evaluate",
        {**files, **ctx.data_inputs("test"), "machine": this_machine(),
         "settings": f"{phase.benchmark_clips} clips, {phase.rounds} rounds"},
        None,
        lambda _: _benchmark(phase, runtime, base_dir, test, bench, ctx),
        lambda: ctx.fingerprints.file(bench / "benchmark.json"),
    )  # fmt: skip
    archive = place / f"{run.parent.name if run.name == 'run' else name}.tar.gz"
    yield Step(
        "package",
        "export",
        {**adapter, **files, "scores": heard, "sample": str(phase.sample),
         "benchmark": ctx.done(name, "benchmark").output, "program": __version__},
        archive,
        lambda _: _package(phase, run, runtime, test, archive, ctx),
        lambda: ctx.fingerprints.file(archive),
    )  # fmt: skip
    yield Step(
        "verify",
        "evaluate",
        {"package": ctx.done(name, "package").output, "machine": this_machine()},
        None,
        lambda _: _verify(archive, ctx),
        lambda: "verified",
    )


def _runtime_print(folder: Path, ctx: Context) -> str:
    """Of the files that the runtime loads: export.json holds times."""
    return ctx.fingerprints.folder(folder, ("*.ort", "*.bin", "streaming_config.json"))


def _export(phase: ShipPhase, run: Path, model: str, test: Path, out: Path, ctx: Context) -> Result:
    from moonshine_tune.export.run import ExportRequest, export

    request = ExportRequest(
        run=run,
        model=model,
        manifest=test,
        method=phase.method,
        parity_bound=phase.gates.parity,
    )
    record = export(request, out, ctx.progress).to_record()
    parity = record["parity"]
    return {
        "changed": record["changed"],
        "changed_files": record["changed_files"],
        "parity": {key: parity[key] for key in
                   ("passed", "word_difference", "words", "clips", "identical")},
    }  # fmt: skip


def _score(base_dir: Path | None, runtime: Path, out: Path, ctx: Context) -> Result:
    from moonshine_tune.plan.actions import score_runtime

    normalizer = ctx.plan.settings.data.normalizer
    return score_runtime(base_dir, runtime, judged(ctx), normalizer, out, ctx.progress)


def _benchmark(
    phase: ShipPhase, runtime: Path, base_dir: Path | None, test: Path, out: Path, ctx: Context
) -> Result:
    from moonshine_tune.evaluation.benchmark.run import BenchmarkRequest, benchmark

    request = BenchmarkRequest(
        runtime_dir=runtime,
        manifest=test,
        compare=base_dir,
        normalizer=ctx.plan.settings.data.normalizer,
        rounds=phase.rounds,
        max_clips=phase.benchmark_clips,
    )
    record = benchmark(request, out, ctx.progress).to_record()
    names = ("latency_ms", "load_ms", "rtf", "memory_mb", "total_bytes", "clips")
    return {name: record[name] for name in names}


def _package(
    phase: ShipPhase, run: Path, runtime: Path, test: Path, out: Path, ctx: Context
) -> Result:
    from moonshine_tune.release.inputs import PackageRequest
    from moonshine_tune.release.package import package

    scores = runtime.parent / "eval"
    request = PackageRequest(
        run=run,
        runtime_dir=runtime,
        evaluations=tuple(sorted(scores.glob("*-adapted-runtime"))),
        base_evaluations=tuple(sorted(scores.glob("*-base-runtime"))),
        benchmark=runtime.parent / "benchmark",
        sample=test if phase.sample else None,
        # The gate of the phase says no by itself; the card says so too.
        allow_failed_parity=True,
    )
    result = package(request, out, ctx.progress)
    return {"files": result.files, "bytes": result.bytes, "sha256": result.sha256}


def _verify(archive: Path, ctx: Context) -> Result:
    from moonshine_tune.release.verify import verify

    result = verify(archive, ctx.progress)
    return {
        "passed": result.passed,
        "files": result.files,
        "problems": list(result.problems),
        "sample_clips": result.sample.clips if result.sample else 0,
        "sample_identical": result.sample.identical if result.sample else 0,
    }
