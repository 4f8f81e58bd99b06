"""What the frozen base model writes: transcripts of many clips, kept on disk for later commands."""

from dataclasses import asdict

from moonshine_tune.core.progress import Progress
from moonshine_tune.inference.dataset import SpeechDataset
from moonshine_tune.inference.encoder_cache import StateSource
from moonshine_tune.inference.result_cache import (
    cached_path,
    read_cached,
    recipe_hash,
    write_cached,
)
from moonshine_tune.inference.scored_set import transcribe_source
from moonshine_tune.models.lora import adapter_disabled
from moonshine_tune.registry.open import OpenedModel

# Transcripts are kept after so many clips: what an interrupted command did is not done again.
_KEPT_TOGETHER = 500
_CODE = ("inference/decoder_session.py", "inference/greedy.py")


def base_transcripts(
    dataset: SpeechDataset, opened: OpenedModel, progress: Progress, name: str
) -> list[str]:
    """The base model's transcript of each clip, in order; an adapter in the model is disabled.

    Args:
        name: of the stage, for the progress.
    """
    texts: list[str] = []
    for start in range(0, len(dataset), _KEPT_TOGETHER):
        part = dataset.part(range(start, min(start + _KEPT_TOGETHER, len(dataset))))
        counted = f"{name}, {start + 1:,} to {start + len(part):,} of {len(dataset):,}"
        is_all = len(part) == len(dataset)
        texts += _transcripts(part, opened, progress, name if is_all else counted)
    return texts


def _transcripts(
    dataset: SpeechDataset, opened: OpenedModel, progress: Progress, name: str
) -> list[str]:
    identity = [
        opened.base["sha256"],
        str(opened.model.dtype),
        recipe_hash(*_CODE),
        asdict(opened.limits),
        [dataset.content_key(index) for index in range(len(dataset))],
    ]
    path = cached_path("base-transcripts", identity)
    known = read_cached(path, list[str], len(dataset), progress)
    if known is not None:
        return known
    source = StateSource(opened.model, dataset, budget_mb=0)
    opened.model.module.eval()
    with adapter_disabled(opened.model):
        texts = transcribe_source(opened.model, source, opened.limits, progress, name)
    write_cached(path, texts, progress)
    return texts
