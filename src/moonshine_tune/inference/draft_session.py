"""Decoder passes over several tokens of each row at once, to verify drafts."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from moonshine_tune.core.device import is_launch_bound, round_up_to_coarse_bucket, text_width
from moonshine_tune.inference.decoder_session import GreedySession
from moonshine_tune.models.base import EncoderStates, SpeechModel, additive_mask
from moonshine_tune.models.kernels.packed_linear import Linear

# Positions whose logits are computed together: 33 MB with a vocabulary of 32,768.
_LOGITS_ROWS = 256


@dataclass(frozen=True)
class _Pass:
    """The tokens of one pass, and where they are.

    Attributes:
        rows, columns: of each token in the cache, [N].
        cells: of each token in the grid of rows and steps, [N].
        steps: tokens of the longest block; the width of the grid.
        width: of the cache that is attended to.
        mask: [B, 1, steps, width], additive.
    """

    rows: Tensor
    columns: Tensor
    cells: Tensor
    steps: int
    width: int
    mask: Tensor


class DraftSession(GreedySession):
    """Decoding of one batch whose rows are at different positions.

    Linear layers compute only the tokens that there are; attention computes a grid, padded to the
    longest block. Keys and values of a clip's frames are read once for a block, not once per token.
    """

    def __init__(self, model: SpeechModel, states: EncoderStates, max_tokens: int) -> None:
        super().__init__(model, states, max_tokens)
        # What a row has not reached is masked, which hides every number but NaN.
        self._past = [(key.zero_(), value.zero_()) for key, value in self._past]
        self._lengths = [0] * len(states.lengths)
        self._pass: _Pass | None = None

    def advance(self, blocks: Sequence[Sequence[int]]) -> list[list[int]]:
        """Feed a block of tokens per row; returns the most probable token after each of them.

        Args:
            blocks: by row; a row without tokens stays where it is.
        """
        device = self._past[0][0].device
        rows = [row for row, block in enumerate(blocks) for _ in block]
        steps = [step for block in blocks for step in range(len(block))]
        columns = [self._lengths[row] + step for row, step in zip(rows, steps, strict=True)]
        ids = [token for block in blocks for token in block]
        # Repeated, the last token is written twice where it is.
        missing = _rounded_up(len(ids), device) - len(ids)
        tokens, flat_rows, flat_columns, flat_steps = (
            torch.tensor(values + values[-1:] * missing, device=device)
            for values in (ids, rows, columns, steps)
        )
        self._pass = self._layout(flat_rows, flat_columns, flat_steps, max(steps), max(columns))
        cos, sin = (table[flat_columns][:, None, None] for table in self._rotary)
        hidden = self._run_layers(tokens, cos, sin)[:, 0]
        flat = iter(most_probable_tokens(hidden, self._head).tolist())
        self._lengths = [
            length + len(block) for length, block in zip(self._lengths, blocks, strict=True)
        ]
        return [[next(flat) for _ in block] for block in blocks]

    def rewind(self, row: int, length: int) -> None:
        """Forget all tokens of a row but the first `length`."""
        self._lengths[row] = length

    def keep(self, rows: Sequence[int]) -> None:
        """Keep only some rows, given in ascending order."""
        super().keep(rows)
        self._lengths = [self._lengths[row] for row in rows]

    def _layout(
        self, rows: Tensor, columns: Tensor, steps: Tensor, last_step: int, last_column: int
    ) -> _Pass:
        device = rows.device
        num_steps, width = last_step + 1, last_column + 1
        if self._pads:
            num_steps, width = text_width(num_steps, device), text_width(width, device)
        starts = torch.tensor(self._lengths, device=device)
        queries = starts[:, None] + torch.arange(num_steps, device=device)
        allowed = torch.arange(width, device=device) <= queries[:, :, None]
        mask = additive_mask(allowed, self._past[0][0].dtype)[:, None]
        return _Pass(rows, columns, rows * num_steps + steps, num_steps, width, mask)

    def _attend_past(
        self, number: int, query: Tensor, key: Tensor, value: Tensor, scaling: float
    ) -> Tensor:
        layout = self._current
        keys, values = self._past[number]
        keys[layout.rows, :, layout.columns] = key[:, 0]
        values[layout.rows, :, layout.columns] = value[:, 0]
        mixed = F.scaled_dot_product_attention(
            self._grid(query.transpose(1, 2)),
            keys[:, :, : layout.width],
            values[:, :, : layout.width],
            layout.mask,
            scale=scaling,
        )
        return self._flat(mixed.transpose(1, 2).flatten(2))

    def _attend_frames(self, number: int, query: Tensor, scaling: float) -> Tensor:
        return self._flat(super()._attend_frames(number, self._grid(query), scaling))

    @property
    def _current(self) -> _Pass:
        if self._pass is None:
            raise RuntimeError("unexpected: no pass is under way")
        return self._pass

    def _grid(self, query: Tensor) -> Tensor:
        """Queries [N, heads, 1, width] → [B, heads, steps, width], zeros where there is none."""
        layout, num_rows = self._current, len(self._lengths)
        grid = query.new_zeros(num_rows * layout.steps, *query.shape[1:2], query.shape[3])
        grid[layout.cells] = query[:, :, 0]
        return grid.view(num_rows, layout.steps, *grid.shape[1:]).transpose(1, 2)

    def _flat(self, mixed: Tensor) -> Tensor:
        """[B, steps, W] → [N, 1, W]."""
        return mixed.reshape(-1, mixed.shape[-1])[self._current.cells][:, None]


def most_probable_tokens(hidden: Tensor, head: Linear) -> Tensor:
    """Hidden states [N, W] → the token after each, [N]; a part of the logits at a time."""
    return torch.cat([head(part).argmax(dim=-1) for part in torch.split(hidden, _LOGITS_ROWS)])


def _rounded_up(count: int, device: torch.device) -> int:
    return round_up_to_coarse_bucket(count, 1) if is_launch_bound(device) else count
