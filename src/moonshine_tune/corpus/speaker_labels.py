"""Labels of speakers that start anew in each recording.

Diarizers number the voices of each recording: `SPEAKER_00` of one recording and `SPEAKER_00` of the
next are two people. Such labels are recognized by their form and by how they are spread over the
recordings.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from moonshine_tune.corpus.manifest import Utterance

# A numbered label: of a diarizer, or a short one that people use, too. After other words, such as
# `Site 3` or `P2`, it may also be a person everywhere.
_TOOLS = re.compile(r"SPEAKER_(?=\d\d$)|spk_(?=\d+$)|Guest-(?=\d+$)")
_LABEL = re.compile(
    r"(?P<family>(?i:speaker|spkr?|guest|voice|sprecher(?:in)?|locuteur|locutrice|intervenant|"
    r"hablante|interlocutor|parlante|falante|spreker|спикер|диктор|화자|참석자|話者|说话人|說話人|"
    r"發言人|发言人|person|participant|unknown speaker|talker|s|)[ _#-]*\(?)"
    r"(?P<index>\d{1,3}|[A-Z])\)?"
)
_NUMBERED = re.compile(r"(?P<family>[^\W\d](?:[^\d]{0,30}[^\d])??)(?P<index>\d{1,3})(?:\.0)?")
# Parts in a conversation, which other people play in the next one, or the same ones.
_ROLES = frozenset({
    "agent", "customer", "caller", "client", "operator", "doctor", "patient", "interviewer",
    "interviewee", "host", "guest", "teacher", "student", "left", "right", "user", "assistant",
    "male", "female", "man", "woman", "speaker", "other",
})  # fmt: skip
_CLIP_NUMBER = re.compile(r"[-_ .]*\d+$")
# A diarizer of recordings with more voices than this numbers them over all recordings.
_MOST_VOICES = 12


@dataclass(frozen=True)
class LocalLabels:
    """Labels of speakers that name another person in each recording, or may do so.

    Attributes:
        labels: such as `SPEAKER_00` and `SPEAKER_01`.
        recordings: number of recordings (or sessions) that have one of them.
        is_certain: every recording starts at the first label, and has the next ones.
        scope_of: name of the recording, session or folder in which a label is one person.
    """

    labels: tuple[str, ...]
    recordings: int
    is_certain: bool
    scope_of: Callable[[Utterance], str]

    def listed(self) -> str:
        """`SPEAKER_00 … SPEAKER_03`."""
        return " … ".join(dict.fromkeys((self.labels[0], self.labels[-1])))


def local_labels(utterances: Sequence[Utterance], *, all_labels: bool = False) -> list[LocalLabels]:
    """The labels that start anew in each recording, by family of labels.

    Args:
        all_labels: also those whose spread says that they are the same people everywhere.
    """
    families: dict[str, set[str]] = defaultdict(set)
    for name in {item.speaker for item in utterances if item.speaker}:
        if match := _match(name):
            is_letter = match["index"].isalpha()
            families[f"{match['family']}{'A' if is_letter else '0'}"].add(name)
        elif name.lower() in _ROLES:
            families["role"].add(name)
    results = []
    for labels in families.values():
        own = [item for item in utterances if item.speaker in labels]
        result = _reading(own, labels, all_labels=all_labels)
        if result is not None:
            results.append(result)
    return results


def _reading(
    utterances: Sequence[Utterance], labels: set[str], *, all_labels: bool
) -> LocalLabels | None:
    is_tool = all(map(_TOOLS.match, labels))
    ordered = tuple(sorted(labels, key=lambda label: (len(label), label)))
    is_role = not any(map(_match, labels))
    may_be_certain = all(map(_LABEL.fullmatch, labels))
    scopes = [_recording_scope(utterances)]
    if is_tool:
        # Clips that were cut from the recordings: by their folder, or by their numbered names.
        scopes += [
            lambda item: item.audio.parent.name,
            lambda item: _CLIP_NUMBER.sub("", item.audio.stem),
        ]
    reading = None
    for scope_of in scopes:
        members: dict[str, set[int]] = defaultdict(set)
        for item in utterances:
            label = item.speaker or ""
            members[scope_of(item)].add(ordered.index(label) if is_role else _index(label))
        # With no label in two recordings, nothing has to be decided.
        if len(members) < 2 or sum(map(len, members.values())) == len(labels):
            continue
        first = min(map(min, members.values()))
        starting = [have == set(range(first, first + len(have))) for have in members.values()]
        several = max(map(len, members.values())) > 1
        result = LocalLabels(ordered, len(members), first <= 1 and all(starting), scope_of)
        is_form = may_be_certain and _share_recordings(utterances)
        if result.is_certain and (is_tool or is_form):
            return result
        is_likely = several and first <= 1 and 2 * sum(starting) > len(starting)
        may_be_tool = is_tool and first <= 1 and len(labels) <= _MOST_VOICES
        if reading is None and (all_labels or is_likely or may_be_tool):
            reading = replace(result, is_certain=False)
    return reading


def _share_recordings(utterances: Sequence[Utterance]) -> bool:
    """Whether two labels are in one file, so that nobody has cut it by people."""
    first: dict[Path, str | None] = {}
    return any(first.setdefault(item.audio, item.speaker) != item.speaker for item in utterances)


def _match(name: str) -> re.Match[str] | None:
    """The family of a numbered label and its number, or None."""
    return _LABEL.fullmatch(name) or _NUMBERED.fullmatch(name)


def _index(label: str) -> int:
    """The number of a label; `A` is 0."""
    match = _match(label)
    index = match["index"] if match else "0"
    return int(index) if index.isdecimal() else ord(index) - ord("A")


def _recording_scope(utterances: Sequence[Utterance]) -> Callable[[Utterance], str]:
    """The session, else the recording's name, with its folder where two have the same name."""
    paths: dict[str, set[Path]] = defaultdict(set)
    for item in utterances:
        paths[item.audio.stem].add(item.audio)

    def scope_of(item: Utterance) -> str:
        if item.session:
            return item.session
        stem, folder = item.audio.stem, item.audio.parent
        if len(paths[stem]) == 1:
            return stem
        is_unique = len({path.parent.name for path in paths[stem]}) == len(paths[stem])
        return f"{folder.name if is_unique else folder}/{stem}"

    return scope_of


def joined_to_recordings(
    utterances: Sequence[Utterance], labels: Sequence[LocalLabels]
) -> tuple[Utterance, ...]:
    """The utterances with their local labels joined to the recording: `monday/SPEAKER_00`."""
    scopes = {label: item.scope_of for item in labels for label in item.labels}
    if not scopes:
        return tuple(utterances)
    return tuple(
        replace(item, speaker=f"{scopes[item.speaker](item)}/{item.speaker}")
        if item.speaker in scopes
        else item
        for item in utterances
    )


def count_speakers(utterances: Sequence[Utterance]) -> int:
    """Number of named speakers; labels that start anew in each recording count in each."""
    certain = [labels for labels in local_labels(utterances) if labels.is_certain]
    named = joined_to_recordings(utterances, certain)
    return len({item.speaker for item in named if item.speaker})
