"""Greedy decoding that verifies a draft: an earlier transcript of the same clip.

Most tokens of a clip stay as they were from one score to the next. The decoder reads the draft in
one pass, keeps what greedy search would have written too, and goes on from the first difference.
Where the text meets the draft again, the rest of the draft is the next one. The transcript is that
of greedy search, whatever the draft is.
"""

from collections.abc import Sequence

import torch

from moonshine_tune.core.device import batch_rows
from moonshine_tune.inference.draft_session import DraftSession
from moonshine_tune.inference.greedy import kept_positions
from moonshine_tune.models.base import BOS_ID, EOS_ID, EncoderStates, SpeechModel

# Tokens that are proposed at first, and after a difference: what is proposed in vain is computed
# in vain.
_FIRST, _AFTER_DIFFERENCE = 12, 4
# How far from where it should go on the text may meet its draft again.
_AHEAD, _BEHIND = 8, 3


class Draft:
    """A draft of one clip, and where decoding is in it.

    It turns itself off: each proposal of which nothing is kept halves the next one.

    Args:
        tokens: without start and end.
    """

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens, self._next, self._size = tokens, 0, _FIRST

    def proposal(self, room: int) -> Sequence[int]:
        """Tokens that may come next, at most `room`."""
        return self._tokens[self._next : self._next + max(min(self._size, room), 0)]

    def follow(self, written: Sequence[int], num_kept: int) -> None:
        """Go on after what greedy search wrote.

        Args:
            written: its tokens of one pass: those of the proposal that were kept, and the next one.
            num_kept: of the proposal.
        """
        self._next += num_kept
        token = written[-1]
        if self._next < len(self._tokens) and self._tokens[self._next] == token:
            self._next += 1
            self._size = max(2 * self._size, _FIRST)
            return
        self._size = _AFTER_DIFFERENCE if num_kept else self._size // 2
        near = range(max(self._next - _BEHIND, 0), min(self._next + _AHEAD, len(self._tokens)))
        met = [index for index in near if self._tokens[index] == token]
        if met:
            self._next = min(met, key=lambda index: abs(index - self._next)) + 1
            self._size = max(self._size, _AFTER_DIFFERENCE)
        else:
            # A token in the place of another.
            self._next += 1


@torch.inference_mode()
def greedy_tokens_by_drafts(
    model: SpeechModel,
    states: EncoderStates,
    limits: Sequence[int],
    drafts: Sequence[Sequence[int]],
) -> list[list[int]]:
    """What `greedy_tokens` returns, faster where the drafts are much the same.

    Args:
        limits: most tokens of each row.
        drafts: tokens of each row without start and end; empty where there is no draft.
    """
    longest = min(max(limits), model.max_tokens)
    texts: list[list[int]] = [[] for _ in limits]
    plans = [Draft(tokens) for tokens in drafts]
    rows = sorted(range(len(limits)), key=lambda row: states.lengths[row])
    unfinished = list(range(len(rows)))
    rows += rows[-1:] * (batch_rows(len(rows), model.device) - len(rows))
    session = DraftSession(model, states.select(rows), longest)
    while unfinished:
        blocks: list[list[int]] = [[] for _ in rows]
        for position in unfinished:
            row = rows[position]
            text, room = texts[row], min(limits[row], longest) - len(texts[row]) - 1
            blocks[position] = [text[-1] if text else BOS_ID, *plans[row].proposal(room)]
        chosen, remaining = session.advance(blocks), []
        for position in unfinished:
            row, proposed = rows[position], blocks[position][1:]
            written, num_kept, has_ended = _verified(proposed, chosen[position])
            texts[row] += written
            if has_ended or len(texts[row]) >= min(limits[row], longest):
                continue
            plans[row].follow(written, num_kept)
            session.rewind(position, len(texts[row]))
            remaining.append(position)
        unfinished = remaining
        if not unfinished:
            break
        kept = kept_positions(unfinished, len(rows), model.device)
        if len(kept) < len(rows):
            session.keep(kept)
            rows = [rows[position] for position in kept]
            moved = {position: index for index, position in enumerate(kept)}
            unfinished = [moved[position] for position in unfinished]
    return texts


def _verified(proposed: Sequence[int], chosen: Sequence[int]) -> tuple[list[int], int, bool]:
    """What greedy search writes, how many tokens of it were proposed, and whether it ended.

    Args:
        chosen: its token after the last one before the proposal, and after each of the proposal.
    """
    written: list[int] = []
    for index, token in enumerate(chosen):
        if token == EOS_ID:
            return written, index, True
        written.append(token)
        if index == len(proposed) or proposed[index] != token:
            return written, index, False
    return written, len(proposed), False
