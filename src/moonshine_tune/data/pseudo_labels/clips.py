"""Recordings without transcripts, as clips that a model can label, apart from all scored clips."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from moonshine_tune.audio.io import AUDIO_ENDINGS
from moonshine_tune.core.errors import AudioError, RequestError
from moonshine_tune.core.progress import Progress
from moonshine_tune.corpus.manifest import HYPOTHESIS, PSEUDO_LABEL, Utterance, read_manifest
from moonshine_tune.data.shared_clips import HeldClips, shared_clips
from moonshine_tune.importers.cut import cut_recordings, recording_files, recording_of
from moonshine_tune.inference.dataset import with_lengths

# Short enough that one doubtful word does not cost half a minute of good ones.
_MAX_CLIP_S = 15.0
# Splits of a manifest that are scored, whatever they are called.
_SCORED_SPLITS = ("dev", "test", "val", "valid", "validation", "eval")


@dataclass(frozen=True)
class UnlabelledClips:
    """Clips without texts, and what was decided about their recordings, a sentence each."""

    clips: tuple[Utterance, ...]
    remarks: tuple[str, ...]


def unlabelled_clips(
    path: Path, held: HeldClips, *, max_clip_s: float, progress: Progress
) -> UnlabelledClips:
    """The clips of a manifest, a folder or a single recording; long ones are cut at their pauses.

    What the manifests of the run have as well is left out: learned with the text of a model, it
    would spoil a transcript or a score.

    Args:
        held: clips of train, dev and canary.

    Raises:
        RequestError: nothing is there, or nothing that is left can be used.
        ProblemsError: invalid lines in the manifest.
    """
    recordings, remarks = _recordings(path)
    known = [item for item in recordings if item.known_seconds is not None]
    if len(known) < len(recordings):
        remarks.append(f"{len(recordings) - len(known)} recordings cannot be read: left out")
    cut = cut_recordings(known, min(_MAX_CLIP_S, max_clip_s), progress)
    if cut.remark:
        remarks.append(cut.remark)
    failed = Counter(reason for _, reason, _ in cut.failed)
    remarks += [f"{count} recordings are {reason}: left out" for reason, count in failed.items()]
    shared = shared_clips(cut.clips, held)
    remarks += [
        f"{count} clips are also in {name}: left out"
        for name, count in Counter(shared.values()).items()
    ]
    taken = {item.id for members in held.values() for item in members}
    clips = tuple(_without_text(item, taken) for item in cut.clips if id(item) not in shared)
    if not clips:
        raise RequestError(
            "no recording is left to label" + (f": {'; '.join(remarks)}" if remarks else ""),
            where=path,
            hint="name other recordings with --unlabelled: a folder, or a manifest",
        )
    return UnlabelledClips(clips, tuple(f"unlabelled: {remark}" for remark in remarks))


def _recordings(path: Path) -> tuple[list[Utterance], list[str]]:
    """Recordings with their lengths, as far as they can be read, and remarks."""
    if path.is_dir() or path.suffix.lower() in AUDIO_ENDINGS:
        return _of_files(path), []
    if not path.exists():
        raise RequestError(
            "no such folder or manifest",
            where=path,
            hint="name a folder of recordings, or a manifest: --unlabelled FOLDER",
        )
    utterances: Sequence[Utterance] = read_manifest(path, require_text=False).utterances
    count = len(utterances)
    utterances = [item for item in utterances if (item.split or "").lower() not in _SCORED_SPLITS]
    remarks = []
    if len(utterances) < count:
        scored = f"{count - len(utterances)} of {count} lines"
        remarks.append(f"{scored} are of a split that is scored: left out")
    with_text = sum(bool(item.text) for item in utterances)
    if with_text:
        remarks.append(
            f"{with_text} of {len(utterances)} lines have a text, which is not read (to learn "
            "these texts, name the manifest with --train)"
        )
    return list(with_lengths(utterances)), remarks


def _of_files(path: Path) -> list[Utterance]:
    """The recordings of a folder, or a single one; unreadable ones without a length."""
    folder = path if path.is_dir() else path.parent
    paths = recording_files(path, "--unlabelled FILE.jsonl") if path.is_dir() else [path]
    recordings = []
    for file in paths:
        try:
            recordings.append(recording_of(file, folder))
        except AudioError:
            recordings.append(Utterance(file.name, file))
    # `a.wav` and `a.mp3` have one name.
    names = Counter(item.id for item in recordings)
    return [
        replace(item, id=item.audio.name) if names[item.id] > 1 else item for item in recordings
    ]


def _without_text(item: Utterance, taken: set[str]) -> Utterance:
    """The clip without what may be wrong for a new text, under an id that no clip of a run has."""
    extra = {
        name: value for name, value in item.extra.items() if name not in (HYPOTHESIS, PSEUDO_LABEL)
    }
    identifier = f"{item.id}~unlabelled" if item.id in taken else item.id
    return replace(item, id=identifier, text=None, split=None, extra=extra, line=0)
