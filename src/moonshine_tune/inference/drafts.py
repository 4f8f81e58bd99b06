"""Greedy decoding that verifies drafts: earlier transcripts of the same clips.

Most tokens of a clip stay as they were from one score to the next. The decoder reads a draft in one
pass, as in training; where greedy search would have written all of it, the clip is done. The others
go on from their first difference, and where a text meets its draft again, the rest is proposed
again. The transcript is that of greedy search, whatever the draft is.
"""

import hashlib
from collections.abc import Sequence

import torch

from moonshine_tune.audio.samples import Samples
from moonshine_tune.core.device import is_launch_bound
from moonshine_tune.inference.batching import batches_by_length
from moonshine_tune.inference.draft_session import DraftSession, most_probable_tokens
from moonshine_tune.inference.greedy import DecodedBatch, greedy_tokens
from moonshine_tune.models.base import BOS_ID, EOS_ID, EncoderStates, SpeechModel
from moonshine_tune.models.losses import IGNORED, FrozenHead, target_batch

# Frames of the clips whose drafts are verified together.
_VERIFIED_FRAMES = 4000
# All frames of a batch over those of the drafts that are verified first.
_FIRST_SHARE = 6
# With a smaller share of kept tokens, decoding from the start costs less than drafts.
_LEAST_KEPT = 0.6
# Tokens that are proposed after a difference, and at most; what is proposed in vain is computed in
# vain.
_PROPOSED, _MOST_PROPOSED = 4, 64
# How far from where it should go on a text may meet its draft again.
_AHEAD, _BEHIND = 8, 3


class DraftPosition:
    """Where decoding is in the draft of one clip.

    It turns itself off: a proposal of which nothing is kept halves the next one.

    Args:
        tokens: the draft, without start and end.
    """

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens, self._next, self._size = tokens, 0, _PROPOSED

    def proposal(self, room: int) -> Sequence[int]:
        """Tokens that may come next, at most `room`."""
        return self._tokens[self._next : self._next + max(min(self._size, room), 0)]

    def follow(self, written: Sequence[int], num_kept: int) -> None:
        """Go on after what greedy search wrote.

        Args:
            written: tokens of the draft that were kept, and the next one.
            num_kept: of the draft.
        """
        self._next += num_kept
        token = written[-1]
        near = range(max(self._next - _BEHIND, 0), min(self._next + _AHEAD, len(self._tokens)))
        met = [index for index in near if self._tokens[index] == token]
        self._size = _PROPOSED if num_kept else self._size // 2
        if met:
            nearest = min(met, key=lambda index: abs(index - self._next))
            self._size = _MOST_PROPOSED if nearest == self._next else _PROPOSED
            self._next = nearest
        # Without a meeting, the token is in the place of another one.
        self._next += 1


class DraftStore:
    """The latest transcript of each clip, by its samples; the model may be another one by then."""

    def __init__(self) -> None:
        self._tokens: dict[bytes, Sequence[int]] = {}

    def of(self, clips: Sequence[Samples]) -> list[Sequence[int]]:
        """A draft for each clip; empty where it has none."""
        return [self._tokens.get(_digest(clip), ()) for clip in clips]

    def keep(self, clips: Sequence[Samples], tokens: Sequence[Sequence[int]]) -> None:
        """Keep the tokens of each clip, without start and end."""
        self._tokens |= {_digest(clip): own for clip, own in zip(clips, tokens, strict=True)}


def _digest(clip: Samples) -> bytes:
    return hashlib.blake2b(clip.tobytes(), digest_size=16).digest()


@torch.inference_mode()
def greedy_tokens_by_drafts(
    model: SpeechModel,
    states: EncoderStates,
    limits: Sequence[int],
    drafts: Sequence[Sequence[int]],
) -> list[list[int]]:
    """What `greedy_tokens` returns, faster where the drafts are much the same.

    With weights in 16 bits drafts are not used: the pass that verifies rounds otherwise than steps.

    Args:
        limits: most tokens of each row.
        drafts: tokens of each row without start and end; empty where there is none.
    """
    if not any(drafts) or model.dtype != torch.float32 or model.head_weight.dtype != torch.float32:
        return greedy_tokens(model, states, limits)
    longest = [min(limit, model.max_tokens) for limit in limits]
    # The last token is not fed to the decoder.
    cut = [draft[: limit - 1] for draft, limit in zip(drafts, longest, strict=True)]
    texts: dict[int, list[int]] = {}
    kept: dict[int, list[int]] = {}
    proposed = agreed = 0
    for group in _groups(states.lengths):
        if agreed < _LEAST_KEPT * proposed:
            break
        chosen = _chosen_after(model, states.select(group), [cut[row] for row in group])
        for row, tokens in zip(group, chosen, strict=True):
            written, count, has_ended = _verified(cut[row], tokens)
            proposed, agreed = proposed + len(cut[row]), agreed + count
            if has_ended or len(written) >= longest[row]:
                texts[row] = written
            else:
                kept[row] = written
    rest = [row for row in range(len(limits)) if row not in texts]
    if not rest:
        return [texts[row] for row in range(len(limits))]
    part, own_limits = states.select(rest), [limits[row] for row in rest]
    if agreed < _LEAST_KEPT * proposed:
        decoded = greedy_tokens(model, part, own_limits)
    else:
        starts = [kept[row] for row in rest]
        decoded = _continued(model, part, own_limits, starts, [cut[row] for row in rest])
    texts |= dict(zip(rest, decoded, strict=True))
    return [texts[row] for row in range(len(limits))]


