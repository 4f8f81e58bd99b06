"""A folder of noises or impulse responses: listed, named by content, decoded when needed."""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from moonshine_tune.audio.io import AUDIO_ENDINGS, load_audio
from moonshine_tune.audio.samples import SAMPLE_RATE_HZ, Samples
from moonshine_tune.core.errors import AudioError, ProblemsError, RequestError
from moonshine_tune.core.files import sha256_of
from moonshine_tune.corpus.manifest import read_manifest

# 64 clips of 10 s are 41 MB.
_MAX_DECODED = 64
# What messages call the recordings of each setting below `augment`.
_CALLED = {"noise": "noises", "rooms": "impulse responses"}


@dataclass(frozen=True)
class Sound:
    """One noise or impulse response.

    Attributes:
        name: path below the folder, or its id in the manifest.
        group: its kind: the manifest's `category`, else the first folder of its path.
        sha256: of the file; part of recipe keys, so a changed file changes what is stored.
    """

    name: str
    path: Path
    group: str
    sha256: str

    def load(self) -> Samples:
        """Mono 16 kHz samples; the most recent ones are cached."""
        return _decoded(self.path, self.sha256)


@dataclass(frozen=True)
class ColoredNoise:
    """Noise whose power falls with frequency, computed: recordings of noise are not always there.

    Attributes:
        exponent: power ∝ 1 / frequency ** exponent; 0 is white, 1 pink, 2 brown.
        group: its kind, as a recording has one.
    """

    exponent: float
    group: str = "colored"

    @property
    def name(self) -> str:
        """Names it in messages and tables."""
        return f"noise with exponent {self.exponent:g}"

    @property
    def sha256(self) -> str:
        """Names the noise in recipe keys, as a recording's hash does."""
        return f"colored-{self.exponent:g}"

    def load(self) -> Samples:
        """Ten seconds, mono 16 kHz."""
        return _colored(self.exponent)


@dataclass(frozen=True)
class ComputedRoom:
    """Impulse response of a room: the direct sound, then noise that decays by 60 dB.

    Attributes:
        decay_s: time of the decay (RT60), seconds.
        group: its kind, as a recording has one.
    """

    decay_s: float
    group: str = "computed"

    @property
    def name(self) -> str:
        """Names it in messages and tables."""
        return f"room with a decay of {self.decay_s:g} s"

    @property
    def sha256(self) -> str:
        """Names the room in recipe keys, as a recording's hash does."""
        return f"decay-{self.decay_s:g}"

    def load(self) -> Samples:
        """Mono 16 kHz."""
        return _room(self.decay_s)


AnySound = Sound | ColoredNoise | ComputedRoom
"""A recording, or what is computed."""


@dataclass(frozen=True)
class NoiseBank:
    """Sounds in the order of their names: a seed picks the same one on any machine."""

    path: Path
    sounds: tuple[AnySound, ...]

    @property
    def fingerprint(self) -> str:
        """Hash of all names and contents."""
        text = "\n".join(f"{sound.name} {sound.sha256}" for sound in self.sounds)
        return hashlib.sha256(text.encode()).hexdigest()


def open_noise_bank(path: Path, setting: str) -> NoiseBank:
    """The sounds of a folder (and its subfolders), or of a manifest.

    Args:
        setting: `noise` or `rooms` (impulse responses), for messages.

    Raises:
        RequestError: no such folder, or no recording in it.
        ProblemsError: recordings that cannot be read; all are listed.
    """
    called = _CALLED[setting]
    hint = f"name a folder of recordings, or a manifest of them: --set augment.{setting}=FOLDER"
    if path.is_file():
        listed = [
            (item.id, item.audio, str(item.extra.get("category") or "") or _group(item.id))
            for item in read_manifest(path, require_text=False).utterances
        ]
    elif path.is_dir():
        files = [
            file
            for file in path.rglob("*")
            if file.suffix.lower() in AUDIO_ENDINGS and not file.name.startswith(".")
        ]
        names = [file.relative_to(path).as_posix() for file in files]
        listed = [(name, file, _group(name)) for name, file in zip(names, files, strict=True)]
    else:
        raise RequestError(f"no such folder of {called}", where=path, hint=hint)
    if not listed:
        raise RequestError(f"the folder of {called} holds no audio", where=path, hint=hint)
    sounds, problems = [], []
    for name, file, group in sorted(listed):
        sound = Sound(name, file, group, sha256_of(file))
        try:
            if not np.any(sound.load()):
                problems.append(f"{file}: silent")
        except AudioError as error:
            problems.append(str(error))
        sounds.append(sound)
    if problems:
        raise ProblemsError(
            f"{len(problems)} of {len(sounds)} {called} cannot be used",
            problems,
            hint="remove them from the folder",
        )
    return NoiseBank(path, tuple(sounds))


def _group(name: str) -> str:
    return name.partition("/")[0] if "/" in name else "all"


@lru_cache(maxsize=_MAX_DECODED)
def _decoded(path: Path, sha256: str) -> Samples:
    samples = load_audio(path)
    samples.flags.writeable = False
    return samples


@lru_cache(maxsize=8)
def _colored(exponent: float) -> Samples:
    rng = np.random.default_rng(round(exponent * 1000))
    count = 10 * SAMPLE_RATE_HZ
    spectrum = np.fft.rfft(rng.standard_normal(count))
    # Below 50 Hz no microphone records, and brown noise has most of its power there.
    lowest = 50 * count // SAMPLE_RATE_HZ
    frequencies = np.arange(len(spectrum))
    spectrum *= np.maximum(frequencies, lowest) ** (-exponent / 2) * (frequencies >= lowest)
    samples = np.fft.irfft(spectrum, count).astype(np.float32)
    samples *= 0.1 / float(np.sqrt(np.mean(samples**2)))
    samples.flags.writeable = False
    return samples


@lru_cache(maxsize=8)
def _room(decay_s: float) -> Samples:
    rng = np.random.default_rng(round(decay_s * 1000))
    seconds = np.arange(round(decay_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    response = rng.standard_normal(len(seconds)) * 10.0 ** (-3.0 * seconds / decay_s)
    # From 2 ms on, and together as strong as the direct sound.
    response[: SAMPLE_RATE_HZ // 500] = 0.0
    response /= np.sqrt(np.sum(response**2))
    response[0] = 1.0
    samples = response.astype(np.float32)
    samples.flags.writeable = False
    return samples


COLORED_NOISES = NoiseBank(
    Path(), tuple(ColoredNoise(value) for value in (0.0, 0.5, 1.0, 1.5, 2.0))
)
"""White to brown noise."""

COMPUTED_ROOMS = NoiseBank(Path(), tuple(map(ComputedRoom, (0.2, 0.35, 0.5, 0.8))))
"""Dry to reverberant rooms."""
