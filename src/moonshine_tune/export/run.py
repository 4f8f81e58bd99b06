"""From an adapter to files that the Moonshine runtime loads, with the proof that they are equal."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from moonshine_tune.audio.io import load_utterance
from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import complete_folder, sha256_of, write_json_atomic
from moonshine_tune.core.progress import Progress
from moonshine_tune.core.provenance import versions
from moonshine_tune.corpus.manifest import Utterance
from moonshine_tune.export.calibration import AUTO, NONE, Rounding, choose_rounding
from moonshine_tune.export.graft import GraftReport, graft
from moonshine_tune.export.parity.gate import check_parity, parity_record, parity_utterances
from moonshine_tune.export.parity.graphs import merged_state, window_rule, windows_read_as
from moonshine_tune.export.parity.transcripts import DEFAULT_BOUND, ParityResult
from moonshine_tune.export.tuned_checkpoint import tuned_tensors
from moonshine_tune.inference.batching import fit_clip
from moonshine_tune.models.checkpoint import load_checkpoint
from moonshine_tune.models.lora import WEIGHTS_FILE, adapter_disabled, find_adapter, has_adapter
from moonshine_tune.models.merge import LazyMerged, merged_weights
from moonshine_tune.registry.open import OpenedModel, base_identity, open_model
from moonshine_tune.registry.resolve import ResolvedModel, resolve_model
from moonshine_tune.runs.folder import RunFolder
from moonshine_tune.runtime.layout import RuntimeLayout, read_layout
from moonshine_tune.runtime.quantized import Doubles, Floats
from moonshine_tune.runtime.sessions import open_graphs

METHODS = ("graft", "trace")
SCHEMES = ("int8", "none")


@dataclass(frozen=True)
class ExportRequest:
    """What is to be exported.

    Attributes:
        run: run folder, or adapter folder together with `model`; None with `checkpoint`.
        checkpoint: fully tuned or merged `save_pretrained` folder, instead of `run`.
        model: the base; a graft of `checkpoint` needs it.
        base_runtime: runtime folder of the base; None takes the one that came with the model.
        manifest: clips for the parity gate; None takes the run's dev set.
        parity_bound: words that may differ, in percent.
        method: "graft" writes into a copy of the base runtime folder; "trace" builds new graphs.
        calibrate: clips that steer the rounding of a graft: "auto" takes the run's own where that
            is of use, "none" rounds without, a path names a manifest.
        quantize: scheme of traced graphs: "int8" or "none".
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
    rounding: Rounding | None = None
    windows: WindowChoice | None = None

    def to_record(self) -> dict[str, Any]:
        """The JSON document of `export`, which also lies in the folder as export.json."""
        return {
            "runtime_dir": str(self.runtime_dir),
            "method": self.method,
            "quantize": self.quantize,
            "calibrated": self.rounding is not None and self.rounding.moments is not None,
            "calibrate": None if self.rounding is None else self.rounding.asked,
            "rounding": None if self.rounding is None else self.rounding.reason,
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
    utterances = parity_utterances(request.run, request.manifest)
    subject = _open(request, progress)
    opened = subject.opened
    layout = _base_layout(request, subject) if request.method == "graft" else None
    windows = _choose_windows(request, subject, utterances) if layout is None else None
    begun = time.monotonic()
    rounding: Rounding | None = None
    with complete_folder(out) as scratch:
        if layout is None:
            report = _trace(opened, scratch, request.quantize, windows)
        elif has_adapter(opened.model):
            rounding = choose_rounding(request.calibrate, request.run, opened, layout, progress)
            progress.say(f"rounding: {rounding.reason}")
            report = graft_adapter(opened, layout, scratch, moments=rounding.moments)
        else:
            report = _graft_checkpoint(subject, layout, scratch)
        seconds = time.monotonic() - begun
        parity = check_parity(opened, scratch, utterances, request.parity_bound, progress)
        result = ExportResult(
            out, report, parity, seconds, request.method,
            request.quantize if layout is None else None, rounding, windows,
        )  # fmt: skip
        write_json_atomic(
            scratch / "export.json",
            result.to_record() | {"runtime_dir": ".", **subject.identity, "versions": versions()},
        )
    return result


@dataclass(frozen=True)
class _Subject:
    """The trained model, opened, and its base; `identity` names both in export.json."""

    opened: OpenedModel
    base: ResolvedModel
    identity: dict[str, Any]


def _open(request: ExportRequest, progress: Progress) -> _Subject:
    if request.run is not None:
        adapter = find_adapter(request.run)
        name = request.model or _model_of(request.run)
        opened = open_model(
            name, adapter=adapter, device=request.device, dtype="float32", progress=progress
        )
        identity = {"base": opened.base, "adapter_sha256": sha256_of(adapter / WEIGHTS_FILE)}
        return _Subject(opened, opened.resolved, identity)
    opened = open_model(
        str(request.checkpoint), device=request.device, dtype="float32", progress=progress
    )
    identity = {"base": opened.base, "checkpoint_sha256": opened.base["sha256"]}
    if request.model is None:
        return _Subject(opened, opened.resolved, identity)
    base = resolve_model(request.model, progress=progress)
    return _Subject(opened, base, identity | {"base": base_identity(base)})


def _graft_checkpoint(subject: _Subject, layout: RuntimeLayout, out: Path) -> GraftReport:
    """Graft every tensor in which a fully tuned checkpoint differs from its base."""
    tensors = tuned_tensors(load_checkpoint(subject.base.checkpoint_dir), subject.opened.model)
    return graft(layout, tensors.before, tensors.after, out, others=tensors.others)


def graft_adapter(
    opened: OpenedModel,
    layout: RuntimeLayout,
    out: Path,
    *,
    moments: dict[str, Doubles] | None = None,
) -> GraftReport:
    """Graft the adapter that is in the model into a copy of `layout` at `out`."""
    merged = LazyMerged(opened.model)
    base = {name: merged.base(name).cpu().numpy() for name in merged}
    return graft(layout, base, _Arrays(merged), out, moments=moments)


class _Arrays(Mapping[str, Floats]):
    """Tensors as arrays on the CPU, one at a time."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors

    def __getitem__(self, name: str) -> Floats:
        found: Floats = self._tensors[name].cpu().numpy()
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def _choose_windows(
    request: ExportRequest, subject: _Subject, utterances: Sequence[Utterance]
) -> WindowChoice | None:
    """The window rule of a traced encoder: that of the base's own graph, where one is at hand."""
    opened = subject.opened
    model = opened.model
    if model.family != "streaming":
        return None
    folder = request.base_runtime or subject.base.runtime_dir
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
    from moonshine_tune.export.graphs import trace

    merged = {name: value.cpu().numpy() for name, value in merged_weights(opened.model).items()}
    with windows_read_as(opened.model, windows.rule if windows else None):
        return trace(opened.model, merged_state(opened.model, merged), out, scheme=scheme)


def _check(request: ExportRequest) -> None:
    for what, value, known in (
        ("method", request.method, METHODS),
        ("scheme", request.quantize, SCHEMES),
    ):
        if value not in known:
            raise RequestError(f"no {what} is called {value!r}", hint=f"one of: {', '.join(known)}")
    if (request.run is None) == (request.checkpoint is None):
        raise RequestError(
            "name what is to be exported, once",
            hint="--run RUN for an adapter, or --checkpoint DIR for a fully tuned model",
        )
    if request.checkpoint is not None and request.method == "graft" and request.model is None:
        raise RequestError(
            "a fully tuned checkpoint does not name the base that it was tuned from",
            where=request.checkpoint,
            hint="name it with --model, or build new files with --method trace",
        )
    if request.base_runtime is not None:
        # Before the model is loaded: a wrong folder is said at once.
        read_layout(request.base_runtime)
    named = request.calibrate not in (AUTO, NONE)
    if named and (request.method == "trace" or request.run is None):
        raise RequestError(
            "calibration belongs to grafting an adapter", hint="leave out --calibrate"
        )


def _model_of(run: Path) -> str:
    settings = RunFolder.open(run).read_record().get("settings", {})
    return str(settings.get("model", "tiny"))


def _base_layout(request: ExportRequest, subject: _Subject) -> RuntimeLayout:
    folder = request.base_runtime or subject.base.runtime_dir
    if folder is None:
        raise RequestError(
            f"no runtime files of the base model {subject.base.name} are at hand",
            hint="name them with --base-runtime DIR, or build new ones with --method trace",
        )
    layout = read_layout(folder)
    family = subject.opened.model.family
    if layout.family != family:
        raise RequestError(
            f"these are runtime files of a {layout.family} model, and the trained model is a "
            f"{family} model",
            where=folder,
            hint="name the base's own runtime folder with --base-runtime",
        )
    return layout
