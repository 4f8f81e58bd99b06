"""Recordings without transcripts, as clips that a model can label, apart from all scored clips."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from moonshine_tune.audio.io import AUDIO_ENDINGS, load_utterance
from moonshine_tune.core.errors import AudioError, RequestError
from moonshine_tune.core.files import sha256_of
from moonshine_tune.core.progress import Progress
from moonshine_tune.corpus.manifest import HYPOTHESIS, PSEUDO_LABEL, Utterance, read_manifest
from moonshine_tune.data.checks.checked_manifest import sample_digest
from moonshine_tune.importers.cut import cut_recordings, recording_files, recording_of
from moonshine_tune.inference.dataset import with_lengths

# Short enough that one doubtful word does not cost half a minute of good ones.
_MAX_CLIP_S = 15.0
# Splits of a manifest that are scored, whatever they are called.
_SCORED_SPLITS = ("dev", "test", "val", "valid", "validation", "eval")
# Lengths are rounded in manifests: copies are looked for among clips that differ by less.
_LENGTH_STEP_S = 0.05

HeldClips = Mapping[str, Sequence[Utterance]]
"""Clips of the manifests of a run, by the name of the manifest."""


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
    shared = _shared_with(cut.clips, held)
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


# --- clips that are in two places


def _shared_with(clips: Sequence[Utterance], held: HeldClips) -> dict[int, str]:
    """`id()` of each clip that a manifest of the run has as well → the name of that manifest.

    By overlapping spans of one file, or of copies of it, and by equal sound under another name or
    in another format.
    """
    spans = _Spans(clips, held)
    lengths = {_length_step(item) for item in clips}
    digests: dict[str, str] = {}
    for name, members in held.items():
        for item in members:
            if _near_steps(item) & lengths and (digest := _digest(item)):
                digests.setdefault(digest, name)
    wanted = {step for members in held.values() for item in members for step in _near_steps(item)}
    shared: dict[int, str] = {}
    for item in clips:
        owner = spans.overlapping(item)
        if owner is None and _length_step(item) in wanted:
            owner = digests.get(_digest(item))
        if owner is not None:
            shared[id(item)] = owner
    return shared


class _Spans:
    """Spans of the recordings of a run, by the content of the file."""

    def __init__(self, clips: Sequence[Utterance], held: HeldClips) -> None:
        # Only files of equal size can be copies.
        self._sizes = {_size(item.audio) for item in clips}
        self._keys: dict[Path, str] = {}
        self._spans: dict[str, list[tuple[float, float, str]]] = defaultdict(list)
        for name, members in held.items():
            for item in members:
                if _size(item.audio) in self._sizes:
                    self._spans[self._key(item.audio)].append((*_span(item), name))
        self._held_sizes = {_size(path) for path in self._keys}

    def overlapping(self, item: Utterance) -> str | None:
        """The manifest that has a part of this clip."""
        if _size(item.audio) not in self._held_sizes:
            return None
        start, end = _span(item)
        for first, last, name in self._spans.get(self._key(item.audio), ()):
            if start < last and first < end:
                return name
        return None

    def _key(self, path: Path) -> str:
        if path not in self._keys:
            self._keys[path] = sha256_of(path)
        return self._keys[path]


def _span(item: Utterance) -> tuple[float, float]:
    return item.start or 0.0, float("inf") if item.end is None else item.end


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _length_step(item: Utterance) -> int:
    return int((item.known_seconds or 0.0) / _LENGTH_STEP_S)


def _near_steps(item: Utterance) -> set[int]:
    step = _length_step(item)
    return {step - 1, step, step + 1}


def _digest(item: Utterance) -> str:
    """Hash of the sound; empty where it cannot be read."""
    try:
        return sample_digest(load_utterance(item))
    except AudioError:
        return ""
