"""Word alignments: which words are right, which are not, and which utterances to show."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moonshine_tune.core.errors import RequestError
from moonshine_tune.corpus.normalizers import NORMALIZERS, Normalizer
from moonshine_tune.metrics.alignment import align
from moonshine_tune.metrics.alike import AlikeScores, score_alike
from moonshine_tune.metrics.wer import ErrorCounts, ScoredUtterance
from moonshine_tune.report.figures import Interval
from moonshine_tune.report.reading import EvaluationPart

MISTAKES = ("substituted", "deleted", "inserted")
_LENGTHS = ((1, 5), (6, 10), (11, 20), (21, None))


@dataclass(frozen=True)
class ScoredPair:
    """One utterance with the transcripts of two systems; `before` is None with only one."""

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
    reference: str
    hypothesis: str
    before: int
    after: int


@dataclass(frozen=True)
class Group:
    """Utterances with something in common and their error counts."""

    name: str
    utterances: int
    before: ErrorCounts | None
    after: ErrorCounts

    @property
    def before_rate(self) -> Interval | None:
        """WER of the earlier system in percent."""
        return Interval(self.before.rate) if self.before else None

    @property
    def after_rate(self) -> Interval:
        """WER of the later system in percent."""
        return Interval(self.after.rate)


def score_sides_alike(base: EvaluationPart, adapted: EvaluationPart) -> AlikeScores | None:
    """Both sides of a set on their common clips, scored as the adapted one; None without any."""
    try:
        return score_alike(
            base.scored,
            adapted.scored,
            NORMALIZERS.get(str(adapted.result.normalizer)),
            normalizer_before=base.result.normalizer,
        )
    except RequestError:
        return None


def pair_up(
    before: Sequence[ScoredUtterance], after: Sequence[ScoredUtterance]
) -> tuple[ScoredPair, ...]:
    """Each utterance of `after` with the same of `before`, where there is one.

    An id comes once: a damaged file may hold a line twice.
    """
    earlier = {item.id: item for item in before}
    pairs = {item.id: ScoredPair(item, earlier.get(item.id)) for item in after}
    return tuple(pairs.values())


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
    result = {}
    for kind in MISTAKES:
        of_kind = [key for key in keys if key[0] == kind]
        shown = tuple(Confusion(*key, before[key], after[key]) for key in of_kind[:count])
        result[kind] = (shown, len(of_kind))
    return result


def _mistakes(
    scored: Sequence[ScoredUtterance], normalizer: Normalizer
) -> Counter[tuple[str, str, str]]:
    return Counter(
        (token.kind, token.reference, token.hypothesis)
        for item in scored
        if item.words.errors
        for token in align(item.reference, item.hypothesis, normalizer)
        if token.kind != "same"
    )


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
    result = []
    for name, pairs in groups.items():
        earlier = [pair.before.words for pair in pairs if pair.before]
        result.append(
            Group(
                name=name,
                utterances=len(pairs),
                before=sum(earlier, ErrorCounts()) if len(earlier) == len(pairs) else None,
                after=sum((pair.after.words for pair in pairs), ErrorCounts()),
            )
        )
    return tuple(result)
