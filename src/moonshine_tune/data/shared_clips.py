"""Clips that are in two manifests: one file, copies of it, and equal sound in another format."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from moonshine_tune.audio.fingerprint import content_hash
from moonshine_tune.audio.io import load_utterance
from moonshine_tune.core.errors import AudioError, RequestError
from moonshine_tune.corpus.grouping import plain_text
from moonshine_tune.corpus.manifest import Utterance
from moonshine_tune.data.checks.checked_manifest import sample_digest

# Lengths are rounded in manifests: copies are looked for among clips that differ by less.
_LENGTH_STEP_S = 0.05

HeldClips = Mapping[str, Sequence[Utterance]]
"""Clips of the manifests of a run, by the name of the manifest."""


def shared_clips(
    clips: Sequence[Utterance],
    held: HeldClips,
    *,
    least_share: float = 0.0,
    with_same_text: bool = False,
) -> dict[int, str]:
    """`id()` of each clip that a manifest has as well → the name of that manifest.

    By overlapping spans of one file, or of copies of it, and by equal samples under another name or
    in another format.

    Args:
        least_share: of the shorter of two clips that the other must have; 0 for any part.
        with_same_text: compare samples only of clips with the same text, so that few are decoded.
    """
    spans = _Spans(clips, held, least_share)
    sounds = _Sounds(clips, held, with_same_text)
    shared: dict[int, str] = {}
    for item in clips:
        owner = spans.overlapping(item) or sounds.equal(item)
        if owner is not None:
            shared[id(item)] = owner
    return shared


def repeated_clips(known: Sequence[Utterance], clips: Sequence[Utterance]) -> tuple[Utterance, ...]:
    """The clips that are known ones, or share half of one; a cue may overlap with its neighbors."""
    shared = shared_clips(clips, {"known": known}, least_share=0.5, with_same_text=True)
    return tuple(item for item in clips if id(item) in shared)


class _Spans:
    """Spans of the recordings of manifests, by the content of the file."""

    def __init__(self, clips: Sequence[Utterance], held: HeldClips, least_share: float) -> None:
        self._least_share = least_share
        # Only files of equal size can be copies; the others are known by their path.
        everyone = [item for members in held.values() for item in members]
        sizes = [{_size(path) for path in {u.audio for u in items}} for items in (clips, everyone)]
        self._sizes = sizes[0] & sizes[1] - {-1}
        self._keys: dict[Path, str] = {}
        self._spans: dict[str, list[tuple[float, float, str]]] = defaultdict(list)
        for name, members in held.items():
            for item in members:
                self._spans[self._key(item.audio)].append((*_span(item), name))

    def overlapping(self, item: Utterance) -> str | None:
        """The manifest that has enough of this clip."""
        start, end = _span(item)
        for first, last, name in self._spans.get(self._key(item.audio), ()):
            shared, shorter = min(last, end) - max(first, start), min(end - start, last - first)
            is_all = math.isinf(shared)
            if shared > 0 and (is_all or shared >= self._least_share * shorter):
                return name
        return None

    def _key(self, path: Path) -> str:
        if path not in self._keys:
            self._keys[path] = str(path)
            if _size(path) in self._sizes:
                # What cannot be read is reported by whoever reads it as a recording.
                with suppress(OSError, RequestError):
                    self._keys[path] = content_hash(path)
        return self._keys[path]


class _Sounds:
    """Samples of clips of manifests, of those whose length and text a wanted clip may have."""

    def __init__(self, clips: Sequence[Utterance], held: HeldClips, with_same_text: bool) -> None:
        self._with_same_text = with_same_text
        wanted = {(_length_step(item), self._text(item)) for item in clips}
        self._digests: dict[str, str] = {}
        self._candidates: set[tuple[int, str | None]] = set()
        for name, members in held.items():
            for item in members:
                near = {(step, self._text(item)) for step in _near_steps(item)}
                self._candidates |= near
                if near & wanted and self._text(item) != "" and (digest := _digest(item)):
                    self._digests.setdefault(digest, name)

    def equal(self, item: Utterance) -> str | None:
        """The manifest that has a clip of the same samples."""
        if (_length_step(item), self._text(item)) not in self._candidates or not self._digests:
            return None
        return self._digests.get(_digest(item))

    def _text(self, item: Utterance) -> str | None:
        """The text that must be the same; None where none must, and empty where there is none."""
        return plain_text(item) if self._with_same_text else None


def _span(item: Utterance) -> tuple[float, float]:
    return item.start or 0.0, math.inf if item.end is None else item.end


def _size(path: Path) -> int:
    """Bytes of a file; -1 where there is none, and for what is no file."""
    try:
        return path.stat().st_size if path.is_file() else -1
    except OSError:
        return -1


def _length_step(item: Utterance) -> int:
    return int((item.known_seconds or 0.0) / _LENGTH_STEP_S)


def _near_steps(item: Utterance) -> set[int]:
    step = _length_step(item)
    return {step - 1, step, step + 1}


def _digest(item: Utterance) -> str:
    """Hash of the samples; empty where they cannot be read."""
    try:
        return sample_digest(load_utterance(item))
    except AudioError:
        return ""
