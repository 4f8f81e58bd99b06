"""The sound of an utterance, small enough to embed in a page, and the manifests that name it."""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import soundfile as sf

from moonshine_tune.audio.fingerprint import recording_fingerprint
from moonshine_tune.audio.io import load_audio
from moonshine_tune.audio.samples import SAMPLE_RATE_HZ, Samples
from moonshine_tune.core.errors import TuneError
from moonshine_tune.core.files import sha256_of
from moonshine_tune.core.names import home_expanded
from moonshine_tune.corpus.manifest import ManifestScan, Utterance, scan_manifest

MAX_CLIP_S = 30.0
_LARGEST_MANIFEST = 64 << 20
_MAX_NEARBY = 50


@dataclass(frozen=True)
class EmbeddedClip:
    """A player's content, or the reason why there is none.

    Attributes:
        source: a `data:` URI; empty where there is none.
        reason: empty where there is a source.
    """

    source: str
    seconds: float
    reason: str = ""


class EmbeddedClips:
    """Embeds clips until its budget of characters is spent; `used` are those spent so far.

    Args:
        is_wanted: whether anybody asked for sound; a page with voices is shared with more care.
    """

    def __init__(self, budget: int, *, is_wanted: bool = True) -> None:
        self.is_wanted = is_wanted
        self._budget = budget
        self.used = 0
        self.embedded = 0

    def embed(self, utterance: Utterance | None, recording: str | None = None) -> EmbeddedClip:
        """The clip of one utterance: mono, 16 kHz, as the model gets it, MP3 where possible.

        Args:
            recording: fingerprint of the sound that was scored; None where that is not known.
        """
        if not self.is_wanted:
            return EmbeddedClip("", 0.0, "no sound: add --audio to the command of this report")
        if utterance is None:
            return EmbeddedClip("", 0.0, "no recording found")
        seconds = utterance.known_seconds or 0.0
        if seconds > MAX_CLIP_S:
            return EmbeddedClip("", seconds, f"longer than {MAX_CLIP_S:g} s")
        try:
            if recording not in (None, recording_fingerprint(utterance)):
                return EmbeddedClip("", seconds, "the recording has changed since it was scored")
            samples = load_audio(utterance.audio, start=utterance.start, end=utterance.end)
        except TuneError as error:
            return EmbeddedClip("", seconds, error.message)
        except OSError:
            return EmbeddedClip("", seconds, "no such recording")
        seconds = len(samples) / SAMPLE_RATE_HZ
        if seconds > MAX_CLIP_S:
            return EmbeddedClip("", seconds, f"longer than {MAX_CLIP_S:g} s")
        source = _data_uri(samples)
        if len(source) > self._budget - self.used:
            return EmbeddedClip("", seconds, "left out to keep this file small")
        self.used += len(source)
        self.embedded += 1
        return EmbeddedClip(source, seconds)


def _data_uri(samples: Samples) -> str:
    """MP3 takes a tenth of WAV; a libsndfile without it still writes WAV."""
    kind, media, subtype = ("MP3", "audio/mpeg", "MPEG_LAYER_III")
    if kind not in sf.available_formats():
        kind, media, subtype = ("WAV", "audio/wav", "PCM_16")
    buffer = io.BytesIO()
    # A clipped copy: beyond full scale the encoders wrap around.
    sf.write(buffer, samples.clip(-1.0, 1.0), SAMPLE_RATE_HZ, format=kind, subtype=subtype)
    return f"data:{media};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


class Recordings:
    """Finds the recordings of scored utterances through the manifests in and around a folder."""

    def __init__(self, root: Path, given: Path | None) -> None:
        self._root = root.resolve()
        self._hashes: dict[Path, str] = {}
        # Named by the user: a fault in it is an error, not a missing part.
        self._given = None if given is None else _scan(given)

    def find(
        self, fingerprint: str, ids: Sequence[str], named: Sequence[Path] = ()
    ) -> Mapping[str, Utterance]:
        """Utterances by id, from the manifest with that sha256; empty where none is found.

        A manifest that was given by name is taken whatever its sha256 is: ids decide.

        Args:
            fingerprint: sha256 of the manifest.
            ids: the utterances to find.
            named: paths of manifests in the record of a run, tried before the search.
        """
        scan = self._given or self._matching(fingerprint, named)
        wanted = set(ids)
        return {u.id: u for u in scan.utterances if u.id in wanted} if scan is not None else {}

    def _matching(self, fingerprint: str, named: Sequence[Path]) -> ManifestScan | None:
        for path in (*self._moved(named), *self._nearby()) if fingerprint else ():
            if self._hash(path) == fingerprint:
                return _scan(path)
        return None

    def _moved(self, named: Sequence[Path]) -> Iterator[Path]:
        """The paths as named, and the same below folders above, if all was moved together."""
        for path in named:
            yield home_expanded(path)
            for above in (self._root, *self._root.parents[:2]):
                for depth in range(2, min(len(path.parts), 5)):
                    yield above.joinpath(*path.parts[-depth:])

    def _nearby(self) -> list[Path]:
        """Manifests in and around the folder."""
        paths: list[Path] = []
        for folder in (self._root, *self._root.parents[:2]):
            for pattern in ("*.jsonl", "data/*.jsonl", "data/*/manifest.jsonl"):
                paths += sorted(folder.glob(pattern))[:_MAX_NEARBY]
        # Those of the phases of a plan.
        for pattern in (
            "phases/*/data/*/manifest.jsonl",
            "phases/*/conditions/audio/*/manifest.jsonl",
        ):
            paths = sorted(self._root.glob(pattern))[:_MAX_NEARBY] + paths
        return paths[:_MAX_NEARBY]

    def _hash(self, path: Path) -> str:
        if path not in self._hashes:
            try:
                small = path.is_file() and path.stat().st_size <= _LARGEST_MANIFEST
                self._hashes[path] = sha256_of(path) if small else ""
            except OSError:
                self._hashes[path] = ""
        return self._hashes[path]


def _scan(path: Path) -> ManifestScan:
    return scan_manifest(path, require_text=False, check_files=False)
