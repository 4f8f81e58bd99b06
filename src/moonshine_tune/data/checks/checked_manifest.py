"""A manifest with its recordings read once: what all checks look at."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from moonshine_tune.audio.io import AudioInfo, DecoderMissingError, audio_info, load_utterance
from moonshine_tune.audio.measure import (
    ClipMeasures,
    RecordingQuality,
    measure_clip,
    measure_quality,
)
from moonshine_tune.audio.remarks import Remark
from moonshine_tune.audio.samples import SAMPLE_RATE_HZ, Samples
from moonshine_tune.audio.similarity import Sketch, sketch_of
from moonshine_tune.core.errors import AudioError, RequestError
from moonshine_tune.core.progress import Progress, Stage
from moonshine_tune.corpus.grouping import plain_text
from moonshine_tune.corpus.manifest import ManifestScan, Utterance, scan_manifest
from moonshine_tune.corpus.normalizers import Normalizer
from moonshine_tune.corpus.speaker_labels import LocalLabels, count_speakers, local_labels
from moonshine_tune.corpus.splits import Leaks, find_leaks
from moonshine_tune.corpus.transcript_form import FormMatch, find_form, names_before
from moonshine_tune.corpus.voices import ONE_VOICE, voice_scope
from moonshine_tune.data.checks.text import spoken_length
from moonshine_tune.runs.split_record import are_for_known_voices

# The first layers of the encoder take 127 samples at once. Shorter clips give hardly a frame, and
# no word is this short.
SHORTEST_S = 0.1
# A manifest's duration may be rounded to tenths of a second, or measured before trimming.
DURATION_SLACK_S = 0.15

# A shorter sound is like another one of its kind.
_SHORTEST_SKETCH_S = 0.25

# An id (or `line N`, or `split:id`), and what was found there.
Occurrence = tuple[str, str]


@dataclass(frozen=True)
class CheckedClip:
    """A recording that was decoded to its end.

    Attributes:
        sample_rate_hz: of the file, before resampling.
        digest: hash of its samples as 16-bit numbers at 16 kHz.
        quality: only in an audit.
        sketch: only of a clip with speech whose text another split has too.
        remarks: what is decided when its recording is read.
    """

    utterance: Utterance
    sample_rate_hz: int
    measures: ClipMeasures
    digest: str
    quality: RecordingQuality | None = None
    remarks: tuple[Remark, ...] = ()
    sketch: Sketch | None = None


@dataclass(frozen=True)
class ModelTranscript:
    """One utterance as the base model transcribes it.

    Attributes:
        confidence: geometric mean of the probabilities of its tokens, 0 to 1.
        reference_loss: loss of the reference, nats per token.
        distance: character errors between both, normalized, as a share of the reference.
    """

    id: str
    reference: str
    text: str
    confidence: float
    reference_loss: float
    distance: float


@dataclass(frozen=True, eq=False)
class ModelEvidence:
    """What a base model adds to an audit.

    Attributes:
        encode: token ids of a text.
        pieces: every token of the tokenizer, by id.
    """

    encode: Callable[[str], Sequence[int]]
    pieces: tuple[str, ...]
    normalizer: Normalizer
    transcripts: tuple[ModelTranscript, ...]


@dataclass(frozen=True, eq=False)
class CheckedManifest:
    """One manifest: its lines, its decoded recordings, and in an audit what the model adds.

    Attributes:
        name: how findings name it.
        unusable: lines and recordings that could not be read, by kind of finding.
    """

    name: str
    scan: ManifestScan
    clips: tuple[CheckedClip, ...]
    unusable: dict[str, list[Occurrence]]
    model: ModelEvidence | None = None

    @property
    def utterances(self) -> tuple[Utterance, ...]:
        """All valid lines."""
        return self.scan.utterances

    @property
    def seconds(self) -> float:
        """Total length of the decoded recordings."""
        return round(sum(clip.measures.seconds for clip in self.clips), 2)

    @property
    def num_speakers(self) -> int:
        """Number of named speakers; labels that start anew in each recording count in each."""
        return count_speakers(self.utterances)

    @cached_property
    def form(self) -> dict[str, list[tuple[Utterance, FormMatch]]]:
        """What in the texts is not speech, or may not be: kind → utterance and first match."""
        first: dict[str, list[tuple[Utterance, FormMatch]]] = defaultdict(list)
        names = names_before(
            [item.text for item in self.utterances], {item.speaker for item in self.utterances}
        )
        for utterance in self.utterances:
            matches = find_form(utterance.text or "", utterance.speaker, names)
            for match in {match.kind: match for match in reversed(matches)}.values():
                first[match.kind].append((utterance, match))
        return first

    @cached_property
    def spoken(self) -> dict[str, tuple[int, float]]:
        """Of each clip with a text and speech, by id: the characters, as of `spoken_length`, and
        the seconds between the silences at both ends.
        """
        counts: dict[str, tuple[int, float]] = {}
        for clip in self.clips:
            num_characters = spoken_length(plain_text(clip.utterance))
            seconds = clip.measures.active_s
            if num_characters and seconds >= SHORTEST_S and not clip.measures.is_silent:
                counts[clip.utterance.id] = (num_characters, seconds)
        return counts


@dataclass(frozen=True, eq=False)
class CheckedSplits:
    """The splits of one corpus: several manifests, or one with several values of `split`.

    Attributes:
        utterances: by split.
        is_for_known_voices: whether they share voices on purpose: a record of `data split` beside
            them says so, or there is one voice.
    """

    utterances: dict[str, tuple[Utterance, ...]]
    clips: tuple[CheckedClip, ...]
    is_for_known_voices: bool = False

    @cached_property
    def leaks(self) -> Leaks:
        """Speakers, texts and recordings in more than one split."""
        return find_leaks(self.utterances)

    @cached_property
    def local_labels(self) -> list[LocalLabels]:
        """Labels of speakers that start anew in each recording, or may do so."""
        return local_labels([item for members in self.utterances.values() for item in members])

    @staticmethod
    def of(manifests: Sequence[CheckedManifest]) -> "CheckedSplits":
        """A manifest with several values of `split` is several splits itself."""
        utterances: dict[str, tuple[Utterance, ...]] = {}
        for manifest in manifests:
            values = list(dict.fromkeys(item.split for item in manifest.utterances if item.split))
            if len(values) < 2:
                utterances[manifest.name] = manifest.utterances
                continue
            for value in values:
                name = value if len(manifests) == 1 else f"{manifest.name}/{value}"
                utterances[name] = tuple(
                    item for item in manifest.utterances if item.split == value
                )
        clips = tuple(clip for each in manifests for clip in each.clips)
        first, *others = utterances.values()
        scopes = [voice_scope(first, members) for members in others]
        is_one = bool(scopes) and all(scope and scope.kind == ONE_VOICE for scope in scopes)
        scans = [each.scan for each in manifests]
        return CheckedSplits(utterances, clips, is_one or are_for_known_voices(scans))


def read_manifests(
    paths: Sequence[Path], progress: Progress, *, quality_of: Path | None = None
) -> list[CheckedManifest]:
    """Decode every recording of some manifests to its end.

    Args:
        quality_of: the manifest to estimate recording quality for.

    Raises:
        RequestError: a manifest is missing, is not text, has no lines, or is named twice.
    """
    if len({path.resolve() for path in paths}) < len(paths):
        raise RequestError("a manifest is named twice", hint="name each manifest once")
    scans = [scan_manifest(path, require_text=False) for path in paths]
    for scan in scans:
        if not scan.num_lines:
            raise RequestError(
                "the manifest has no utterances",
                where=scan.path,
                hint="make one with: moonshine-tune data import FOLDER --out train.jsonl",
            )
    stems = [path.stem for path in paths]
    names = stems if len(set(stems)) == len(stems) else [str(path) for path in paths]
    shared = _texts_of_several(scans)
    with progress.stage("checking", sum(len(scan.utterances) for scan in scans)) as stage:
        return [
            _read_manifest(name, scan, stage, shared, with_quality=scan.path == quality_of)
            for name, scan in zip(names, scans, strict=True)
        ]


def _texts_of_several(scans: Sequence[ManifestScan]) -> frozenset[str]:
    """The texts that several splits have: only their clips may be copies of each other."""
    owners_of_all = {
        (number, item.split) for number, scan in enumerate(scans) for item in scan.utterances
    }
    if len(owners_of_all) < 2:
        # No text of a large manifest is looked at for nothing.
        return frozenset()
    splits: dict[str, set[tuple[int, str | None]]] = defaultdict(set)
    for number, scan in enumerate(scans):
        for utterance in scan.utterances:
            splits[plain_text(utterance)].add((number, utterance.split))
    return frozenset(text for text, owners in splits.items() if text and len(owners) > 1)


def _read_manifest(
    name: str, scan: ManifestScan, stage: Stage, shared: Collection[str], *, with_quality: bool
) -> CheckedManifest:
    """The manifest with its clips.

    Args:
        shared: texts of which another split may have a copy of the clip.
    """
    unusable: dict[str, list[Occurrence]] = defaultdict(list)
    for problem in scan.problems:
        line, message = f"line {problem.line}", problem.message
        named = (line, message) if problem.id is None else (problem.id, f"{line}: {message}")
        unusable[problem.kind].append(named)
    clips: list[CheckedClip] = []
    infos: dict[Path, AudioInfo] = {}
    for utterance in scan.utterances:
        clip = read_clip(
            utterance,
            infos,
            with_quality=with_quality,
            with_sketch=bool(shared) and plain_text(utterance) in shared,
        )
        if isinstance(clip, CheckedClip):
            clips.append(clip)
        else:
            kind, detail = clip
            unusable[kind].append((utterance.id, detail))
        stage.advance()
    return CheckedManifest(name, scan, tuple(clips), unusable)


def read_clip(
    utterance: Utterance,
    infos: dict[Path, AudioInfo],
    *,
    with_quality: bool,
    with_sketch: bool = False,
) -> CheckedClip | tuple[str, str]:
    """One recording decoded to its end, or the kind and detail of the problem.

    Args:
        infos: what is known of files already; filled.
    """
    path = utterance.audio
    try:
        if path.stat().st_size == 0:
            return "empty_audio", "0 bytes"
        if path not in infos:
            infos[path] = audio_info(path, examine=True)
        info = infos[path]
        if info.seconds == 0:
            return "empty_audio", "no samples"
        start, end = utterance.start or 0.0, utterance.end or 0.0
        if start >= info.seconds or end > info.seconds + DURATION_SLACK_S:
            last = f"{end:g} s" if end else "the end"
            detail = f"{start:g} s to {last} of a recording of {info.seconds:.2f} s"
            return "span_outside", detail
        samples = load_utterance(utterance)
    except DecoderMissingError as error:
        return "unreadable", f"{error.message}; {error.hint}"
    except AudioError as error:
        return "unreadable", error.message
    except OSError as error:
        return "unreadable", error.strerror or str(error)
    measures = measure_clip(samples, SAMPLE_RATE_HZ)
    has_speech = not measures.is_silent and measures.active_s >= _SHORTEST_SKETCH_S
    return CheckedClip(
        utterance,
        info.sample_rate_hz,
        measures,
        sample_digest(samples),
        measure_quality(samples) if with_quality else None,
        info.remarks,
        sketch_of(samples) if with_sketch and has_speech else None,
    )


def sample_digest(samples: Samples) -> str:
    """Hash of a clip's samples as 16-bit numbers: equal for copies in any lossless format."""
    rounded = np.clip(np.round(samples * 32768.0), -32768, 32767).astype("<i2")
    return hashlib.blake2b(rounded.tobytes(), digest_size=16).hexdigest()


def by_digest(clips: Sequence[CheckedClip]) -> dict[str, list[CheckedClip]]:
    """Clips by content. Silent clips are all alike and left out."""
    same: dict[str, list[CheckedClip]] = defaultdict(list)
    for clip in clips:
        if not clip.measures.is_silent:
            same[clip.digest].append(clip)
    return same
