"""Which words were heard right, which were not, and which utterances are worth a look."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jiwer

from moonshine_tune.corpus.normalizers import Normalizer
from moonshine_tune.metrics.wer import ErrorCounts, ScoredUtterance

# Longer transcripts are loops of the decoder: their beginning shows it, all of it fills the page.
MAX_TOKENS = 160
_LENGTHS = ((1, 5), (6, 10), (11, 20), (21, None))


@dataclass(frozen=True)
class Token:
    """One place of an alignment.

    Attributes:
        kind: `same`, `substituted`, `deleted` or `inserted`.
        said: word of the reference; empty where one was inserted.
        heard: word of the hypothesis; empty where one was deleted.
    """

    kind: str
    said: str
    heard: str


@dataclass(frozen=True)
class ScoredPair:
    """One utterance as two systems heard it; `before` is None where there is only one."""

    after: ScoredUtterance
    before: ScoredUtterance | None

    @property
    def change(self) -> int:
        """Word errors more (above 0) or fewer (below 0) than before."""
        return self.after.words.errors - self.before.words.errors if self.before else 0


@dataclass(frozen=True)
class Confusion:
    """A mistake and how often each system made it."""

    kind: str
    said: str
    heard: str
    before: int
    after: int


@dataclass(frozen=True)
class Group:
    """Utterances with something in common and their error counts."""

    name: str
    utterances: int
    before: ErrorCounts | None
    after: ErrorCounts


def align(reference: str, hypothesis: str, normalizer: Normalizer) -> tuple[Token, ...]:
    """Word by word, after normalization of both sides, as the score was counted."""
    said, heard = normalizer(reference).split(), normalizer(hypothesis).split()
    if not said:
        # jiwer refuses an empty reference; what was heard there is inserted.
        return tuple(Token("inserted", "", word) for word in heard)
    found: list[Token] = []
    for chunk in jiwer.process_words(" ".join(said), " ".join(heard)).alignments[0]:
        left = said[chunk.ref_start_idx : chunk.ref_end_idx]
        right = heard[chunk.hyp_start_idx : chunk.hyp_end_idx]
        if chunk.type == "delete":
            found += [Token("deleted", word, "") for word in left]
        elif chunk.type == "insert":
            found += [Token("inserted", "", word) for word in right]
        else:
            kind = "same" if chunk.type == "equal" else "substituted"
            found += [Token(kind, a, b) for a, b in zip(left, right, strict=True)]
    return tuple(found)


def pair_up(
    before: Sequence[ScoredUtterance], after: Sequence[ScoredUtterance]
) -> tuple[ScoredPair, ...]:
    """Each utterance of `after` with the same of `before`, where there is one."""
    earlier = {item.id: item for item in before}
    return tuple(ScoredPair(item, earlier.get(item.id)) for item in after)


def choose(pairs: Sequence[ScoredPair], count: int) -> dict[str, tuple[str, ...]]:
    """Ids of the utterances to show, each with why: `damaged`, `worst`, `improved`.

    Args:
        pairs: all utterances, ids unique.
        count: how many of each kind at most.
    """
    wrong = sorted(
        (pair for pair in pairs if pair.after.words.errors),
        key=lambda pair: (-pair.after.words.errors, -pair.after.words.rate, pair.after.id),
    )
    changed = sorted(pairs, key=lambda pair: (pair.change, pair.after.id))
    better = [pair for pair in changed if pair.change < 0]
    damaged = [pair for pair in reversed(changed) if pair.change > 0]
    chosen: dict[str, tuple[str, ...]] = {}
    for why, members in (("damaged", damaged), ("worst", wrong), ("improved", better)):
        for pair in members[:count]:
            chosen[pair.after.id] = (*chosen.get(pair.after.id, ()), why)
    return chosen


def confusions(
    pairs: Sequence[ScoredPair], normalizer: Normalizer, count: int
) -> dict[str, tuple[tuple[Confusion, ...], int]]:
    """The most frequent mistakes of each kind, what the later system still makes first.

    Returns:
        by kind (`substituted`, `deleted`, `inserted`): at most `count`, and how many there are.
    """
    after = _mistakes([pair.after for pair in pairs], normalizer)
    before = _mistakes([pair.before for pair in pairs if pair.before], normalizer)
    keys = sorted(after | before, key=lambda key: (-after[key], -before[key], key))
    found = {}
    for kind in ("substituted", "deleted", "inserted"):
        those = [key for key in keys if key[0] == kind]
        shown = tuple(Confusion(*key, before[key], after[key]) for key in those[:count])
        found[kind] = (shown, len(those))
    return found


def _mistakes(
    scored: Sequence[ScoredUtterance], normalizer: Normalizer
) -> Counter[tuple[str, str, str]]:
    found: Counter[tuple[str, str, str]] = Counter()
    for item in scored:
        if not item.words.errors:
            continue
        for token in align(item.reference, item.hypothesis, normalizer):
            if token.kind != "same":
                found[token.kind, token.said, token.heard] += 1
    return found


def by_speaker(pairs: Sequence[ScoredPair]) -> tuple[Group, ...]:
    """Error counts of each speaker that has a name, by name."""
    groups: dict[str, list[ScoredPair]] = {}
    for pair in pairs:
        if pair.after.speaker:
            groups.setdefault(pair.after.speaker, []).append(pair)
    return _groups(groups)


def by_length(pairs: Sequence[ScoredPair]) -> tuple[Group, ...]:
    """Error counts of short and long utterances, by words of the reference."""
    groups: dict[str, list[ScoredPair]] = {}
    for low, high in _LENGTHS:
        name = f"{low}–{high} words" if high else f"{low} words or more"
        within = [p for p in pairs if low <= p.after.words.reference <= (high or 1 << 60)]
        if within:
            groups[name] = within
    return _groups(groups)


def _groups(groups: Mapping[str, Sequence[ScoredPair]]) -> tuple[Group, ...]:
    found = []
    for name, pairs in groups.items():
        earlier = [pair.before.words for pair in pairs if pair.before]
        found.append(
            Group(
                name=name,
                utterances=len(pairs),
                before=sum(earlier, ErrorCounts()) if len(earlier) == len(pairs) else None,
                after=sum((pair.after.words for pair in pairs), ErrorCounts()),
            )
        )
    return tuple(found)
