"""Groups of utterances that stay in one split: of a speaker, a session, a recording, a text."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

from moonshine_tune.core.moments import seconds_since_1970
from moonshine_tune.corpus.manifest import Utterance
from moonshine_tune.corpus.normalizers import normalizer_for
from moonshine_tune.corpus.speaker_names import similar_names

# What an utterance is grouped by: ("speaker", name), ("session", name), ("recording", path), …
Node = tuple[str, str]

# Fields that say when a clip was recorded, where a manifest has no session.
_DATE_FIELDS = ("date", "recorded_at", "recorded", "created_at", "created", "timestamp", "datetime")
_DATE = re.compile(
    r"(?<!\d)(20\d\d)[-_.]?(0[1-9]|1[0-2])[-_.]?(0[1-9]|[12]\d|3[01])(?!\d(?!\d{5}(?!\d)))"
)
# Spans that share more than this of the shorter one are the same speech.
_SAME_SPEECH = 0.5
# The end of a whole recording: later than any.
_OPEN_END_S = 1e9


@dataclass(frozen=True)
class Sessions:
    """The session of each utterance, and what it is read from.

    Attributes:
        kind: `session` (the field), `date` (a field, or in the path), `folder`, or `recording`.
        names: one for each utterance, in their order.
    """

    kind: str
    names: tuple[str, ...]


def sessions_of(utterances: Sequence[Utterance]) -> Sessions:
    """What was recorded together: the first of field, date, folder and recording that says so."""
    recordings = tuple(str(item.audio) for item in utterances)
    if any(item.session for item in utterances):
        pairs = zip(utterances, recordings, strict=True)
        return Sessions("session", tuple(item.session or audio for item, audio in pairs))
    dates = [_date_of(item) for item in utterances]
    if len(set(dates)) > 1 and None not in dates:
        return Sessions("date", tuple(map(str, dates)))
    folders = tuple(str(item.audio.parent) for item in utterances)
    # A folder for each text is a list of commands, and says nothing about the day.
    texts = {(folder, plain_text(item)) for folder, item in zip(folders, utterances, strict=True)}
    if 1 < len(set(folders)) < len(texts) and 2 * len(set(folders)) <= len(set(recordings)):
        return Sessions("folder", folders)
    return Sessions("recording", recordings)


def _date_of(item: Utterance) -> str | None:
    """The day of a clip: of a field, or of the name of its file or folder."""
    for name in _DATE_FIELDS:
        seconds = seconds_since_1970(item.extra.get(name))
        if seconds is not None:
            return datetime.fromtimestamp(seconds, UTC).date().isoformat()
    for part in (item.audio.stem, item.audio.parent.name):
        if match := _DATE.search(part):
            return "-".join(match.groups())
    return None


def group_by_speaker(utterances: Sequence[Utterance]) -> tuple[list[Node], list[str]]:
    """The group of each utterance by its speaker; and remarks on fallbacks.

    An utterance without `speaker` is grouped by its `session`, one without either by its recording.
    Speakers of one recording stay together, and so do names that differ in case or accents only.
    """
    union = _Union()
    # An unnamed speaker of a session may be any of its named speakers.
    open_sessions = {voice[1] for voice in map(voice_of, utterances) if voice[0] == "session"}
    for utterance in utterances:
        union.unite(voice_of(utterance), ("recording", str(utterance.audio)))
        if utterance.session in open_sessions:
            union.unite(voice_of(utterance), ("session", utterance.session))
    similar = similar_names({item.speaker for item in utterances if item.speaker})
    for first, *rest in similar:
        for name in rest:
            union.unite(("speaker", first), ("speaker", name))
    unnamed = [voice_of(utterance)[0] for utterance in utterances if not utterance.speaker]
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
    voices = {union.root(("speaker", speaker)) for speaker in speakers}
    if len(voices) < len(speakers):
        remarks.append(
            f"{len(speakers)} speakers form {len(voices)} groups: speakers who share a recording "
            "or a session stay together"
        )
    return [union.root(voice_of(utterance)) for utterance in utterances], remarks


def group_by(
    utterances: Sequence[Utterance],
    *,
    sessions: Sessions | None = None,
    recordings: bool = False,
    texts: bool = False,
) -> list[Node]:
    """The group of each utterance by what it shares; always by its span of a recording.

    Args:
        sessions: also keep these whole.
        recordings: also keep recordings whole.
        texts: also keep all readings of a text together; case and punctuation do not count.
    """
    union = _Union()
    clips = _clips(utterances)
    for index, (item, clip) in enumerate(zip(utterances, clips, strict=True)):
        if sessions is not None:
            union.unite(clip, ("session", sessions.names[index]))
        if recordings or sessions is not None:
            union.unite(clip, ("recording", str(item.audio)))
        if texts and (text := plain_text(item)):
            union.unite(clip, ("text", text))
    return [union.root(clip) for clip in clips]


def _clips(utterances: Sequence[Utterance]) -> list[Node]:
    """The speech of each utterance: its recording, and where its span or one that overlaps begins.

    Segments of recognizers overlap by some tenths of a second at their ends, which is no leak.
    """
    spans: dict[Path, list[tuple[float, float, int]]] = defaultdict(list)
    for index, item in enumerate(utterances):
        end = _OPEN_END_S if item.end is None else item.end
        spans[item.audio].append((item.start or 0.0, end, index))
    clips: dict[int, Node] = {}
    for audio, members in spans.items():
        members.sort()
        first = last_start = last_end = members[0][0]
        for start, end, index in members:
            shorter = min(end - start, last_end - last_start)
            if min(end, last_end) - start <= _SAME_SPEECH * shorter:
                first, last_start, last_end = start, start, end
            last_end = max(last_end, end)
            clips[index] = ("clip", f"{audio}@{first!r}")
    return [clips[index] for index in range(len(utterances))]


def voice_of(utterance: Utterance) -> Node:
    """The assumed speaker of an utterance."""
    if utterance.speaker:
        return ("speaker", utterance.speaker)
    if utterance.session:
        return ("session", utterance.session)
    return ("recording", str(utterance.audio))


def plain_text(utterance: Utterance) -> str:
    """The text without case and punctuation; empty if there is none."""
    return _plain(utterance.text) if utterance.text else ""


# Several checks compare texts, and normalizing a hundred thousand takes two seconds each time.
@lru_cache(maxsize=1 << 17)
def _plain(text: str) -> str:
    return normalizer_for("basic-1")(text)


def distinct_texts(utterances: Iterable[Utterance]) -> int:
    """Number of different texts; case and punctuation do not count."""
    return len({plain_text(item) for item in utterances} - {""})


class _Union:
    """Nodes that were united have one root, whatever the order."""

    def __init__(self) -> None:
        self._parent: dict[Node, Node] = {}

    def root(self, node: Node) -> Node:
        parent = self._parent
        parent.setdefault(node, node)
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    def unite(self, left: Node, right: Node) -> None:
        first, second = sorted((self.root(left), self.root(right)))
        self._parent[second] = first
