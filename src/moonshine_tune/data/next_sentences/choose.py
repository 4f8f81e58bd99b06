"""A set of sentences that together teach most for the time that they take to read."""

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moonshine_tune.data.next_sentences.features import (
    MISSED,
    SOUND,
    TERM,
    UNSURE,
    Feature,
    Wanted,
    weight_of,
)

# Each further occurrence is worth this share of the one before it.
_AGAIN = 0.5
# What a sentence costs before its first word: to read it ahead, to start and to stop, in words.
_FIXED_WORDS = 6
_SHOWN = 3


@dataclass(frozen=True)
class Sentence:
    """A candidate: its text, number of words, and features."""

    text: str
    num_words: int
    features: Mapping[Feature, int]


@dataclass(frozen=True)
class ChosenSentence:
    """A sentence to record, its value for its length, and why."""

    text: str
    score: float
    why: tuple[str, ...]


def choose_sentences(
    candidates: Sequence[Sentence], recorded: Mapping[Feature, int], wanted: Wanted, count: int
) -> list[ChosenSentence]:
    """The next sentences, greedily: each is the best after those before it.

    What is worth less the more of it there is has a greedy choice within 63 % of the best set
    (Nemhauser, Wolsey and Fisher 1978), and the value of a candidate only falls: so a queue with
    old values needs few new ones.

    Args:
        recorded: how often each feature is in recordings that exist.
    """
    weights = {
        feature: weight_of(feature, wanted)
        for feature in {feature for item in candidates for feature in item.features}
    }
    have = Counter(recorded)

    def value(item: Sentence) -> float:
        total = sum(
            weights[feature] * (_AGAIN ** have[feature] - _AGAIN ** (have[feature] + number))
            for feature, number in item.features.items()
        )
        return total / (item.num_words + _FIXED_WORDS)

    queue = [(-value(item), index) for index, item in enumerate(candidates)]
    heapq.heapify(queue)
    chosen: list[ChosenSentence] = []
    while queue and len(chosen) < count:
        _, index = heapq.heappop(queue)
        item = candidates[index]
        now = value(item)
        # Of two that are worth the same, the first in the text.
        if queue and (-now, index) > queue[0]:
            heapq.heappush(queue, (-now, index))
            continue
        if now <= 0:
            break
        chosen.append(ChosenSentence(item.text, round(now, 4), _reasons(item, have, wanted)))
        have.update(item.features)
    return chosen


def _reasons(item: Sentence, have: Mapping[Feature, int], wanted: Wanted) -> tuple[str, ...]:
    """Why a sentence is chosen, the most important first."""
    by_kind: dict[str, list[str]] = {kind: [] for kind in (TERM, MISSED, UNSURE, SOUND)}
    for kind, name in item.features:
        by_kind[kind].append(name)
    reasons = [f"{name}: {_takes(have[TERM, name])}" for name in by_kind[TERM]]
    missed = sorted(by_kind[MISSED], key=lambda name: (-weight_of((MISSED, name), wanted), name))
    reasons += [
        f"{name}: missed {wanted.missed[name][0]} of {wanted.missed[name][1]} times"
        for name in missed[:_SHOWN]
    ]
    unsure = sorted(by_kind[UNSURE], key=lambda name: (wanted.unsure[name], name))
    reasons += [
        f"{name}: confidence {wanted.unsure[name]:.2f}"
        for name in unsure[:_SHOWN]
        if name not in missed
    ]
    new = sum(not have[SOUND, name] for name in by_kind[SOUND])
    if new:
        reasons.append(f"{new} new {'pair' if new == 1 else 'pairs'} of sounds")
    return tuple(reasons) or ("more of what there is little of",)


def _takes(count: int) -> str:
    return f"{count} {'take' if count == 1 else 'takes'} so far" if count else "no takes yet"
