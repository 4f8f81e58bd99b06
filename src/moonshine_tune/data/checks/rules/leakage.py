"""Leakage: speakers, recordings and texts in more than one split."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from moonshine_tune.audio.similarity import copies_among
from moonshine_tune.corpus.grouping import Node, group_by, plain_text
from moonshine_tune.corpus.splits import Leak
from moonshine_tune.data.checks.base import Drop, splits_check
from moonshine_tune.data.checks.checked_manifest import (
    CheckedClip,
    CheckedSplits,
    Occurrence,
    by_digest,
)
from moonshine_tune.data.checks.text import shortened


@splits_check("error", rank=120, fix=Drop())
def leaked_speakers(splits: CheckedSplits) -> Iterable[Occurrence]:
    """[utterance is|utterances are] of a voice in more than one split: the score overstates the
    gain.

    Split again by speaker: moonshine-tune data split MANIFEST --out DIR.
    """
    return [] if splits.is_for_known_voices else _listed(splits.leaks.speakers).items()


@splits_check("error", rank=130, fix=Drop())
def leaked_recordings(splits: CheckedSplits) -> Iterable[Occurrence]:
    """[utterance has|utterances have] a recording, or audio, that is also in another split.

    Remove [it|them] from one split, or split again: moonshine-tune data split MANIFEST --out DIR.
    """
    recordings = _listed(_leaked_recordings(splits))
    # A copy in another file is the same leak; what is listed already keeps its detail.
    copies = _listed(_leaked_lossy_copies(splits)) | _listed(_leaked_copies(splits))
    return {**recordings, **copies, **recordings}.items()


@splits_check("note", rank=15)
def known_voices(splits: CheckedSplits) -> Iterable[Occurrence]:
    """[utterance is|utterances are] of a voice that each split has on purpose: a score is for these
    voices, and says nothing about others.

    Nothing has to be done, if the model will serve these voices.
    """
    return _listed(splits.leaks.speakers).items() if splits.is_for_known_voices else []


@splits_check("warning", rank=10, fix=Drop(on_request=True))
def leaked_texts(splits: CheckedSplits) -> Iterable[Occurrence]:
    """[utterance has|utterances have] a text that is also in another split: right for commands, too
    easy for sentences.

    If sentences should be new: moonshine-tune data split MANIFEST --out DIR --disjoint-texts.
    """
    return _listed(splits.leaks.texts).items()


@splits_check("note", rank=20)
def unknown_speakers(splits: CheckedSplits) -> Iterator[Occurrence]:
    """[utterance has|utterances have] no speaker and no session: a voice in two splits cannot be
    detected.

    Add a speaker to every line where you can.
    """
    for name, utterances in splits.utterances.items():
        for utterance in utterances:
            if not utterance.speaker and not utterance.session:
                yield f"{name}:{utterance.id}", "no speaker"


def _leaked_recordings(splits: CheckedSplits) -> Sequence[Leak]:
    """Recordings in several splits; of known voices, only speech that is in several."""
    if not splits.is_for_known_voices:
        return splits.leaks.recordings
    named = [(name, item) for name, members in splits.utterances.items() for item in members]
    clips = group_by([item for _, item in named])
    ids: dict[Node, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    paths = {}
    for (name, item), clip in zip(named, clips, strict=True):
        ids[clip][name].append(item.id)
        paths[clip] = str(item.audio)
    return [
        Leak(paths[clip], {name: tuple(members) for name, members in by_split.items()})
        for clip, by_split in ids.items()
        if len(by_split) > 1
    ]


def _leaked_copies(splits: CheckedSplits) -> list[Leak]:
    """The same audio in several splits, in files of any name."""
    # By identity: two manifests may use the same id.
    split_of = {id(item): name for name, members in splits.utterances.items() for item in members}
    leaks = []
    for group in by_digest(splits.clips).values():
        ids: dict[str, list[str]] = defaultdict(list)
        for clip in group:
            if id(clip.utterance) in split_of:
                ids[split_of[id(clip.utterance)]].append(clip.utterance.id)
        if len(ids) > 1:
            by_split = {name: tuple(members) for name, members in ids.items()}
            leaks.append(Leak(f"the audio of {group[0].utterance.audio.name}", by_split))
    return leaks


def _leaked_lossy_copies(splits: CheckedSplits) -> list[Leak]:
    """The same recording in several splits, compressed, resampled, louder or trimmed."""
    split_of = {id(item): name for name, members in splits.utterances.items() for item in members}
    by_text: dict[str, list[CheckedClip]] = defaultdict(list)
    for clip in splits.clips:
        if clip.sketch is not None and id(clip.utterance) in split_of:
            by_text[plain_text(clip.utterance)].append(clip)
    leaks = []
    for clips in by_text.values():
        owners = [split_of[id(clip.utterance)] for clip in clips]
        sketches = [clip.sketch for clip in clips if clip.sketch is not None]
        for first, second in copies_among(sketches, owners):
            ids: dict[str, tuple[str, ...]] = {
                owners[i]: (clips[i].utterance.id,) for i in (first, second)
            }
            name = clips[first].utterance.audio.name
            leaks.append(Leak(f"the audio of {name}, in another form,", ids))
    return leaks


def _listed(leaks: Sequence[Leak]) -> dict[str, str]:
    """`split:id` → what is shared, and by which splits."""
    return {
        f"{name}:{identifier}": f"{shortened(leak.value)} in {', '.join(leak.ids)}"
        for leak in leaks
        for name, ids in leak.ids.items()
        for identifier in ids
    }
