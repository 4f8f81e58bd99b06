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
    batch = DecodedBatch(model, states.lengths, limits)
    session = GreedySession(model, batch.in_order(states), batch.longest)
    tokens = torch.full((len(batch.rows),), BOS_ID, device=model.device)
    while batch.unfinished:
        tokens = choose(session.step(tokens))
        ids = tokens.tolist()
        batch.unfinished = [
            row for row in batch.unfinished if ids[row] != EOS_ID and batch.write(row, [ids[row]])
        ]
        kept = batch.remove_finished(session)
        if kept is not None:
            tokens = tokens[torch.tensor(kept, device=model.device)]
    return batch.texts


class DecodedBatch:
    """The texts of a batch while they are written, and which row of the decoder writes which.

    Attributes:
        texts: tokens by clip.
        limits: most tokens by clip.
        longest: of them, and of what the decoder supports.
        rows: the clip of each row of the decoder.
        unfinished: the rows that still write, ascending.
    """

    def __init__(self, model: SpeechModel, lengths: Sequence[int], limits: Sequence[int]) -> None:
        self._device = model.device
        self.longest = min(max(limits), model.max_tokens)
        self.limits = [min(limit, self.longest) for limit in limits]
        self.texts: list[list[int]] = [[] for _ in limits]
        # A session is fastest if neighbors are of about one length.
        self.rows = sorted(range(len(limits)), key=lambda row: lengths[row])
        self.unfinished = list(range(len(self.rows)))
        # Rows that fill the batch up to a common size are copies, and finished from the start.
        missing = batch_rows(len(self.rows), self._device) - len(self.rows)
        self.rows += self.rows[-1:] * missing

    def in_order(self, states: EncoderStates) -> EncoderStates:
        """The states in the order of the rows; sorted input stays as it is."""
        is_sorted = self.rows == list(range(len(self.limits)))
        return states if is_sorted else states.select(self.rows)

    def room(self, row: int) -> int:
        """How many tokens the text of a row may still have."""
        clip = self.rows[row]
        return self.limits[clip] - len(self.texts[clip])

    def write(self, row: int, tokens: Sequence[int]) -> bool:
        """Add tokens to the text of a row; returns whether it may have more."""
        self.texts[self.rows[row]] += tokens
        return self.room(row) > 0

    def remove_finished(self, session: GreedySession) -> Sequence[int] | None:
        """Take finished rows out of the session where that pays; returns those that stay, if so."""
        if not self.unfinished:
            return None
        kept = _kept_positions(self.unfinished, len(self.rows), self._device)
        if len(kept) == len(self.rows):
            return None
        session.keep(kept)
        self.rows = [self.rows[position] for position in kept]
        moved = {position: index for index, position in enumerate(kept)}
        self.unfinished = [moved[position] for position in self.unfinished]
        return kept


def _kept_positions(unfinished: Sequence[int], count: int, device: torch.device) -> Sequence[int]:
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
