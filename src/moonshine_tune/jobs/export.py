"""From an adapter to files that the Moonshine runtime loads, with the proof that they are equal."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moonshine_tune.adapter import (
    WEIGHTS_FILE,
    adapter_disabled,
    find_adapter,
    merged_weights,
)
from moonshine_tune.audio.decode import load_utterance
from moonshine_tune.decode import TorchTranscriber, fit_clip
from moonshine_tune.errors import RequestError
from moonshine_tune.files import complete_folder, sha256_of, write_json_atomic
from moonshine_tune.jobs.export_parity import check_parity, parity_record, parity_utterances
from moonshine_tune.jobs.model_opening import OpenedModel, open_model
from moonshine_tune.jobs.transcribe import transcribe_utterances
from moonshine_tune.manifest import Utterance, read_manifest
from moonshine_tune.progress import Progress
from moonshine_tune.provenance import versions
from moonshine_tune.runs import RunFolder
from moonshine_tune.runtime.calibration import input_moments
from moonshine_tune.runtime.graft import GraftReport, graft
from moonshine_tune.runtime.graph_parity import merged_state, window_rule, windows_read_as
from moonshine_tune.runtime.graphs import open_graphs
from moonshine_tune.runtime.layout import RuntimeLayout, read_layout
from moonshine_tune.runtime.parity import DEFAULT_BOUND, ParityResult
from moonshine_tune.runtime.quantized import Doubles

METHODS = ("graft", "trace")
SCHEMES = ("int8", "none")
_CALIBRATION_CLIPS = 24


@dataclass(frozen=True)
class ExportRequest:
    """What is to be exported.

    Attributes:
        run: run folder, or adapter folder together with `model`.
        base_runtime: runtime folder of the base; None takes the one that came with the model.
        manifest: clips for the parity gate; None takes the run's dev set.
        parity_bound: words that may differ, in percent.
        method: "graft" writes into a copy of the base runtime folder; "trace" builds new graphs.
        calibrate: clips whose inputs steer the rounding of a graft; None rounds without.
        quantize: scheme of traced graphs: "int8" or "none".
    """

    run: Path
    model: str | None = None
    base_runtime: Path | None = None
    manifest: Path | None = None
    parity_bound: float = DEFAULT_BOUND
    device: str = "auto"
    method: str = "graft"
    calibrate: Path | None = None
    quantize: str = "int8"


@dataclass(frozen=True)
class WindowChoice:
    """How a traced streaming encoder reads its windows, and why so."""

    rule: str
    reason: str


@dataclass(frozen=True)
class ExportResult:
    """The exported folder with its proof; `graft` tells what was written, by either method."""

    runtime_dir: Path
    graft: GraftReport
    parity: ParityResult
    seconds: float
    method: str = "graft"
    quantize: str | None = None
    calibrated: bool = False
    windows: WindowChoice | None = None

    def to_record(self) -> dict[str, Any]:
        """The JSON document of `export`, which also lies in the folder as export.json."""
        return {
            "runtime_dir": str(self.runtime_dir),
            "method": self.method,
            "quantize": self.quantize,
            "calibrated": self.calibrated,
            "windows": None
            if self.windows is None
            else {"rule": self.windows.rule, "reason": self.windows.reason},
            "matrices": self.graft.matrices,
            "changed": self.graft.changed,
            "changed_files": list(self.graft.changed_files),
            "worst_step_error": round(self.graft.worst_step_error, 4),
            "sha256": self.graft.sha256,
            "parity": parity_record(self.parity),
            "seconds": round(self.seconds, 2),
        }


def export(request: ExportRequest, out: Path, progress: Progress) -> ExportResult:
    """Write the adapted model as runtime files and compare both on real clips.

    The folder is written in either case; `parity.passed` says whether it may be used.

    Raises:
        RequestError: no run, no base runtime files, or files of other weights.
        MachineError: a trace, and the package onnx is missing.
    """
    _check(request)
    adapter = find_adapter(request.run)
    model_name = request.model or _model_of(request.run)
    utterances = parity_utterances(request.run, request.manifest)
    opened = open_model(
        model_name, adapter=adapter, device=request.device, dtype="float32", progress=progress
    )
    layout = _base_layout(request, opened) if request.method == "graft" else None
    moments = _moments(opened, request.calibrate, progress) if request.calibrate else None
    windows = _choose_windows(request, opened, utterances) if layout is None else None
    begun = time.monotonic()
    with complete_folder(out) as scratch:
        if layout is not None:
            report = graft_adapter(opened, layout, scratch, moments=moments)
        else:
            report = _trace(opened, scratch, request.quantize, windows)
        seconds = time.monotonic() - begun
        parity = check_parity(opened, scratch, utterances, request.parity_bound, progress)
        result = ExportResult(
            out, report, parity, seconds, request.method,
            request.quantize if layout is None else None, moments is not None, windows,
        )  # fmt: skip
        write_json_atomic(
            scratch / "export.json",
            result.to_record()
            | {
                "runtime_dir": ".",
                "base": opened.base,
                "adapter_sha256": sha256_of(adapter / WEIGHTS_FILE),
                "versions": versions(),
            },
        )
    return result


def graft_adapter(
    opened: OpenedModel,
    layout: RuntimeLayout,
    out: Path,
    *,
    moments: dict[str, Doubles] | None = None,
) -> GraftReport:
    """Graft the adapter that is in the model into a copy of `layout` at `out`."""
    merged = {name: value.cpu().numpy() for name, value in merged_weights(opened.model).items()}
    modules = dict(opened.model.module.named_modules())
    base = {
        name: modules[name.removesuffix(".weight")].base_layer.weight.detach().float().cpu().numpy()
        for name in merged
    }
    return graft(layout, base, merged, out, moments=moments)


def _choose_windows(
    request: ExportRequest, opened: OpenedModel, utterances: Sequence[Utterance]
) -> WindowChoice | None:
    """The window rule of a traced encoder: that of the base's own graph, where one is at hand."""
    model = opened.model
    if model.family != "streaming":
        return None
    folder = request.base_runtime or opened.resolved.runtime_dir
    if folder is None:
        return WindowChoice("exclusive", "no runtime files of the base at hand: as torch computes")
    model.module.to("cpu")
    clip = np.ascontiguousarray(fit_clip(model, load_utterance(utterances[0])))
    with adapter_disabled(model):
        rule = window_rule(open_graphs(read_layout(folder)), model, clip)
    model.module.to(opened.device.device)
    return WindowChoice(
        rule, f"the hidden states of the base's encoder graph say so ({folder.name})"
    )


