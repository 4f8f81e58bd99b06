"""Splits of a corpus, by speaker or for one voice, and detection of leakage between splits.

A leaky split overstates the gain of adaptation by several points of WER, because the model has
trained on the voices of the test set. Where there is one voice only, its sentences and sessions are
kept apart instead. Only manifest fields are read here; no audio is opened.
"""

import math
import random
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from moonshine_tune.core.errors import RequestError
from moonshine_tune.corpus.grouping import (
    Node,
    Sessions,
    distinct_texts,
    group_by,
    group_by_speaker,
    plain_text,
    sessions_of,
    voice_of,
)
from moonshine_tune.corpus.manifest import Utterance
from moonshine_tune.corpus.speaker_labels import LocalLabels, joined_to_recordings, local_labels
from moonshine_tune.corpus.speaker_names import similar_names

_Item = TypeVar("_Item")

WAYS = ("auto", "speaker", "session", "text")
# Random orders tried for each split; the one closest to its share wins. A single order misses a
# share of 10 % by up to 10 points where a few speakers speak most of the time.
_TRIALS = 32
# Trying stops at this distance from the share, relative to the share.
_CLOSE_ENOUGH = 0.01
# There are enough sessions or texts to keep whole where no side gets more than so many times its
# share, or less than its inverse: 5 sessions for a tenth. Else too much would be lost for training.
_NEAR_SHARE = 2.0
# Below this number of clips a share of a tenth is a clip or two: sides get up to 3, and count.
_FEW_CLIPS, _LEAST_CLIPS = 30, 3


@dataclass(frozen=True)
class Splits:
    """Three splits; remarks name the assumptions.

    Attributes:
        by: what no two splits share: `speaker`, `session and text`, `recording and text`, `text`,
            `session`, `recording`, or only the `clip`.
    """

    train: tuple[Utterance, ...]
    dev: tuple[Utterance, ...]
    test: tuple[Utterance, ...]
    remarks: tuple[str, ...] = ()
    by: str = "speaker"


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


