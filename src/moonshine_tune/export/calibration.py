"""What steers the rounding of a graft: the clips on which rounding errors are made to cancel."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from moonshine_tune.core.errors import TuneError
from moonshine_tune.core.progress import Progress
from moonshine_tune.corpus.manifest import Utterance, read_manifest
from moonshine_tune.corpus.splits import evenly_chosen
from moonshine_tune.export.calibration_clips import input_moments
from moonshine_tune.export.graft import lies_on_grid
from moonshine_tune.inference.transcribe import TorchTranscriber, transcribe_utterances
from moonshine_tune.models.merge import LazyMerged
from moonshine_tune.registry.open import OpenedModel
from moonshine_tune.runs.folder import RunFolder
from moonshine_tune.runtime.layout import RuntimeLayout
from moonshine_tune.runtime.quantized import Doubles

AUTO, NONE = "auto", "none"
# As many of what was taught as of general speech: steered by the domain alone, the files lose
# words of general speech that the trained model keeps.
_CLIPS_EACH = 24
_CLIPS_NAMED = 48
_MAX_CLIP_S = 20.0


@dataclass(frozen=True)
class Rounding:
    """How the weights of a graft are rounded.

    Attributes:
        asked: "auto", "none" or "manifest".
        moments: second moments of each matrix's inputs; None rounds each weight by itself.
        reason: why so, in a few words.
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
    """How to round, and what it needs.

    Args:
        calibrate: a manifest of clips; "none"; or "auto": clips of the run itself, where the base
            lies on the files' grid (elsewhere rounding to the nearest level is as good).

    Raises:
        RequestError: the manifest that was named cannot be read.
    """
    if calibrate == NONE:
        return Rounding(NONE, None, "each weight by itself, as asked for")
    if calibrate != AUTO:
        manifest = read_manifest(Path(calibrate), require_text=False)
        utterances = evenly_chosen(manifest.utterances, _CLIPS_NAMED)
        moments = _moments(utterances, opened, progress)
        told = f"errors made to cancel on {len(utterances)} clips of {manifest.path.name}"
        return Rounding("manifest", moments, told)
    merged = LazyMerged(opened.model)
    first = next(iter(merged))
    if not lies_on_grid(layout, {first: merged.base(first).cpu().numpy()}):
        return Rounding(AUTO, None, "each weight to the nearest level, the base is in floats")
    utterances = clips_of_run(run)
    if not utterances:
        return Rounding(AUTO, None, "dithered: no recordings of the run are at hand to steer it")
    moments = _moments(utterances, opened, progress)
    return Rounding(AUTO, moments, f"errors made to cancel on {len(utterances)} clips of the run")


def clips_of_run(run: Path | None) -> list[Utterance]:
    """Clips of what a run was taught and of its general speech; empty where none are left."""
    found: list[Utterance] = []
    try:
        data = RunFolder.open(run).read_record()["settings"]["data"] if run else {}
    except (TuneError, KeyError):
        return []
    for name in ("train", "replay"):
        if not data.get(name):
            continue
        try:
            utterances = read_manifest(Path(data[name]), require_text=False).utterances
        except TuneError:
            # Moved or changed since: rounding does without.
            continue
        short = [item for item in utterances if (item.known_seconds or 0.0) <= _MAX_CLIP_S]
        chosen = evenly_chosen(short, _CLIPS_EACH)
        found += [replace(item, id=f"{name}/{item.id}") for item in chosen]
    return found


def _moments(
    utterances: Sequence[Utterance], opened: OpenedModel, progress: Progress
) -> dict[str, Doubles]:
    """What the adapted matrices see while the model transcribes the clips."""
    transcriber = TorchTranscriber(opened.model, opened.limits)
    with input_moments(opened.model, list(LazyMerged(opened.model))) as moments:
        transcribe_utterances(transcriber, utterances, progress, "calibration")
    return moments.matrices()
