"""Splits that share no speaker, and the finder of what does lie on two sides.

A leaky split overstates what adaptation gains, by several points of WER: the model has met the
test's voices. Nothing but the manifest's own words is looked at here; no audio is opened.
"""

import math
import random
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from moonshine_tune.core.errors import RequestError
from moonshine_tune.corpus.manifest import Utterance
from moonshine_tune.corpus.normalizers import normalizer_for

_Item = TypeVar("_Item")

# Orders that are tried for each side; the one that comes closest to its share is taken. One order
# alone misses a share of 10 % by up to 10 points where a few speakers speak most of the time.
_TRIALS = 32
# A side that is this near to its share is near enough to stop trying, relative to the share.
_NEAR = 0.01

_Node = tuple[str, str]


@dataclass(frozen=True)
class Splits:
    """Three sides that share no speaker and no recording; remarks say what was assumed."""

    train: tuple[Utterance, ...]
    dev: tuple[Utterance, ...]
    test: tuple[Utterance, ...]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Leak:
    """One speaker, text or recording that lies on more than one side.

    Attributes:
        value: the speaker's name, the text as first written, or the recording's path.
        ids: side → the ids of its utterances that share the value.
    """

    value: str
    ids: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class Leaks:
    """All that lies on more than one side, by kind."""

    speakers: tuple[Leak, ...] = ()
    texts: tuple[Leak, ...] = ()
    recordings: tuple[Leak, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.speakers or self.texts or self.recordings)


def split_by_speaker(
    utterances: Sequence[Utterance],
    *,
    dev: float = 0.1,
    test: float = 0.1,
    seed: int = 0,
    disjoint_texts: bool = False,
) -> Splits:
    """Split so that no speaker and no recording lies on two sides.

    An utterance without `speaker` goes by its `session`, one without either by its recording.
    Speakers of one recording stay together. The result depends on the utterances and the seed,
    not on the order of the utterances; each side keeps that order.

    Args:
        dev, test: shares of the whole, by duration where every duration is known, else by count.
            With 0 the side stays empty. A side may stay empty for lack of speakers; remarks say so.
        disjoint_texts: also drop from train each text that is held out, and from dev each text
            that is in test.

    Raises:
        RequestError: the shares are not between 0 and 1, or leave nothing for train.
    """
    if not (0 <= dev < 1 and 0 <= test < 1 and dev + test < 1):
        raise RequestError(
            f"shares of {dev:g} for dev and {test:g} for test leave nothing for train",
            hint="give shares that add up to less than 1, such as --dev 0.1 --test 0.1",
        )
    keys, remarks = _group_keys(utterances)
    weights, remark = _weights(utterances, keys)
    remarks.extend(remark)
    whole = sum(weights.values())
    side_of: dict[_Node, str] = {}
    wanted = [(name, share) for name, share in (("test", test), ("dev", dev)) if share > 0]
    for position, (name, share) in enumerate(wanted):
        free = [key for key in weights if key not in side_of]
        # One speaker is kept back for train and for each side that is still to be filled.
        most = len(free) - (len(wanted) - position)
        chosen = _closest(free, weights, share * whole, most, f"{seed}:{name}")
        side_of.update(dict.fromkeys(chosen, name))
        if not chosen and utterances:
            remarks.append(f"{name} is empty: there are {len(weights)} voices to split")
    sides: dict[str, list[Utterance]] = {"train": [], "dev": [], "test": []}
    for utterance, key in zip(utterances, keys, strict=True):
        sides[side_of.get(key, "train")].append(utterance)
    if disjoint_texts:
        remarks.extend(_drop_shared_texts(sides))
    return Splits(tuple(sides["train"]), tuple(sides["dev"]), tuple(sides["test"]), tuple(remarks))


