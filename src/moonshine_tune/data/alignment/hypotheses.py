"""What the base model writes for the pieces of a recording, and how well a text fits a piece."""

from collections.abc import Sequence
from pathlib import Path

from moonshine_tune.core.files import sha256_of
from moonshine_tune.core.progress import Progress
from moonshine_tune.corpus.manifest import Utterance
from moonshine_tune.inference.dataset import build_dataset
from moonshine_tune.inference.encoder_cache import StateSource
from moonshine_tune.inference.result_cache import (
    cached_path,
    read_cached,
    recipe_hash,
    write_cached,
)
from moonshine_tune.inference.token_losses import mean_token_losses
from moonshine_tune.inference.transcribe import TorchTranscriber, transcribe_utterances
from moonshine_tune.registry.open import OpenedModel

# Encoder states of a segment are used for several texts; 400 MB hold two hours of Moonshine tiny.
_STORED_MB = 400


def transcribe_spans(
    audio: Path, spans: Sequence[tuple[float, float]], opened: OpenedModel, progress: Progress
) -> list[str]:
    """A hypothesis for each span, cached: an alignment with other options takes seconds.

    Raises:
        ProblemsError: the recording cannot be read.
    """
    identity = [
        opened.base["sha256"],
        str(opened.model.dtype),
        opened.limits.tokens_per_second,
        recipe_hash("inference/greedy.py"),
        sha256_of(audio),
        spans,
    ]
    path = cached_path("piece-hypotheses", identity)
    known = read_cached(path, list[str], len(spans), progress)
    if known is not None:
        progress.say(f"{audio.name}: transcribed before")
        return known
    utterances = [
        Utterance(f"{audio.stem}-{number}", audio, start=start, end=end)
        for number, (start, end) in enumerate(spans)
    ]
    transcriber = TorchTranscriber(opened.model, opened.limits)
    texts = list(
        transcribe_utterances(transcriber, utterances, progress, f"transcribing {audio.name}").texts
    )
    write_cached(path, texts, progress)
    return texts


def text_losses(
    utterances: Sequence[Utterance],
    texts: Sequence[Sequence[str]],
    opened: OpenedModel,
    progress: Progress,
) -> list[list[float]]:
    """The model's mean loss per token on several texts of each utterance, in nats.

    Args:
        texts: one list for each utterance, all of the same length.
    """
    dataset = build_dataset(
        utterances, opened.model, name="doubtful", max_clip_s=1e9, needs_text=False
    )
    source = StateSource(opened.model, dataset, budget_mb=_STORED_MB)
    source.prepare(range(len(dataset)), progress, "encoding doubtful segments")
    columns = []
    longest = opened.model.max_tokens - 2
    for column in zip(*texts, strict=True):
        tokens = [opened.model.tokenizer.encode(text)[:longest] for text in column]
        columns.append(mean_token_losses(opened.model, source, tokens, progress, "scoring texts"))
    return [list(row) for row in zip(*columns, strict=True)]