def _groups(lengths: Sequence[int]) -> list[list[int]]:
    """Rows by length, to be verified together; the first few show whether drafts pay."""
    first, *_ = batches_by_length(lengths, sum(lengths) / _FIRST_SHARE)
    rest = sorted(set(range(len(lengths))) - set(first))
    groups = batches_by_length([lengths[row] for row in rest], _VERIFIED_FRAMES)
    return [first, *([rest[index] for index in group] for group in groups)]


def _chosen_after(
    model: SpeechModel, states: EncoderStates, drafts: Sequence[Sequence[int]]
) -> list[list[int]]:
    """The most probable token after the start, and after each token of the drafts."""
    pads = is_launch_bound(model.device)
    targets = target_batch(drafts, model.device, pad_to_bucket=pads)
    hidden = model.decoder_hidden(states, targets.input_ids)
    own = targets.targets != IGNORED
    head = FrozenHead(model.head_weight).logits
    if pads:
        # Another number of positions would be a new shape each time.
        tokens = most_probable_tokens(hidden.flatten(0, 1), head).cpu()[own.flatten()]
    else:
        tokens = most_probable_tokens(hidden[own.to(hidden.device)], head)
    flat = iter(tokens.tolist())
    return [[next(flat) for _ in range(len(draft) + 1)] for draft in drafts]


def _verified(draft: Sequence[int], chosen: Sequence[int]) -> tuple[list[int], int, bool]:
    """What greedy search writes, how many tokens of it are the draft's, and whether it ended.

    Args:
        chosen: its token before the draft, and after each token of it.
    """
    count = next((i for i, token in enumerate(draft) if chosen[i] != token), len(draft))
    has_ended = chosen[count] == EOS_ID
    return [*draft[:count], *(() if has_ended else (chosen[count],))], count, has_ended


def _continued(
    model: SpeechModel,
    states: EncoderStates,
    limits: Sequence[int],
    starts: Sequence[Sequence[int]],
    drafts: Sequence[Sequence[int]],
) -> list[list[int]]:
    """Decode on from where texts differ from their drafts.

    Args:
        starts: each text so far: tokens of its draft, and one that differs or comes after it.
    """
    batch = DecodedBatch(model, states.lengths, limits)
    session = DraftSession(model, batch.in_order(states), batch.longest)
    positions = [DraftPosition(draft) for draft in drafts]
    for position, start in zip(positions, starts, strict=True):
        position.follow(start, len(start) - 1)
    batch.texts = [list(start) for start in starts]
    # Of each row, the tokens that its keys and values do not have yet.
    unread = [[BOS_ID, *starts[clip]] for clip in batch.rows]
    while batch.unfinished:
        blocks: list[list[int]] = [[] for _ in batch.rows]
        proposals: dict[int, Sequence[int]] = {}
        for row in batch.unfinished:
            room = batch.room(row) - 1
            proposals[row] = positions[batch.rows[row]].proposal(room)
            blocks[row] = [*unread[row], *proposals[row]]
        chosen = session.advance(blocks)
        remaining = []
        for row, proposal in proposals.items():
            clip = batch.rows[row]
            written, count, has_ended = _verified(proposal, chosen[row][len(unread[row]) - 1 :])
            if not batch.write(row, written) or has_ended:
                continue
            positions[clip].follow(written, count)
            session.rewind(row, len(batch.texts[clip]))
            unread[row] = written[-1:]
            remaining.append(row)
        batch.unfinished = remaining
        kept = batch.remove_finished(session)
        if kept is not None:
            unread = [unread[row] for row in kept]
    return batch.texts
