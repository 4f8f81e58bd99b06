"""`export`: write an adapted model as runtime files and check that they compute the same."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from moonshine_tune.audio.io import load_utterance
from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import (
    complete_folder,
    disk_errors,
    holds_out,
    sha256_of,
    write_bytes_atomic,
)
from moonshine_tune.core.progress import Progress
from moonshine_tune.core.provenance import versions
from moonshine_tune.core.scratch import new_scratch, refuse_existing
from moonshine_tune.corpus.manifest import Utterance
from moonshine_tune.export.adapter_file import adapter_file
from moonshine_tune.export.calibration import (
    AUTO,
    NONE,
    Rounding,
    changed_sets,
    choose_rounding,
    missing_clips,
)
from moonshine_tune.export.graft import AUTO as AUTO_SCALES
from moonshine_tune.export.graft import SCALES, GraftReport, graft
from moonshine_tune.export.graphs import build_graphs
from moonshine_tune.export.graphs.builder import require_onnx
from moonshine_tune.export.parity.base_pair import find_base_pair
from moonshine_tune.export.parity.clips import parity_clips
from moonshine_tune.export.parity.gate import DEFAULT_BOUND, check_parity
from moonshine_tune.export.parity.graphs import window_rule, windows_read_as
from moonshine_tune.export.parity.stages import open_graphs
from moonshine_tune.export.smoothing import choose_smoothing
from moonshine_tune.export.tensors import LazyArrays, model_tensors, tuned_tensors
from moonshine_tune.inference.batching import fit_clip
from moonshine_tune.models.checkpoint import load_checkpoint
from moonshine_tune.models.files import ADAPTER_WEIGHTS_FILE, refuse_stray_adapter
from moonshine_tune.models.lora import adapter_disabled, find_adapter, has_adapter
from moonshine_tune.models.merge import LazyMerged
from moonshine_tune.registry.base_model import base_identity
from moonshine_tune.registry.open import OpenedModel, open_model
from moonshine_tune.registry.resolve import ResolvedModel, resolve_model
from moonshine_tune.runs.kept_adapter import altered_adapter
from moonshine_tune.runs.records import EXPORT_FILE, ExportRecord
from moonshine_tune.runtime.formats import MOONSHINE, SHERPA_ONNX, check_format
from moonshine_tune.runtime.layout import TOKENS_FILE, RuntimeLayout, read_layout
from moonshine_tune.runtime.quantized import Doubles, Floats
from moonshine_tune.runtime.sherpa_transcriber import write_tokens

METHODS = ("graft", "trace")
SCHEMES = ("int8", "none")


@dataclass(frozen=True)
class ExportRequest:
    """The model to export and how.

    Attributes:
        run: run folder or adapter folder; None with `checkpoint`.
        checkpoint: fully tuned or merged `save_pretrained` folder, instead of `run`.
        model: the base, where it is not the one that `run` names; a graft of `checkpoint` needs it.
        base_runtime: runtime folder of the base; None takes the one that came with the model.
        manifest: clips for the parity gate; None takes the run's dev set.
        parity_bound: words that may differ, in percent, beyond those that differ between the base
            and its own runtime files.
        method: "graft" patches a copy of the base runtime folder; "trace" builds new graphs.
        calibrate: calibration clips for the rounding of a graft: "auto" takes the run's own where
            they help, "none" rounds without, a path names a manifest.
        quantize: scheme of new graphs: "int8" or "none".
        scales: of a graft: "channel" gives each output channel of an adapted matrix a scale;
            "tensor" keeps the scheme and size of the base's files; "auto" gives channels to the
            matrices that take no noticeable time with them.
        format: the runtime that is to load the files, and through which parity is checked:
            "moonshine" or "sherpa-onnx", whose folder has `tokens.txt` too.
        adapter_only: write an adapter file to `out` instead of a folder; of a graft.
    """

    run: Path | None = None
    model: str | None = None
    checkpoint: Path | None = None
    base_runtime: Path | None = None
    manifest: Path | None = None
    parity_bound: float = DEFAULT_BOUND
    device: str = "auto"
    method: str = "graft"
    calibrate: str | Path = AUTO
    quantize: str = "int8"
    scales: str = AUTO_SCALES
    format: str = MOONSHINE
    adapter_only: bool = False


@holds_out(lambda request, out, progress: out)
def export(request: ExportRequest, out: Path, progress: Progress) -> ExportRecord:
    """Write the adapted model as runtime files and compare both on real clips.

    The folder is written in any case; `parity.verdict` says whether it may be used.

    Raises:
        RequestError: no run, no base runtime files, files of other weights, or `out` exists.
        MachineError: new graphs are needed and the package onnx is missing, or the runtime of the
            format is.
    """
    refuse_existing(out)
    _check(request)
    clips = parity_clips(request.run, request.manifest)
    calibrates = request.method == "graft" and request.calibrate == AUTO
    if calibrates and (missing := missing_clips(request.run)):
        # Before the work: files with dithered rounding lose words.
        progress.say(missing)
    for remark in _remarks_on_run(request.run):
        progress.say(remark)
    subject = _open(request, progress)
    opened = subject.opened
    check_format(request.format, opened.model.family)
    layout = _base_layout(request, subject) if request.method == "graft" else None
    windows = _choose_windows(request, subject, clips.first) if layout is None else None
    with _scratch_folder(request, out) as scratch:
        start_time = time.monotonic()
        report, rounding = _write_files(request, subject, layout, windows, scratch, progress)
        seconds = time.monotonic() - start_time
        pair, judged_by = find_base_pair(opened, subject.base, request.base_runtime, request.format)
        parity = check_parity(
            opened, scratch, clips, request.parity_bound, progress, base=pair,
            judged_by=judged_by, format_name=request.format,
        )  # fmt: skip
        record = ExportRecord(
            runtime_dir=None if request.adapter_only else str(out),
            method=request.method,
            format=request.format,
            quantize=request.quantize if layout is None else None,
            scales=request.scales if layout is not None else None,
            channel_scales=report.channel_scales if layout is not None else None,
            calibrated=rounding is not None and rounding.moments is not None,
            calibrate=rounding.asked if rounding else None,
            rounding=rounding.reason if rounding else None,
            windows=windows,
            matrices=report.matrices,
            changed=report.changed,
            changed_files=list(report.changed_files),
            worst_step_error=round(report.worst_step_error, 4),
            sha256=report.sha256,
            parity=parity,
            seconds=round(seconds, 2),
        )
        kept = ExportRecord(
            schema_version=1,
            **record.to_json() | {"runtime_dir": "."},
            **subject.identity,
            versions=versions(),
        )
        if not request.adapter_only:
            kept.write(scratch / EXPORT_FILE)
        elif layout is not None:
            content = adapter_file(layout, scratch, kept)
            write_bytes_atomic(out, content, replace=False)
            update = {"adapter_file": str(out), "adapter_bytes": len(content)}
            record = record.model_copy(update=update)
    return record


def _remarks_on_run(path: Path | None) -> list[str]:
    """What of a run is not as it was when it ended."""
    if path is None:
        return []
    altered = altered_adapter(find_adapter(path))
    return [altered, *changed_sets(path)] if altered else changed_sets(path)


@contextmanager
def _scratch_folder(request: ExportRequest, out: Path) -> Iterator[Path]:
    """The folder to write to, which becomes `out`; for an adapter file it is gone afterwards."""
    if not request.adapter_only:
        with complete_folder(out) as scratch:
            yield scratch
        return
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with new_scratch(out, is_folder=True) as scratch:
            yield scratch


def _write_files(
    request: ExportRequest,
    subject: "_Subject",
    layout: RuntimeLayout | None,
    windows: dict[str, str] | None,
    out: Path,
    progress: Progress,
) -> tuple[GraftReport, Rounding | None]:
    """Fill the folder `out` with the runtime files of the trained model."""
    model = subject.opened.model
    rounding: Rounding | None = None
    if layout is None:
        with windows_read_as(model, windows["rule"] if windows else None):
            report = build_graphs(model, model_tensors(model), out, scheme=request.quantize)
    elif has_adapter(model):
        rounding = choose_rounding(request.calibrate, request.run, subject.opened, layout, progress)
        progress.say(f"rounding: {rounding.reason}")
        report = graft_adapter(
            subject.opened, layout, out, moments=rounding.moments, scales=request.scales
        )
    else:
        report = _graft_checkpoint(subject, layout, out, request.scales)
    if request.format == SHERPA_ONNX:
        write_tokens(read_layout(out), out)
        report.sha256[TOKENS_FILE] = sha256_of(out / TOKENS_FILE)
    return report, rounding


@dataclass(frozen=True)
class _Subject:
    """The trained model and its base; `identity` describes both in export.json."""

    opened: OpenedModel
    base: ResolvedModel
    identity: dict[str, Any]


def _open(request: ExportRequest, progress: Progress) -> _Subject:
    adapter = find_adapter(request.run) if request.run is not None else None
    # Without a name, the base that the run or the adapter names.
    name = request.model if request.run is not None else str(request.checkpoint)
    opened = open_model(
        name, adapter=adapter, device=request.device, dtype="float32", progress=progress
    )
    if adapter is not None:
        digest = sha256_of(adapter / ADAPTER_WEIGHTS_FILE)
        return _Subject(opened, opened.resolved, {"base": opened.base, "adapter_sha256": digest})
    base = opened.resolved
    identity = {"base": opened.base, "checkpoint_sha256": opened.base["sha256"]}
    if request.model is not None:
        base = resolve_model(request.model, progress=progress)
        refuse_stray_adapter(base.checkpoint_dir)
        identity["base"] = base_identity(base)
    return _Subject(opened, base, identity)


def _graft_checkpoint(
    subject: _Subject, layout: RuntimeLayout, out: Path, scales: str
) -> GraftReport:
    """Graft every tensor in which a fully tuned checkpoint differs from its base."""
    tensors = tuned_tensors(load_checkpoint(subject.base.checkpoint_dir), subject.opened.model)
    return graft(layout, tensors.before, tensors.after, out, others=tensors.others, scales=scales)


def graft_adapter(
    opened: OpenedModel,
    layout: RuntimeLayout,
    out: Path,
    *,
    moments: dict[str, Doubles] | None = None,
    scales: str = AUTO_SCALES,
) -> GraftReport:
    """Graft the model's adapter into a copy of `layout` at `out`."""
    lazy = LazyMerged(opened.model)
    base = {name: lazy.base(name).cpu().numpy() for name in lazy}
    merged: Mapping[str, Floats] = LazyArrays(lazy)
    if not moments:
        return graft(layout, base, merged, out, scales=scales)
    everything = model_tensors(opened.model, with_adapter=False)
    smoothing = choose_smoothing(layout, opened.model.norm_readers(), everything, merged, moments)
    report = graft(
        layout,
        {**base, **smoothing.base_gains},
        smoothing.tensors(merged),
        out,
        moments=smoothing.moments(moments),
        scales=scales,
    )
    gains = len(smoothing.gains)
    return replace(report, matrices=report.matrices - gains, changed=report.changed - gains)


