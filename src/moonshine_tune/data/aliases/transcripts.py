"""What a model writes for takes, and what it might also write."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from moonshine_tune.audio.samples import SAMPLE_RATE_HZ
from moonshine_tune.data.aliases.takes import Take
from moonshine_tune.inference.batching import encode_clips, fit_clip, run_with_oom_backoff
from moonshine_tune.inference.greedy import greedy_tokens
from moonshine_tune.registry.open import OpenedModel

# Decoded once greedily, and so often by probability: what a real voice gets out of a model is
# rarely what a synthetic one does, but often something that the model thinks of there.
REPEATS = 1 + 4
_TEMPERATURE, _TOP = 0.9, 8
# Clips that are decoded together.
_BATCH_CLIPS = 40
# Files that the transcripts depend on, beside the takes.
CODE = ("inference/decoder_session.py", "inference/greedy.py", "data/aliases/transcripts.py")


def transcribe_takes(opened: OpenedModel, takes: Iterable[Take], count: int) -> list[str]:
    """The greedy transcripts of `count` takes, in order, then all of them drawn, and again."""
    model = opened.model
    texts = [""] * (count * REPEATS)
    clips = [fit_clip(model, take.samples) for take in takes]
    order = sorted(range(count), key=lambda index: len(clips[index]))

    @torch.inference_mode()
    def work(rows: Sequence[int]) -> None:
        states = encode_clips(model, [clips[row] for row in rows])
        limits = [opened.limits.tokens(len(clips[row]) / SAMPLE_RATE_HZ) for row in rows]
        draw = _Draw()
        for repeat in range(REPEATS):
            if repeat:
                tokens = greedy_tokens(model, states, limits, draw)
            else:
                tokens = greedy_tokens(model, states, limits)
            for row, ids in zip(rows, tokens, strict=True):
                texts[repeat * count + row] = model.tokenizer.decode(ids)

    groups = [order[start : start + _BATCH_CLIPS] for start in range(0, count, _BATCH_CLIPS)]
    run_with_oom_backoff(groups, work, model.device)
    return texts


class _Draw:
    """Draws the next token of each row by its probability, the same way in every run."""

    def __init__(self) -> None:
        self._generator = torch.Generator().manual_seed(0)

    def __call__(self, logits: Tensor) -> Tensor:
        """Token ids [B] for logits [B, V]."""
        values, tokens = (logits.float() / _TEMPERATURE).topk(_TOP, dim=-1)
        # On the CPU: other devices draw other numbers.
        drawn = torch.multinomial(values.softmax(dim=-1).cpu(), 1, generator=self._generator)
        return tokens.gather(1, drawn.to(tokens.device)).squeeze(1)