def split_utterances(
    utterances: Sequence[Utterance],
    *,
    by: str = "auto",
    dev: float = 0.1,
    test: float = 0.1,
    seed: int = 0,
    disjoint_texts: bool = False,
    local_speakers: bool | None = None,
) -> Splits:
    """Split by speaker where there are enough speakers; else for the voices that there are.

    With one named speaker, or none, a text stays in one split with all its readings, and a session
    stays whole. Where there are too few sessions for that, they are cut; where there are too few
    texts, they are shared. Remarks say which. The result depends on the utterances and the seed,
    not on the order of the utterances; each split keeps that order.

    Args:
        by: one of `WAYS`; `auto` chooses, and the others do what they say.
        dev, test: shares of the total, by duration where every duration is known, else by count.
            0 gives an empty split. Without enough speakers, a set of fewer than 30 clips gives each
            side up to 3.
        disjoint_texts: also drop the texts of dev and test from train, and those of test from dev.
        local_speakers: whether numbered labels of speakers name another person in each recording;
            None decides by how they are spread over the recordings.

    Raises:
        RequestError: no such way, the shares are not between 0 and 1, or leave nothing for train;
            or numbered labels may be either.
    """
    if by not in WAYS:
        raise RequestError(f"nothing can be split by {by!r}", hint=f"one of: {', '.join(WAYS)}")
    shares = _Shares(dev, test, seed, disjoint_texts)
    if by in ("session", "text") and local_speakers is None:
        labels = [item for item in local_labels(utterances) if item.is_certain]
    else:
        labels = _local_labels(utterances, local_speakers)
    joined = joined_to_recordings(utterances, labels)
    local = {label for item in labels for label in item.labels}
    names = {item.speaker for item in utterances if item.speaker} - local
    count = len(names) - sum(len(group) - 1 for group in similar_names(names))
    keys, remarks = group_by_speaker(joined)
    enough = count > 1 and len(set(keys)) > len(shares.wanted)
    if by == "speaker" or (by == "auto" and enough):
        splits = _assign(joined, keys, shares, "voices").splits
        splits = replace(splits, remarks=(*remarks, *_label_remarks(labels), *splits.remarks))
    else:
        splits = _split_voice(joined, by, shares)
        voices = _describe_voices(names, count, num_unnamed=len(utterances), is_local=bool(labels))
        remarks = [f"{voices}: split by {splits.by}"] if by == "auto" else []
        splits = replace(splits, remarks=(*_label_remarks(labels), *remarks, *splits.remarks))
    return splits


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
    Labels of diarizers, which start anew in each recording, are joined to the recording. A split is
    empty if there are too few speakers; a remark says so.

    Args, Raises: as of `split_utterances`.
    """
    return split_utterances(
        utterances,
        by="speaker",
        dev=dev,
        test=test,
        seed=seed,
        disjoint_texts=disjoint_texts,
        local_speakers=local_speakers,
    )


@dataclass(frozen=True)
class _Shares:
    """How much each side gets, and how it is drawn."""

    dev: float
    test: float
    seed: int
    disjoint_texts: bool

    def __post_init__(self) -> None:
        dev, test = self.dev, self.test
        if not (0 <= dev < 1 and 0 <= test < 1 and dev + test < 1):
            raise RequestError(
                f"shares of {dev:g} for dev and {test:g} for test leave nothing for train",
                hint="give shares that add up to less than 1, such as --dev 0.1 --test 0.1",
            )

    @property
    def wanted(self) -> list[tuple[str, float]]:
        """Name and share of the sides that are not left out, in the order of drawing."""
        return [(name, share) for name, share in (("test", self.test), ("dev", self.dev)) if share]

    def for_few(self, count: int) -> "_Shares":
        """The shares of a set of so many clips: at least a clip of 5, 2 of 8, 3 of 13."""
        if not 0 < count < _FEW_CLIPS:
            return self
        least = min(_LEAST_CLIPS, max(1, round(count / 5))) / count
        dev, test = (max(share, least) if share else 0.0 for share in (self.dev, self.test))
        # Three clips with shares of a half: each side still gets one.
        return replace(self, dev=dev, test=test) if dev + test < 1 else self


@dataclass(frozen=True)
class _Assigned:
    """Splits, and whether each side has about its share."""

    splits: Splits
    is_near: bool


def _assign(
    utterances: Sequence[Utterance],
    keys: Sequence[Node],
    shares: _Shares,
    what: str,
    *,
    by_count: bool = False,
) -> _Assigned:
    """Draw groups for test and dev, about as much as their shares; the rest is train.

    Args:
        keys: the group of each utterance.
        what: the groups in a word, for remarks.
        by_count: whether shares are of the number of utterances, even if durations are known.
    """
    weights, remarks = _weights(utterances, keys, by_count=by_count)
    total = sum(weights.values())
    split_of: dict[Node, str] = {}
    is_near = True
    for position, (name, share) in enumerate(shares.wanted):
        free = [key for key in weights if key not in split_of]
        # One group is reserved for train and for each split that is still empty.
        at_most = len(free) - (len(shares.wanted) - position)
        chosen = _closest(free, weights, share * total, at_most, f"{shares.seed}:{name}")
        split_of.update(dict.fromkeys(chosen, name))
        if not chosen and utterances:
            remarks.append(f"{name} is empty: there are only {len(weights)} {what} to split")
        ratio = sum(weights[key] for key in chosen) / (share * total) if total else 0.0
        is_near = is_near and 1 / _NEAR_SHARE <= ratio <= _NEAR_SHARE
    splits: dict[str, list[Utterance]] = {"train": [], "dev": [], "test": []}
    for utterance, key in zip(utterances, keys, strict=True):
        splits[split_of.get(key, "train")].append(utterance)
    if shares.disjoint_texts:
        remarks.extend(_drop_shared_texts(splits))
    train_split, dev_split, test_split = map(tuple, splits.values())
    return _Assigned(Splits(train_split, dev_split, test_split, tuple(remarks)), is_near)


# --- one voice


def _split_voice(utterances: Sequence[Utterance], by: str, shares: _Shares) -> Splits:
    """Split by the first of text, session, recording and clip that there are enough of."""
    sessions = sessions_of(utterances)
    drawn = shares.for_few(len(utterances))
    texts = distinct_texts(utterances)
    for way, keys in _ways(utterances, sessions, by, has_texts=texts > 0):
        by_count = len(utterances) < _FEW_CLIPS
        assigned = _assign(utterances, keys, drawn, _plural(way), by_count=by_count)
        if assigned.is_near:
            break
    splits = replace(assigned.splits, by=way)
    remarks = list(splits.remarks)
    if "text" in way and texts < sum(map(bool, map(plain_text, utterances))):
        remarks.append(
            f"{texts} texts are read more than once: all readings of a text are in one split; if "
            "the model will serve these very texts, let each split have them: --by session"
        )
    elif by == "auto" and "text" not in way and texts:
        remarks.append(f"{texts} different texts are too few to keep apart: splits share texts")
    if by != "session" and "session" not in way and _are_cut(utterances, sessions):
        kinds = {"session": "sessions", "date": "days", "folder": "folders"}
        kind = kinds.get(sessions.kind, "recordings")
        remarks.append(
            f"{len(set(sessions.names))} {kind} are too few to keep whole: splits share "
            f"{kind}, with their microphone and room"
        )
    if drawn != shares:
        remarks.append(
            f"{len(utterances)} clips: dev and test have up to {_LEAST_CLIPS} each, more than "
            "their share"
        )
    return replace(splits, remarks=tuple(remarks))


def _ways(
    utterances: Sequence[Utterance], sessions: Sessions, by: str, *, has_texts: bool
) -> Iterator[tuple[str, list[Node]]]:
    """What may be kept whole and the groups of that, the best first."""
    are_cut = _are_cut(utterances, sessions)
    long_recordings = len({item.audio for item in utterances}) < len(utterances)
    in_recordings = long_recordings and sessions.kind != "recording"
    if by == "session":
        yield "session", group_by(utterances, sessions=sessions)
        return
    if has_texts and by == "auto":
        if are_cut:
            yield "session and text", group_by(utterances, sessions=sessions, texts=True)
        if in_recordings:
            yield "recording and text", group_by(utterances, recordings=True, texts=True)
    if has_texts or by == "text":
        yield "text", group_by(utterances, texts=True)
    if by == "auto":
        if are_cut:
            yield "session", group_by(utterances, sessions=sessions)
        if in_recordings:
            yield "recording", group_by(utterances, recordings=True)
        yield "clip", group_by(utterances)


def _are_cut(utterances: Sequence[Utterance], sessions: Sessions) -> bool:
    """Whether some session has more than one utterance, so that it can be cut."""
    return len(set(sessions.names)) < len(utterances)


def _plural(way: str) -> str:
    return " and ".join(f"{word}s" for word in way.split(" and "))


def _describe_voices(names: set[str], count: int, *, num_unnamed: int, is_local: bool) -> str:
    if is_local and not names:
        return "labels that start anew in each recording name nobody"
    if not names:
        return f"none of {num_unnamed} utterances has a speaker"
    if count == 1:
        return f"one speaker is named ({min(names)})"
    return f"{count} speakers are too few for these splits"


def _label_remarks(labels: Sequence[LocalLabels]) -> list[str]:
    return [
        f"{item.listed()} in {item.recordings} recordings: read as labels that start anew in each, "
        "and joined to its name; if they are the same people everywhere: --global-speakers"
        for item in labels
    ]


# --- groups and their weights


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


def _weights(
    utterances: Sequence[Utterance], keys: Sequence[Node], *, by_count: bool
) -> tuple[dict[Node, float], list[str]]:
    """Seconds of each group, or its count if some duration is unknown; sorted by name."""
    known = [1.0 if by_count else utterance.known_seconds for utterance in utterances]
    unknown = known.count(None)
    shares: dict[Node, list[float]] = defaultdict(list)
    for key, seconds in zip(keys, known, strict=True):
        shares[key].append(1.0 if unknown else seconds or 0.0)
    remarks = []
    if unknown:
        remarks.append(f"{unknown} of {len(utterances)} durations are unknown: shares are by count")
    # An exact sum: its last digit must not depend on the order of the utterances.
    return {key: math.fsum(shares[key]) for key in sorted(shares)}, remarks


def _closest(
    free: Sequence[Node], weights: Mapping[Node, float], target: float, at_most: int, key: str
) -> tuple[Node, ...]:
    """1 to `at_most` of the free groups with a total weight close to `target`."""
    if at_most < 1:
        return ()
    rng = random.Random(key)
    order = sorted(free)
    best: tuple[Node, ...] = ()
    best_gap = float("inf")
    for _ in range(_TRIALS):
        rng.shuffle(order)
        chosen: list[Node] = []
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


def find_leaks(splits: Mapping[str, Iterable[Utterance]]) -> Leaks:
    """Speakers, texts (case and punctuation aside) and recordings in more than one split.

    An utterance without `speaker` counts by its `session`, if it has one. Labels that start anew in
    each recording are joined to the recording.
    """
    listed = {name: tuple(utterances) for name, utterances in splits.items()}
    labels = local_labels([item for members in listed.values() for item in members])
    certain = [item for item in labels if item.is_certain]
    listed = {name: joined_to_recordings(members, certain) for name, members in listed.items()}
    speakers = _shared(listed, lambda u: voice_of(u) if voice_of(u)[0] != "recording" else None)
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
