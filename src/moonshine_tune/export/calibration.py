"""How the weights of a graft are rounded, and the clips on which errors are compensated."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from moonshine_tune.core.errors import TuneError
from moonshine_tune.core.progress import Progress
from moonshine_tune.corpus.manifest import Utterance, read_manifest
from moonshine_tune.corpus.splits import evenly_chosen
from moonshine_tune.export.graft import lies_on_grid
from moonshine_tune.inference.transcribe import TorchTranscriber, transcribe_utterances
from moonshine_tune.models.base import SpeechModel
from moonshine_tune.models.merge import LazyMerged
from moonshine_tune.registry.open import OpenedModel
from moonshine_tune.runs.folder import RunFolder
from moonshine_tune.runs.locations import RunLocations, locate
from moonshine_tune.runs.parent import parts_of
from moonshine_tune.runs.records import RunRecord
from moonshine_tune.runtime.layout import RuntimeLayout
from moonshine_tune.runtime.quantized import Doubles

AUTO, NONE = "auto", "none"
# As many clips of the domain as of general speech: calibrated on the domain alone, the files lose
# words of general speech that the trained model keeps.
_CLIPS_PER_SET = 24
_CLIPS_OF_MANIFEST = 48
CALIBRATION_SETS = ("data.train", "data.replay")
_MAX_CLIP_S = 20.0


@dataclass(frozen=True)
class Rounding:
    """How the weights of a graft are rounded.

    Attributes:
        asked: "auto", "none" or "manifest".
        moments: second moments of each matrix's inputs; None rounds each weight separately.
        reason: why, in a few words.
    """

    asked: str
    moments: dict[str, Doubles] | None
    reason: str


def choose_rounding(
    calibrate: str | Path,
    run: Path | None,
    opened: OpenedModel,
    layout: RuntimeLayout,
    progress: Progress,
) -> Rounding:
    """Choose how to round, and collect what that needs.

    Args:
        calibrate: a manifest of clips; "none"; or "auto": clips of the run itself where the base
            lies on the files' grid (elsewhere rounding to the nearest level is as good).

    Raises:
        RequestError: the manifest cannot be read.
    """
    if calibrate == NONE:
        return Rounding(NONE, None, "each weight separately, as requested")
    if calibrate != AUTO:
        manifest = read_manifest(Path(calibrate), require_text=False)
        utterances = evenly_chosen(manifest.utterances, _CLIPS_OF_MANIFEST)
        reason = f"errors compensated on {len(utterances)} clips of {manifest.path.name}"
        return Rounding("manifest", _moments(utterances, opened, progress), reason)
    merged = LazyMerged(opened.model)
    first = next(iter(merged))
    if not lies_on_grid(layout, {first: merged.base(first).cpu().numpy()}):
        return Rounding(AUTO, None, "each weight to the nearest level: the base has float weights")
    utterances = clips_of_run(run)
    if not utterances:
        return Rounding(AUTO, None, "dithered: no recordings of the run to calibrate on")
    reason = f"errors compensated on {len(utterances)} clips of the run"
    return Rounding(AUTO, _moments(utterances, opened, progress), reason)


def clips_of_run(
    run: Path | None, sets: Sequence[str] = CALIBRATION_SETS, count: int = _CLIPS_PER_SET
) -> list[Utterance]:
    """Clips of some sets of a run, `count` of each; empty where none are left.

    A set that a sum of adapters does not have is that of their runs, together as many clips.
    """
    present = _run_files(run, sets).present if run else {}
    clips: list[Utterance] = []
    for name, path in present.items():
        try:
            utterances = read_manifest(path, require_text=False).utterances
        except TuneError:
            # Its recordings are gone: calibrate without this set.
            continue
        short = [item for item in utterances if (item.known_seconds or 0.0) <= _MAX_CLIP_S]
        chosen = evenly_chosen(short, count)
        clips += [replace(item, id=f"{name.removeprefix('data.')}/{item.id}") for item in chosen]
    record = _record_of(run) if run else RunRecord()
    if parts := record.result.combined:
        others = [name for name in sets if name not in present]
        # Runs often share their general speech.
        distinct: dict[object, Utterance] = {}
        for number, (_, part) in enumerate(parts_of(record), start=1):
            folder = part.run.path if part and part.run else None
            for item in clips_of_run(folder, others, -(-count // len(parts))):
                span = item.span
                distinct.setdefault(span, replace(item, id=f"{number}/{item.id}"))
        clips += distinct.values()
    return clips


def missing_clips(run: Path | None) -> str:
    """What a calibration on clips of the run goes without, in a sentence; empty if nothing."""
    files = _run_files(run) if run else None
    if files is None or not files.missing:
        return ""
    sentences = "; ".join(map(files.describe_missing, files.missing))
    without = "on the rest" if files.present else "not at all: the rounding is dithered"
    return (
        f"calibration {without}. {sentences}. Name clips with --calibrate FILE, or record once "
        f"where the files are: {files.resume_command}"
    )


def changed_sets(run: Path) -> list[str]:
    """A sentence for each manifest that the export reads and that is not what the run had."""
    return _run_files(run, (*CALIBRATION_SETS, "data.dev", "data.canary")).changes


def _run_files(run: Path, sets: Sequence[str] = CALIBRATION_SETS) -> RunLocations:
    """The manifests of some sets of a run; none where it has no record."""
    return locate(run, _record_of(run), sets)


def _record_of(run: Path) -> RunRecord:
    """The record of a run; empty where it has none."""
    with suppress(TuneError):
        return RunFolder.open(run).read_record()
    return RunRecord()


def _moments(
    utterances: Sequence[Utterance], opened: OpenedModel, progress: Progress
) -> dict[str, Doubles]:
    """Second moments of the adapted matrices' inputs while the model transcribes the clips."""
    transcriber = TorchTranscriber(opened.model, opened.limits)
    with input_moments(opened.model, list(LazyMerged(opened.model))) as sums:
        transcribe_utterances(transcriber, utterances, progress, "calibration")
    return {name: total.numpy() for name, total in sums.items()}


@contextmanager
def input_moments(model: SpeechModel, weights: Sequence[str]) -> Iterator[dict[str, torch.Tensor]]:
    """Sum x xᵀ over the inputs x of matrices named `….weight` while the block runs the model.

    Yields the sums, [in, in], by name; a matrix that is never used has none.
    """
    modules = dict(model.module.named_modules())
    sums: dict[str, torch.Tensor] = {}

    def forward_hook(name: str) -> Callable[[Any, tuple[Any, ...], Any], None]:
        def add(_module: Any, arguments: tuple[Any, ...], _output: Any) -> None:
            inputs = arguments[0].detach()
            # In 64 bits, which keeps small inputs, on the CPU: some devices have no 64 bits.
            rows = inputs.reshape(-1, inputs.shape[-1]).to("cpu", torch.float64)
            if name not in sums:
                sums[name] = rows.new_zeros(rows.shape[1], rows.shape[1])
            sums[name].addmm_(rows.T, rows)

        return add

    hooks = [
        modules[name.removesuffix(".weight")].register_forward_hook(forward_hook(name))
        for name in weights
    ]
    try:
        yield sums
    finally:
        for hook in hooks:
            hook.remove()
