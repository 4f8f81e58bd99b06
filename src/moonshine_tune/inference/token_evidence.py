"""What the decoder attends to, and how sure it is, on texts that it has decoded.

Decoding uses fused kernels that give neither. One more pass over the final tokens, all positions at
once, gives both; it costs a fraction of the decoding, and nothing where nobody asks for it.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from moonshine_tune.models.base import EncoderStates, SpeechModel, TextTokenizer
from moonshine_tune.models.losses import target_batch

# Encoder frames of one pass: the scores of all heads and the logits of all tokens are in memory.
_PASS_FRAMES = 3000
Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TokenEvidence:
    """What one more pass says about a transcript.

    Attributes:
        log_probs: [L] of each token, whatever its case, in nats.
        attention: [L, T] attention of the position that predicts each token to each encoder frame,
            as standard scores: how far above the mean of all tokens, averaged over heads.
    """

    log_probs: Matrix
    attention: Matrix


@torch.inference_mode()
def token_evidence(
    model: SpeechModel, states: EncoderStates, tokens: Sequence[Sequence[int]]
) -> list[TokenEvidence]:
    """The evidence for each row; empty for a row without tokens.

    Args:
        states: encoder states of the clips.
        tokens: token ids of each row, without start and end.
    """
    nothing = TokenEvidence(np.zeros(0, np.float32), np.zeros((0, 0), np.float32))
    evidence = [nothing] * len(tokens)
    rows = [row for row, ids in enumerate(tokens) if ids]
    rows.sort(key=lambda row: states.lengths[row])
    start = 0
    while start < len(rows):
        stop = start + 1
        while stop < len(rows) and states.lengths[rows[stop]] * (stop + 1 - start) <= _PASS_FRAMES:
            stop += 1
        group = rows[start:stop]
        results = _one_pass(model, states.select(group), [tokens[row] for row in group])
        for row, result in zip(group, results, strict=True):
            evidence[row] = result
        start = stop
    return evidence


def _one_pass(
    model: SpeechModel, states: EncoderStates, tokens: list[Sequence[int]]
) -> Iterator[TokenEvidence]:
    batch = target_batch(tokens, model.device)
    layers = model.decoder.layers
    # The upper half: lower layers look for sounds wherever they are, upper ones for the next word.
    with _attention_scores(layers[len(layers) // 2 :]) as scores:
        logits = model.decoder_logits(states, batch.input_ids).float()
    variants = _case_variants(model.tokenizer)
    for row, ids in enumerate(tokens):
        heads = torch.cat(
            [layer[row, :, : len(ids) + 1, : states.lengths[row]] for layer in scores]
        )
        yield TokenEvidence(
            _log_probs(logits[row, : len(ids)], ids, variants), _standard_scores(heads, len(ids))
        )


@contextmanager
def _attention_scores(layers: Any) -> Iterator[list[Tensor]]:
    """Collect scores [B, heads, L, T] of the cross-attention of each layer, before the softmax."""
    collected: list[Tensor] = []

    def collect(attention: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        hidden = arguments[0] if arguments else options["hidden_states"]
        query = _split_heads(attention.q_proj(hidden), attention.head_dim)
        key = _split_heads(attention.k_proj(options["key_value_states"]), attention.head_dim)
        key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        collected.append(query @ key.transpose(-1, -2) * attention.scaling)

    with ExitStack() as stack:
        for layer in layers:
            hook = layer.encoder_attn.register_forward_pre_hook(collect, with_kwargs=True)
            stack.callback(hook.remove)
        yield collected


def _split_heads(projected: Tensor, head_dim: int) -> Tensor:
    return projected.reshape(*projected.shape[:2], -1, head_dim).transpose(1, 2)


def _standard_scores(scores: Tensor, num_tokens: int) -> Matrix:
    """Attention of every head [H, L + 1, T], compared over the tokens; mean of heads, [L, T]."""
    weights = scores.float().softmax(dim=-1)
    weights = weights - weights.mean(dim=1, keepdim=True)
    weights = weights / (weights.std(dim=1, keepdim=True, unbiased=False) + 1e-9)
    result: Matrix = weights.mean(dim=0)[:num_tokens].cpu().numpy()
    return result


def _log_probs(logits: Tensor, ids: Sequence[int], variants: dict[int, list[int]]) -> Matrix:
    """Log probability [L] of each token, together with those that differ from it in case only.

    The model is often unsure whether a sentence starts, and sure of the word.
    """
    totals = logits.logsumexp(dim=-1)
    chosen = torch.stack(
        [
            row[variants.get(token, [token])].logsumexp(0)
            for row, token in zip(logits, ids, strict=True)
        ]
    )
    result: Matrix = (chosen - totals).clamp(max=0.0).cpu().numpy()
    return result


@lru_cache(maxsize=4)
def _case_variants(tokenizer: TextTokenizer) -> dict[int, list[int]]:
    """Token id → ids of the tokens that differ from it in case only, itself included."""
    by_text: dict[str, list[int]] = {}
    for text, number in tokenizer.raw.get_vocab().items():
        by_text.setdefault(text.casefold(), []).append(number)
    return {number: ids for ids in by_text.values() if len(ids) > 1 for number in ids}