def _trace(
    opened: OpenedModel, out: Path, scheme: str, windows: WindowChoice | None
) -> GraftReport:
    from moonshine_tune.runtime.trace import trace

    merged = {name: value.cpu().numpy() for name, value in merged_weights(opened.model).items()}
    with windows_read_as(opened.model, windows.rule if windows else None):
        return trace(opened.model, merged_state(opened.model, merged), out, scheme=scheme)


def _moments(opened: OpenedModel, manifest: Path, progress: Progress) -> dict[str, Doubles]:
    """What the adapted matrices see while the model transcribes some clips."""
    utterances = read_manifest(manifest, require_text=False).utterances[:_CALIBRATION_CLIPS]
    transcriber = TorchTranscriber(opened.model, opened.limits)
    with input_moments(opened.model, list(merged_weights(opened.model))) as moments:
        transcribe_utterances(transcriber, utterances, progress, "calibration")
    return moments.matrices()


def _check(request: ExportRequest) -> None:
    for what, value, known in (
        ("method", request.method, METHODS),
        ("scheme", request.quantize, SCHEMES),
    ):
        if value not in known:
            raise RequestError(f"no {what} is called {value!r}", hint=f"one of: {', '.join(known)}")
    if request.method == "trace" and request.calibrate is not None:
        raise RequestError(
            "calibration belongs to grafting", hint="leave out --calibrate, or --method trace"
        )


def _model_of(run: Path) -> str:
    settings = RunFolder.open(run).read_record().get("settings", {})
    return str(settings.get("model", "tiny"))


def _base_layout(request: ExportRequest, opened: OpenedModel) -> RuntimeLayout:
    folder = request.base_runtime or opened.resolved.runtime_dir
    if folder is None:
        raise RequestError(
            f"no runtime files of the base model {opened.base['name']} are at hand",
            hint="name them with --base-runtime DIR, or build new ones with --method trace",
        )
    layout = read_layout(folder)
    if layout.family != opened.model.family:
        raise RequestError(
            f"these are runtime files of a {layout.family} model, and the adapter is for a "
            f"{opened.model.family} model",
            where=folder,
            hint="name the base's own runtime folder with --base-runtime",
        )
    return layout
