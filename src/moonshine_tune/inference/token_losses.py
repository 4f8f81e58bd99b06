"""How hard each utterance is for the base model: its mean loss per token on the transcript.

Costs one pass of encoder and decoder over the dataset; cached on disk for later runs.
"""

import math
from collections.abc import Sequence

import torch
from torch.nn import functional as F

from moonshine_tune.core.device import is_launch_bound
from moonshine_tune.core.progress import Progress
from moonshine_tune.inference.batching import batches_by_length, run_with_oom_backoff
from moonshine_tune.inference.dataset import SpeechDataset
from moonshine_tune.inference.encoder_cache import StateSource
from moonshine_tune.inference.result_cache import (
    cached_path,
    read_cached,
    recipe_hash,
    write_cached,
)
from moonshine_tune.models.base import SpeechModel
from moonshine_tune.models.lora import adapter_disabled
from moonshine_tune.models.losses import IGNORED, target_batch
from moonshine_tune.registry.open import OpenedModel

_BATCH_S = 60.0


def mean_token_losses(
    model: SpeechModel,
    source: StateSource,
    tokens: Sequence[Sequence[int]],
    progress: Progress,
    name: str,
    *,
    kept_share: float = 1.0,
    with_end: bool = True,
) -> list[float]:
    """Mean cross-entropy per token of the model on each text, in nats; 0 for an empty text.

    Args:
        source: encoder states, by the same indices as `tokens`.
        kept_share: share of the tokens of a text that count, those with the lowest losses. Below
            1, a text with a wrong word still differs from another text.
        with_end: count the end token, too, which tells how a sentence is punctuated.
    """
    losses = [0.0] * len(tokens)
    model.module.eval()
    batches = batches_by_length(source.seconds, _BATCH_S)

    @torch.inference_mode()
    def measure(rows: Sequence[int]) -> None:
        states = source.batch(rows)
        targets = target_batch(
            [tokens[row] for row in rows],
            model.device,
            pad_to_bucket=is_launch_bound(model.device),
        )
        logits = model.decoder_logits(states, targets.input_ids).float()
        ids = targets.targets.to(logits.device)
        entropies = F.cross_entropy(
            logits.transpose(1, 2), ids, ignore_index=IGNORED, reduction="none"
        ).cpu()
        for row, entropy in zip(rows, entropies, strict=True):
            length = len(tokens[row]) + with_end
            lowest = entropy[:length].sort().values[: math.ceil(kept_share * length)]
            losses[row] = lowest.mean().item() if length else 0.0

    with progress.stage(name, len(tokens)) as stage:
        run_with_oom_backoff(batches, measure, model.device, stage)
    return losses


def base_losses(dataset: SpeechDataset, opened: OpenedModel, progress: Progress) -> list[float]:
    """The base model's loss on each utterance; an adapter in the model is disabled."""
    identity = [
        opened.base["sha256"],
        str(opened.model.dtype),
        recipe_hash("models/losses.py"),
        [dataset.content_key(index) for index in range(len(dataset))],
        dataset.tokens,
    ]
    path = cached_path("base-losses", identity)
    known = read_cached(path, list[float], len(dataset), progress)
    if known is not None:
        return known
    source = StateSource(opened.model, dataset, budget_mb=0)
    with adapter_disabled(opened.model):
        losses = mean_token_losses(
            opened.model, source, dataset.tokens, progress, "difficulty of train"
        )
    write_cached(path, losses, progress)
    return losses
