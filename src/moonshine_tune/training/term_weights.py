"""Weights of the target tokens: those of listed terms count more in the loss."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from moonshine_tune.core.errors import RequestError
from moonshine_tune.inference.dataset import SpeechDataset
from moonshine_tune.models.base import TextTokenizer


@dataclass(frozen=True)
class TermWeights:
    """The weight of each target of a dataset's clips, end tokens included.

    Attributes:
        by_clip: weights of the clips whose text has a term; all others count 1.
        num_targets: of every clip.
        remarks: how many terms and clips it is about.
    """

    by_clip: Mapping[int, tuple[float, ...]]
    num_targets: tuple[int, ...]
    remarks: tuple[str, ...] = ()

    def total(self, indices: Sequence[int]) -> float:
        """Sum of the weights of some clips: what the loss of a step is divided by."""
        return sum(
            sum(self.by_clip[index]) if index in self.by_clip else self.num_targets[index]
            for index in indices
        )

    def batch(self, indices: Sequence[int], width: int, device: torch.device) -> Tensor:
        """Weights [B, width] of some clips, 0 on padding."""
        weights = torch.zeros(len(indices), width)
        for row, index in enumerate(indices):
            own = self.by_clip.get(index)
            count = self.num_targets[index]
            weights[row, :count] = 1.0 if own is None else torch.tensor(own)
        return weights.to(device)


def weigh_terms(
    dataset: SpeechDataset, terms: Sequence[str], weight: float, tokenizer: TextTokenizer
) -> TermWeights:
    """Weigh the tokens of terms where they are whole words of a text, whatever their case.

    Raises:
        RequestError: no text has any of the terms.
    """
    by_first_word: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    for term in terms:
        first = next(iter(_words(term)), "")
        by_first_word.setdefault(first, []).append((term, _pattern(term)))
    by_clip: dict[int, tuple[float, ...]] = {}
    in_train: set[str] = set()
    for index, utterance in enumerate(dataset.utterances):
        text = utterance.text or ""
        spans: list[tuple[int, int]] = []
        # A thousand terms are not looked for in each of ten thousand texts.
        for first in {"", *_words(text)} & by_first_word.keys():
            for term, pattern in by_first_word[first]:
                matches = [match.span() for match in pattern.finditer(text)]
                spans += matches
                if matches:
                    in_train.add(term)
        if spans and dataset.tokens[index]:
            by_clip[index] = (*_token_weights(tokenizer.spans(text), spans, weight), 1.0)
    if not by_clip:
        raise RequestError(
            f"train.term_weight={weight:g}, but no training text has any of {len(terms)} terms of "
            "data.terms",
            hint="name the terms as the transcripts spell them, or leave train.term_weight at 1",
        )
    remark = (
        f"terms: {len(in_train)} of {len(terms)} are in {len(by_clip)} of {len(dataset)} training "
        f"clips; their tokens weigh {weight:g}"
    )
    return TermWeights(by_clip, tuple(len(ids) + 1 for ids in dataset.tokens), (remark,))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _pattern(term: str) -> re.Pattern[str]:
    """Finds a term as whole words; between its words may be spaces or hyphens."""
    words = r"[\s-]+".join(map(re.escape, term.split()))
    return re.compile(rf"(?<!\w){words}(?!\w)", re.IGNORECASE)


def _token_weights(
    tokens: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]], weight: float
) -> tuple[float, ...]:
    """The weight of each token: that of terms where the token shares a letter with one."""
    return tuple(
        weight if any(start < end_of and begin < end for begin, end_of in spans) else 1.0
        for start, end in tokens
    )