def evenly_chosen(items: Sequence[_Item], count: int) -> list[_Item]:
    """`count` of them, or all where there are fewer, at even distances in their order."""
    count = min(count, len(items))
    return [items[place * len(items) // count] for place in range(count)]


def _voice(utterance: Utterance) -> _Node:
    """Whom an utterance is taken to be spoken by."""
    if utterance.speaker:
        return ("speaker", utterance.speaker)
    if utterance.session:
        return ("session", utterance.session)
    return ("recording", str(utterance.audio))


def _group_keys(utterances: Sequence[Utterance]) -> tuple[list[_Node], list[str]]:
    """The group of each utterance, which must stay on one side; and remarks on fallbacks."""
    parent: dict[_Node, _Node] = {}

    def root(node: _Node) -> _Node:
        parent.setdefault(node, node)
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    def unite(one: _Node, other: _Node) -> None:
        first, second = sorted((root(one), root(other)))
        parent[second] = first

    # Someone unnamed in a session may be any of those who are named in it.
    open_sessions = {voice[1] for voice in map(_voice, utterances) if voice[0] == "session"}
    for utterance in utterances:
        unite(_voice(utterance), ("recording", str(utterance.audio)))
        if utterance.session in open_sessions:
            unite(_voice(utterance), ("session", utterance.session))
    unnamed = [_voice(utterance)[0] for utterance in utterances if not utterance.speaker]
    remarks = []
    if unnamed:
        ways = [
            f"{unnamed.count(kind)} by {kind}"
            for kind in ("session", "recording")
            if kind in unnamed
        ]
        remarks.append(
            f"{len(unnamed)} of {len(utterances)} utterances name no speaker: kept apart "
            + ", ".join(ways)
        )
    speakers = {utterance.speaker for utterance in utterances if utterance.speaker}
    voices = {root(("speaker", speaker)) for speaker in speakers}
    if len(voices) < len(speakers):
        remarks.append(
            f"{len(speakers)} speakers make {len(voices)} groups: those who share a recording or "
            "a session stay together"
        )
    return [root(_voice(utterance)) for utterance in utterances], remarks


def _weights(
    utterances: Sequence[Utterance], keys: Sequence[_Node]
) -> tuple[dict[_Node, float], list[str]]:
    """Each group's seconds, or its count where some duration is unknown; sorted by name."""
    known = [utterance.known_seconds for utterance in utterances]
    unknown = known.count(None)
    shares: dict[_Node, list[float]] = defaultdict(list)
    for key, seconds in zip(keys, known, strict=True):
        shares[key].append(1.0 if unknown else seconds or 0.0)
    remarks = []
    if unknown:
        remarks.append(f"{unknown} of {len(utterances)} durations are unknown: shares are by count")
    # An exact sum: the last digit must not depend on the order of the utterances.
    return {key: math.fsum(shares[key]) for key in sorted(shares)}, remarks


def _closest(
    free: Sequence[_Node], weights: Mapping[_Node, float], target: float, most: int, key: str
) -> tuple[_Node, ...]:
    """At most `most` of the free groups whose weights add up close to `target`; one at least."""
    if most < 1:
        return ()
    chance = random.Random(key)
    order = sorted(free)
    best: tuple[_Node, ...] = ()
    best_gap = float("inf")
    for _ in range(_TRIALS):
        chance.shuffle(order)
        chosen: list[_Node] = []
        total = 0.0
        for node in order:
            if len(chosen) < most and abs(total + weights[node] - target) < abs(total - target):
                chosen.append(node)
                total += weights[node]
        gap = abs(total - target)
        if chosen and gap < best_gap:
            best, best_gap = tuple(chosen), gap
        if best_gap <= _NEAR * target:
            break
    # Every speaker may be more than twice the share: the one who speaks least is held out then.
    return best or (min(order, key=lambda node: (weights[node], node)),)


def _drop_shared_texts(sides: dict[str, list[Utterance]]) -> list[str]:
    remarks = []
    for name, held_out in (("dev", ("test",)), ("train", ("dev", "test"))):
        taken = {_text_key(u) for other in held_out for u in sides[other]} - {""}
        kept = [utterance for utterance in sides[name] if _text_key(utterance) not in taken]
        dropped = len(sides[name]) - len(kept)
        if dropped:
            remarks.append(
                f"{name}: kept {len(kept)} of {len(sides[name])}: "
                f"{dropped} whose text is in {' or '.join(held_out)}"
            )
        sides[name] = kept
    return remarks


def _text_key(utterance: Utterance) -> str:
    """What two texts share that differ in case and punctuation only; empty for no text."""
    return normalizer_for("basic-1")(utterance.text) if utterance.text else ""


def find_leaks(sides: Mapping[str, Iterable[Utterance]]) -> Leaks:
    """What lies on more than one side: speakers, texts (case and punctuation aside), recordings.

    An utterance without `speaker` counts by its `session` where it has one.
    """
    listed = {name: tuple(utterances) for name, utterances in sides.items()}
    speakers = _shared(listed, lambda u: _voice(u) if _voice(u)[0] != "recording" else None)
    texts = _shared(listed, lambda u: _text_key(u) or None)
    recordings = _shared(listed, lambda u: u.audio)
    return Leaks(
        speakers=tuple(Leak(u.speaker or f"session {u.session}", ids) for u, ids in speakers),
        texts=tuple(Leak(u.text or "", ids) for u, ids in texts),
        recordings=tuple(Leak(str(u.audio), ids) for u, ids in recordings),
    )


def _shared(
    sides: Mapping[str, Sequence[Utterance]], key: Callable[[Utterance], Hashable | None]
) -> list[tuple[Utterance, dict[str, tuple[str, ...]]]]:
    """For each key on two sides or more: the first utterance that has it, and the ids by side."""
    first: dict[Hashable, Utterance] = {}
    found: dict[Hashable, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, utterances in sides.items():
        for utterance in utterances:
            value = key(utterance)
            if value is not None:
                first.setdefault(value, utterance)
                found[value][name].append(utterance.id)
    return [
        (first[value], {name: tuple(ids) for name, ids in by_side.items()})
        for value, by_side in found.items()
        if len(by_side) > 1
    ]
