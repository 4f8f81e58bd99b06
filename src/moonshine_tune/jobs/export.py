"""From an adapter to files that the Moonshine runtime loads, with the proof that they are equal."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moonshine_tune.adapter import find_adapter, merged_weights
from moonshine_tune.decode import TorchTranscriber
from moonshine_tune.errors import RequestError
from moonshine_tune.files import complete_folder, write_json_atomic
from moonshine_tune.jobs.model_opening import OpenedModel, open_model
from moonshine_tune.jobs.transcribe import transcribe_utterances
from moonshine_tune.manifest import Utterance, read_manifest
from moonshine_tune.progress import Progress
from moonshine_tune.provenance import versions
from moonshine_tune.runs import RunFolder
from moonshine_tune.runtime.graft import GraftReport, graft
from moonshine_tune.runtime.layout import RuntimeLayout, read_layout
from moonshine_tune.runtime.parity import DEFAULT_BOUND, ParityResult, compare_transcripts
from moonshine_tune.runtime.transcriber import RuntimeTranscriber
from moonshine_tune.text import normalizer_for

_PARITY_CLIPS = 40


@dataclass(frozen=True)
class ExportRequest:
    """What is to be exported.

    Attributes:
        run: run folder, or adapter folder together with `model`.
        base_runtime: runtime folder of the base; None takes the one that came with the model.
        manifest: clips for the parity gate; None takes the run's dev set.
        parity_bound: words that may differ, in percent.
    """

    run: Path
    model: str | None = None
    base_runtime: Path | None = None
    manifest: Path | None = None
    parity_bound: float = DEFAULT_BOUND
    device: str = "auto"


@dataclass(frozen=True)
class ExportResult:
    """The exported folder with its proof."""

    runtime_dir: Path
    graft: GraftReport
    parity: ParityResult
    seconds: float

    def to_record(self) -> dict[str, Any]:
        """The JSON document of `export`, which also lies in the folder as export.json."""
        return {
            "runtime_dir": str(self.runtime_dir),
            "method": "graft",
            "matrices": self.graft.matrices,
            "changed": self.graft.changed,
            "changed_files": list(self.graft.changed_files),
            "worst_step_error": round(self.graft.worst_step_error, 4),
            "sha256": self.graft.sha256,
            "parity": {
                "passed": self.parity.passed,
                "word_difference": round(self.parity.word_difference, 4),
                "bound": self.parity.bound,
                "clips": self.parity.clips,
                "identical": self.parity.identical,
                "words": self.parity.words,
                "examples": [list(pair) for pair in self.parity.examples],
            },
            "seconds": round(self.seconds, 2),
        }


def export(request: ExportRequest, out: Path, progress: Progress) -> ExportResult:
    """Graft the adapter into a copy of the base runtime files and compare both on real clips.

    The folder is written in either case; `parity.passed` says whether it may be used.

    Raises:
        RequestError: no run, no base runtime files, or files of other weights.
    """
    adapter = find_adapter(request.run)
    model_name = request.model or _model_of(request.run)
    utterances = _parity_utterances(request)
    opened = open_model(
        model_name, adapter=adapter, device=request.device, dtype="float32", progress=progress
    )
    layout = _base_layout(request, opened)
    begun = time.monotonic()
    with complete_folder(out) as scratch:
        report = graft_adapter(opened, layout, scratch)
        seconds = time.monotonic() - begun
        parity = _parity(opened, scratch, utterances, request.parity_bound, progress)
        result = ExportResult(out, report, parity, seconds)
        write_json_atomic(
            scratch / "export.json",
            result.to_record() | {"runtime_dir": ".", "base": opened.base, "versions": versions()},
        )
    return result


def graft_adapter(opened: OpenedModel, layout: RuntimeLayout, out: Path) -> GraftReport:
    """Graft the adapter that is in the model into a copy of `layout` at `out`."""
    merged = {name: value.cpu().numpy() for name, value in merged_weights(opened.model).items()}
    modules = dict(opened.model.module.named_modules())
    base = {
        name: modules[name.removesuffix(".weight")].base_layer.weight.detach().float().cpu().numpy()
        for name in merged
    }
    return graft(layout, base, merged, out)


def _model_of(run: Path) -> str:
    settings = RunFolder.open(run).read_record().get("settings", {})
    return str(settings.get("model", "tiny"))


def _base_layout(request: ExportRequest, opened: OpenedModel) -> RuntimeLayout:
    folder = request.base_runtime or opened.resolved.runtime_dir
    if folder is None:
        raise RequestError(
            f"no runtime files of the base model {opened.base['name']} are at hand",
            hint="name them with --base-runtime DIR",
        )
    return read_layout(folder)


def _parity_utterances(request: ExportRequest) -> tuple[Utterance, ...]:
    path = request.manifest
    if path is None and (request.run / "run.json").is_file():
        data = RunFolder.open(request.run).read_record().get("settings", {}).get("data", {})
        named = data.get("dev") or data.get("train")
        path = Path(named) if named else None
    if path is None:
        raise RequestError(
            "the parity gate needs real clips", hint="name a manifest with --manifest test.jsonl"
        )
    return read_manifest(path, require_text=False).utterances[:_PARITY_CLIPS]


def _parity(
    opened: OpenedModel,
    runtime_dir: Path,
    utterances: tuple[Utterance, ...],
    bound: float,
    progress: Progress,
) -> ParityResult:
    transcriber = TorchTranscriber(opened.model, opened.limits)
    said = transcribe_utterances(transcriber, utterances, progress, "parity (torch)")
    with RuntimeTranscriber(runtime_dir) as runtime:
        heard = transcribe_utterances(runtime, utterances, progress, "parity (runtime)")
    normalizer = normalizer_for(None, opened.language)
    return compare_transcripts(said.texts, heard.texts, normalizer, bound=bound)
