"""Splits that share no speaker, and detection of leakage between splits.

A leaky split overstates the gain of adaptation by several points of WER, because the model has
trained on the voices of the test set. Only manifest fields are read here; no audio is opened.
"""

import math
import random
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

from moonshine_tune.core.errors import RequestError
from moonshine_tune.corpus.manifest import Utterance
from moonshine_tune.corpus.normalizers import normalizer_for
from moonshine_tune.corpus.speaker_labels import LocalLabels, joined_to_recordings, local_labels
from moonshine_tune.corpus.speaker_names import similar_names

_Item = TypeVar("_Item")

# Random orders tried for each split; the one closest to its share wins. A single order misses a
# share of 10 % by up to 10 points where a few speakers speak most of the time.
_TRIALS = 32
# Trying stops at this distance from the share, relative to the share.
_CLOSE_ENOUGH = 0.01

# What an utterance is grouped by: ("speaker", name), ("session", name) or ("recording", path).
_Node = tuple[str, str]


@dataclass(frozen=True)
class Splits:
    """Three splits that share no speaker and no recording; remarks name the assumptions."""

    train: tuple[Utterance, ...]
    dev: tuple[Utterance, ...]
    test: tuple[Utterance, ...]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Leak:
    """One speaker, text or recording in more than one split.

    Attributes:
        value: the speaker's name, the text as first written, or the recording's path.
        ids: split → ids of its utterances with this value.
    """

    value: str
    ids: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class Leaks:
    """Speakers, texts and recordings in more than one split."""

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
    local_speakers: bool | None = None,
) -> Splits:
    """Split so that no speaker and no recording is in two splits.

    An utterance without `speaker` is grouped by its `session`, one without either by its recording.
    Speakers of one recording stay together, and so do names that differ in case or accents only.
    Labels of diarizers, which start anew in each recording, are joined to the recording. The result
    depends on the utterances and the seed, not on the order of the utterances; each split keeps
    that order.

    Args:
        dev, test: shares of the total, by duration where every duration is known, else by count.
            0 gives an empty split. A split is also empty if there are too few speakers; a remark
            says so.
        disjoint_texts: also drop the texts of dev and test from train, and those of test from dev.
        local_speakers: whether numbered labels of speakers name another person in each recording;
            None decides by how they are spread over the recordings.

    Raises:
        RequestError: the shares are not between 0 and 1, or leave nothing for train; or numbered
            labels may be either.
    """
    if not (0 <= dev < 1 and 0 <= test < 1 and dev + test < 1):
        raise RequestError(
            f"shares of {dev:g} for dev and {test:g} for test leave nothing for train",
            hint="give shares that add up to less than 1, such as --dev 0.1 --test 0.1",
        )
    labels = _local_labels(utterances, local_speakers)
    utterances = joined_to_recordings(utterances, labels)
    keys, remarks = _group_keys(utterances)
    remarks += [
        f"{item.listed()} in {item.recordings} recordings: read as labels that start anew in each, "
        "and joined to its name; if they are the same people everywhere: --global-speakers"
        for item in labels
    ]
    weights, weight_remarks = _weights(utterances, keys)
    remarks.extend(weight_remarks)
    total = sum(weights.values())
    split_of: dict[_Node, str] = {}
    wanted = [(name, share) for name, share in (("test", test), ("dev", dev)) if share > 0]
    for position, (name, share) in enumerate(wanted):
        free = [key for key in weights if key not in split_of]
        # One speaker is reserved for train and for each split that is still empty.
        at_most = len(free) - (len(wanted) - position)
        chosen = _closest(free, weights, share * total, at_most, f"{seed}:{name}")
        split_of.update(dict.fromkeys(chosen, name))
        if not chosen and utterances:
            remarks.append(f"{name} is empty: there are only {len(weights)} voices to split")
    splits: dict[str, list[Utterance]] = {"train": [], "dev": [], "test": []}
    for utterance, key in zip(utterances, keys, strict=True):
        splits[split_of.get(key, "train")].append(utterance)
    if disjoint_texts:
        remarks.extend(_drop_shared_texts(splits))
    train_split, dev_split, test_split = map(tuple, splits.values())
    return Splits(train_split, dev_split, test_split, tuple(remarks))