def _choose_windows(
    request: ExportRequest, subject: _Subject, utterances: Sequence[Utterance]
) -> dict[str, str] | None:
    """How a new encoder graph reads its windows, and why: as the base's graph, if available."""
    opened = subject.opened
    model = opened.model
    if model.family != "streaming":
        return None
    folder = request.base_runtime or subject.base.runtime_dir
    if folder is None:
        reason = "as torch computes: no runtime files of the base"
        return {"rule": "exclusive", "reason": reason}
    model.module.to("cpu")
    clip = np.ascontiguousarray(fit_clip(model, load_utterance(utterances[0])))
    with adapter_disabled(model):
        rule = window_rule(open_graphs(read_layout(folder)), model, clip)
    model.module.to(opened.device.device)
    reason = f"as the hidden states of the base's encoder graph ({folder.name})"
    return {"rule": rule, "reason": reason}


def _check(request: ExportRequest) -> None:
    for what, value, known in (
        ("method", request.method, METHODS),
        ("scheme", request.quantize, SCHEMES),
        ("kind of scales", request.scales, SCALES),
    ):
        if value not in known:
            raise RequestError(f"no {what} is called {value!r}", hint=f"one of: {', '.join(known)}")
    if (request.run is None) == (request.checkpoint is None):
        raise RequestError(
            "name either a run or a checkpoint to export",
            hint="--run RUN for an adapter, or --checkpoint DIR for a fully tuned model",
        )
    if request.checkpoint is not None and request.method == "graft" and request.model is None:
        raise RequestError(
            "a fully tuned checkpoint does not name the base that it was tuned from",
            where=request.checkpoint,
            hint="name it with --model, or build new files with --method trace",
        )
    check_format(request.format)
    if request.adapter_only and request.method != "graft":
        raise RequestError(
            "new graphs share nothing with the base's files: there is no adapter file of them",
            hint="leave out --method trace, or --adapter-only",
        )
    if request.method == "trace":
        require_onnx()
    if request.run is not None:
        # Before the clips, whose message would speak of the parity gate.
        find_adapter(request.run)
    if request.base_runtime is not None:
        # Before the model is loaded, so that a wrong folder fails at once.
        read_layout(request.base_runtime)
    is_manifest = request.calibrate not in (AUTO, NONE)
    if is_manifest and (request.method == "trace" or request.run is None):
        raise RequestError(
            "calibration applies only to grafting an adapter", hint="leave out --calibrate"
        )


def _base_layout(request: ExportRequest, subject: _Subject) -> RuntimeLayout:
    folder = request.base_runtime or subject.base.runtime_dir
    if folder is None:
        raise RequestError(
            f"no runtime files of the base model {subject.base.name}",
            hint="name them with --base-runtime DIR, or build new ones with --method trace",
        )
    layout = read_layout(folder)
    family = subject.opened.model.family
    if layout.family != family:
        raise RequestError(
            f"these are runtime files of a {layout.family} model, but the trained model is a "
            f"{family} model",
            where=folder,
            hint="name the base's own runtime folder with --base-runtime",
        )
    return layout
