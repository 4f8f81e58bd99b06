"""Greedy decoding as in the runtime, for any number of clips."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from moonshine_tune.core.device import batch_rows
from moonshine_tune.inference.decoder_session import GreedySession
from moonshine_tune.models.base import BOS_ID, EOS_ID, EncoderStates, SpeechModel

# Finished rows are removed once at most this share of the batch is unfinished.
_UNFINISHED_SHARE = 0.6


def _most_probable(logits: Tensor) -> Tensor:
    return logits.argmax(dim=-1)


@torch.inference_mode()
def greedy_tokens(
    model: SpeechModel,
    states: EncoderStates,
    limits: Sequence[int],
    choose: Callable[[Tensor], Tensor] = _most_probable,
) -> list[list[int]]:
    """Token ids of each row, without start and end, at most `limits[row]` of them.

    Args:
        choose: the next token [B] of logits [B, V]. With one that draws by probability, the texts
            are what the model might also write.
    """
    longest = min(max(limits), model.max_tokens)
    texts: list[list[int]] = [[] for _ in limits]
    # The session is fastest if neighbors are of about one length; sorted input stays as it is.
    rows = sorted(range(len(limits)), key=lambda row: states.lengths[row])
    # Positions in the batch; `rows` maps them to rows of the result.
    unfinished = list(range(len(rows)))
    # Rows that fill the batch up to a common size are copies, and finished from the start.
    rows += rows[-1:] * (batch_rows(len(rows), model.device) - len(rows))
    is_sorted = rows == list(range(len(limits)))
    session = GreedySession(model, states if is_sorted else states.select(rows), longest)
    tokens = torch.full((len(rows),), BOS_ID, device=model.device)
    for _ in range(longest):
        tokens = choose(session.step(tokens))
        ids, remaining = tokens.tolist(), []
        for position in unfinished:
            row, token = rows[position], ids[position]
            if token == EOS_ID:
                continue
            texts[row].append(token)
            if len(texts[row]) < min(limits[row], longest):
                remaining.append(position)
        unfinished = remaining
        if not unfinished:
            break
        kept = kept_positions(unfinished, len(rows), model.device)
        if len(kept) < len(rows):
            session.keep(kept)
            tokens = tokens[torch.tensor(kept, device=model.device)]
            rows = [rows[position] for position in kept]
            moved = {position: index for index, position in enumerate(kept)}
            unfinished = [moved[position] for position in unfinished]
    return texts


def kept_positions(unfinished: Sequence[int], count: int, device: torch.device) -> Sequence[int]:
    """Positions that stay in the batch: the unfinished ones, and perhaps some finished ones.

    Removing rows from the middle copies the keys and values of all others, so it is done when few
    are left. Removing them at the ends copies nothing, but a new shape is costly on a device that
    compiles for shapes.
    """
    if len(unfinished) <= _UNFINISHED_SHARE * count:
        missing = batch_rows(len(unfinished), device) - len(unfinished)
        finished = sorted(set(range(count)) - set(unfinished))
        return sorted([*unfinished, *finished[:missing]])
    return range(unfinished[0], unfinished[-1] + 1) if device.type == "cpu" else range(count)