def evenly_chosen(items: Sequence[_Item], count: int) -> list[_Item]:
    """`count` items at even distances from the first on, or all if there are fewer."""
    count = min(count, len(items))
    return [items[position * len(items) // count] for position in range(count)]


def _local_labels(
    utterances: Sequence[Utterance], local_speakers: bool | None
) -> list[LocalLabels]:
    """The labels to join to their recordings."""
    if local_speakers is not None:
        return local_labels(utterances, all_labels=True) if local_speakers else []
    labels = local_labels(utterances)
    doubtful = next((item for item in labels if not item.is_certain), None)
    if doubtful is not None:
        raise RequestError(
            f"the speakers {doubtful.listed()} of {doubtful.recordings} recordings can be the same "
            "people in all, or labels that start anew in each recording",
            hint="say which: moonshine-tune data split with --global-speakers (the same people), "
            "or with --local-speakers (start anew)",
        )
    return labels


def _voice(utterance: Utterance) -> _Node:
    """The assumed speaker of an utterance."""
    if utterance.speaker:
        return ("speaker", utterance.speaker)
    if utterance.session:
        return ("session", utterance.session)
    return ("recording", str(utterance.audio))


def _group_keys(utterances: Sequence[Utterance]) -> tuple[list[_Node], list[str]]:
    """The group of each utterance, which must stay in one split; and remarks on fallbacks."""
    parent: dict[_Node, _Node] = {}

    def root(node: _Node) -> _Node:
        parent.setdefault(node, node)
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    def unite(left: _Node, right: _Node) -> None:
        first, second = sorted((root(left), root(right)))
        parent[second] = first

    # An unnamed speaker of a session may be any of its named speakers.
    open_sessions = {voice[1] for voice in map(_voice, utterances) if voice[0] == "session"}
    for utterance in utterances:
        unite(_voice(utterance), ("recording", str(utterance.audio)))
        if utterance.session in open_sessions:
            unite(_voice(utterance), ("session", utterance.session))
    similar = similar_names({item.speaker for item in utterances if item.speaker})
    for first, *rest in similar:
        for name in rest:
            unite(("speaker", first), ("speaker", name))
    unnamed = [_voice(utterance)[0] for utterance in utterances if not utterance.speaker]
    remarks = []
    if unnamed:
        groups = [
            f"{unnamed.count(kind)} by {kind}"
            for kind in ("session", "recording")
            if kind in unnamed
        ]
        remarks.append(
            f"{len(unnamed)} of {len(utterances)} utterances have no speaker: grouped "
            + ", ".join(groups)
        )
    if similar:
        remarks.append(
            f"probably one speaker each, kept in one split: {'; '.join(map(' = '.join, similar))}"
        )
    repeated = {name for names in similar for name in names[1:]}
    speakers = {item.speaker for item in utterances if item.speaker} - repeated
    voices = {root(("speaker", speaker)) for speaker in speakers}
    if len(voices) < len(speakers):
        remarks.append(
            f"{len(speakers)} speakers form {len(voices)} groups: speakers who share a recording "
            "or a session stay together"
        )
    return [root(_voice(utterance)) for utterance in utterances], remarks


def _weights(
    utterances: Sequence[Utterance], keys: Sequence[_Node]
) -> tuple[dict[_Node, float], list[str]]:
    """Seconds of each group, or its count if some duration is unknown; sorted by name."""
    known = [utterance.known_seconds for utterance in utterances]
    unknown = known.count(None)
    shares: dict[_Node, list[float]] = defaultdict(list)
    for key, seconds in zip(keys, known, strict=True):
        shares[key].append(1.0 if unknown else seconds or 0.0)
    remarks = []
    if unknown:
        remarks.append(f"{unknown} of {len(utterances)} durations are unknown: shares are by count")
    # An exact sum: its last digit must not depend on the order of the utterances.
    return {key: math.fsum(shares[key]) for key in sorted(shares)}, remarks


def _closest(
    free: Sequence[_Node], weights: Mapping[_Node, float], target: float, at_most: int, key: str
) -> tuple[_Node, ...]:
    """1 to `at_most` of the free groups with a total weight close to `target`."""
    if at_most < 1:
        return ()
    rng = random.Random(key)
    order = sorted(free)
    best: tuple[_Node, ...] = ()
    best_gap = float("inf")
    for _ in range(_TRIALS):
        rng.shuffle(order)
        chosen: list[_Node] = []
        total = 0.0
        for node in order:
            if len(chosen) < at_most and abs(total + weights[node] - target) < abs(total - target):
                chosen.append(node)
                total += weights[node]
        gap = abs(total - target)
        if chosen and gap < best_gap:
            best, best_gap = tuple(chosen), gap
        if best_gap <= _CLOSE_ENOUGH * target:
            break
    # Where every speaker exceeds twice the share, the one who speaks least is held out.
    return best or (min(order, key=lambda node: (weights[node], node)),)


def _drop_shared_texts(splits: dict[str, list[Utterance]]) -> list[str]:
    remarks = []
    for name, held_out in (("dev", ("test",)), ("train", ("dev", "test"))):
        taken = {plain_text(u) for split in held_out for u in splits[split]} - {""}
        kept = [utterance for utterance in splits[name] if plain_text(utterance) not in taken]
        dropped = len(splits[name]) - len(kept)
        if dropped:
            remarks.append(
                f"{name}: kept {len(kept)} of {len(splits[name])}: "
                f"{dropped} with a text that is also in {' or '.join(held_out)}"
            )
        splits[name] = kept
    return remarks


def plain_text(utterance: Utterance) -> str:
    """The text without case and punctuation; empty if there is none."""
    return _plain(utterance.text) if utterance.text else ""


# Several checks compare texts, and normalizing a hundred thousand takes two seconds each time.
@lru_cache(maxsize=1 << 17)
def _plain(text: str) -> str:
    return normalizer_for("basic-1")(text)


def find_leaks(splits: Mapping[str, Iterable[Utterance]]) -> Leaks:
    """Speakers, texts (case and punctuation aside) and recordings in more than one split.

    An utterance without `speaker` counts by its `session`, if it has one. Labels that start anew in
    each recording are joined to the recording.
    """
    listed = {name: tuple(utterances) for name, utterances in splits.items()}
    labels = local_labels([item for members in listed.values() for item in members])
    certain = [item for item in labels if item.is_certain]
    listed = {name: joined_to_recordings(members, certain) for name, members in listed.items()}
    speakers = _shared(listed, lambda u: _voice(u) if _voice(u)[0] != "recording" else None)
    texts = _shared(listed, lambda u: plain_text(u) or None)
    recordings = _shared(listed, lambda u: u.audio)
    return Leaks(
        speakers=tuple(Leak(u.speaker or f"session {u.session}", ids) for u, ids in speakers),
        texts=tuple(Leak(u.text or "", ids) for u, ids in texts),
        recordings=tuple(Leak(str(u.audio), ids) for u, ids in recordings),
    )


def _shared(
    splits: Mapping[str, Sequence[Utterance]], key: Callable[[Utterance], Hashable | None]
) -> list[tuple[Utterance, dict[str, tuple[str, ...]]]]:
    """For each key in two splits or more: its first utterance, and the ids by split."""
    first: dict[Hashable, Utterance] = {}
    ids: dict[Hashable, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, utterances in splits.items():
        for utterance in utterances:
            value = key(utterance)
            if value is not None:
                first.setdefault(value, utterance)
                ids[value][name].append(utterance.id)
    return [
        (first[value], {name: tuple(members) for name, members in by_split.items()})
        for value, by_split in ids.items()
        if len(by_split) > 1
    ]
