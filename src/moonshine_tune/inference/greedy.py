"""Greedy decoding as the runtime does it, for any number of clips."""

from collections.abc import Sequence

import torch

from moonshine_tune.inference.decoder_session import GreedySession
from moonshine_tune.models.base import BOS_ID, EOS_ID, EncoderStates, SpeechModel

# The share of a batch below which the rows that are done leave it.
_LEAVE_SHARE = 0.6


@torch.inference_mode()
def greedy_tokens(
    model: SpeechModel, states: EncoderStates, limits: Sequence[int]
) -> list[list[int]]:
    """Token ids of each row, without start and end, at most `limits[row]` of them."""
    longest = min(max(limits), model.max_tokens)
    answers: list[list[int]] = [[] for _ in limits]
    # The session wants neighbours of one length; what comes sorted stays as it is.
    rows = sorted(range(len(limits)), key=lambda row: states.lengths[row])
    in_order = rows == list(range(len(rows)))
    session = GreedySession(model, states if in_order else states.select(rows), longest)
    going = list(range(len(rows)))
    tokens = torch.full((len(rows),), BOS_ID, device=model.device)
    for _ in range(longest):
        tokens = session.step(tokens).argmax(dim=-1)
        found, still = tokens.tolist(), []
        for place in going:
            row, token = rows[place], found[place]
            if token == EOS_ID:
                continue
            answers[row].append(token)
            if len(answers[row]) < min(limits[row], longest):
                still.append(place)
        going = still
        if not going:
            break
        stay = _staying(going, len(rows), free_to_trim=model.device.type == "cpu")
        if len(stay) < len(rows):
            session.keep(stay)
            tokens = tokens[torch.tensor(stay, device=model.device)]
            rows = [rows[place] for place in stay]
            at = {place: index for index, place in enumerate(stay)}
            going = [at[place] for place in going]
    return answers


def _staying(going: Sequence[int], count: int, *, free_to_trim: bool) -> Sequence[int]:
    """Rows that stay in the batch: those that go on, and perhaps some that are done.

    To take rows out of the middle copies the keys and values of all others: done when few are left.
    At the ends it copies nothing, but every new shape costs a device that compiles for shapes.
    """
    if len(going) <= _LEAVE_SHARE * count:
        return going
    return range(going[0], going[-1] + 1) if free_to_trim else range(count)
