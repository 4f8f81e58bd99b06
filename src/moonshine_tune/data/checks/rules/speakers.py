"""Names of speakers: who is probably one person, and labels that are not names."""

from collections.abc import Iterator

from moonshine_tune.corpus.speaker_labels import LocalLabels
from moonshine_tune.corpus.speaker_names import similar_names
from moonshine_tune.data.checks.base import manifest_check, splits_check
from moonshine_tune.data.checks.checked_manifest import (
    CheckedManifest,
    CheckedSplits,
    Occurrence,
)


@splits_check("warning", rank=30, fewest_splits=1)
def unclear_speakers(splits: CheckedSplits) -> Iterator[Occurrence]:
    """[utterance has a speaker|utterances have speakers] that may be one person everywhere, or a
    label that starts anew in each recording.

    Say which: moonshine-tune data split MANIFEST --out DIR, with --global-speakers (one person) or
    --local-speakers (anew).
    """
    return _labeled(splits, [item for item in splits.local_labels if not item.is_certain])


@splits_check("note", rank=15, fewest_splits=1)
def local_speakers(splits: CheckedSplits) -> Iterator[Occurrence]:
    """[utterance has a speaker's label|utterances have labels of speakers] that start anew in each
    recording: read as another person in each.

    Do nothing, or write names where you know them: a person in two recordings has two labels.
    """
    return _labeled(splits, [item for item in splits.local_labels if item.is_certain])


@splits_check("warning", rank=31, fewest_splits=1)
def similar_speakers(splits: CheckedSplits) -> Iterator[Occurrence]:
    """[utterance has|utterances have] a speaker whose name differs from another in case, accents or
    the form of a number only: probably one person.

    Write one name in one way.
    """
    names = {item.speaker for members in splits.utterances.values() for item in members}
    groups = {
        name: " = ".join(group)
        for group in similar_names(name for name in names if name)
        for name in group
    }
    for split, utterances in splits.utterances.items():
        for item in utterances if groups else ():
            if item.speaker in groups:
                yield f"{split}:{item.id}", groups[item.speaker]


@manifest_check("note", rank=25)
def nameless_speaker(manifest: CheckedManifest) -> Iterator[Occurrence]:
    """[speaker names|speakers name] nobody, and [is|are] read as no speaker.

    Do nothing, or write names where you know them.
    """
    for identifier, name in manifest.scan.nameless.items():
        yield identifier, repr(name)


def _labeled(splits: CheckedSplits, labels: list[LocalLabels]) -> Iterator[Occurrence]:
    scopes = {label: item for item in labels for label in item.labels}
    for split, utterances in splits.utterances.items():
        for item in utterances if scopes else ():
            if item.speaker in scopes:
                scope = scopes[item.speaker].scope_of(item)
                yield f"{split}:{item.id}", f"{item.speaker} of {scope}"
