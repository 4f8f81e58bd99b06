"""A user's folder of noises or room responses: found, named by content, decoded when needed."""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from moonshine_tune.audio.io import AUDIO_ENDINGS, load_audio
from moonshine_tune.core.errors import AudioError, ProblemsError, RequestError
from moonshine_tune.core.files import sha256_of
from moonshine_tune.corpus.manifest import read_manifest

Samples = npt.NDArray[np.float32]

# 64 clips of 10 s are 41 MB.
_KEPT = 64


@dataclass(frozen=True)
class Sound:
    """One noise or room response.

    Attributes:
        name: path below the folder, or its id in the manifest.
        group: what kind it is: the manifest's `category`, else the first folder of its path.
        sha256: of the file; names it in recipes, so that a changed file changes what is stored.
    """

    name: str
    path: Path
    group: str
    sha256: str

    def load(self) -> Samples:
        """Mono 16 kHz samples; the last ones are remembered."""
        return _decoded(self.path, self.sha256)


@dataclass(frozen=True)
class NoiseBank:
    """Sounds in the order of their names: a seed picks the same one on any machine."""

    place: Path
    sounds: tuple[Sound, ...]

    @property
    def fingerprint(self) -> str:
        """Hash of all names and contents."""
        text = "\n".join(f"{sound.name} {sound.sha256}" for sound in self.sounds)
        return hashlib.sha256(text.encode()).hexdigest()


def open_sounds(place: Path, what: str) -> NoiseBank:
    """The sounds of a folder (and the folders in it), or of a manifest.

    Args:
        what: `noise` or `rooms`, for messages.

    Raises:
        RequestError: no such folder, or no recording in it.
        ProblemsError: recordings that cannot be read; all are listed.
    """
    hint = f"name a folder of recordings, or a manifest of them: --set augment.{what}=FOLDER"
    if place.is_file():
        listed = read_manifest(place, require_text=False).utterances
        found = [
            (item.id, item.audio, str(item.extra.get("category") or "") or _group(item.id))
            for item in listed
        ]
    elif place.is_dir():
        paths = [
            path
            for path in sorted(place.rglob("*"))
            if path.suffix.lower() in AUDIO_ENDINGS and not path.name.startswith(".")
        ]
        names = [path.relative_to(place).as_posix() for path in paths]
        found = [(name, path, _group(name)) for name, path in zip(names, paths, strict=True)]
    else:
        raise RequestError(f"no such folder of {what}", where=place, hint=hint)
    if not found:
        raise RequestError(f"the folder of {what} holds no audio", where=place, hint=hint)
    sounds, problems = [], []
    for name, path, group in sorted(found):
        sound = Sound(name, path, group, sha256_of(path))
        try:
            if not np.any(sound.load()):
                problems.append(f"{path}: silent")
        except AudioError as error:
            problems.append(str(error))
        sounds.append(sound)
    if problems:
        raise ProblemsError(
            f"{len(problems)} of {len(sounds)} recordings of {what} cannot be used",
            problems,
            hint="remove them from the folder",
        )
    return NoiseBank(place, tuple(sounds))


def _group(name: str) -> str:
    return name.partition("/")[0] if "/" in name else "all"


@lru_cache(maxsize=_KEPT)
def _decoded(path: Path, sha256: str) -> Samples:
    samples = load_audio(path)
    samples.flags.writeable = False
    return samples
