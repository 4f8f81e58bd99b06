"""Engines of synthetic speech behind one interface, and their voices by split."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import soxr

from moonshine_tune.audio.samples import SAMPLE_RATE_HZ, Samples
from moonshine_tune.audio.tts import PEAK, VOICE_SETS, SpeechSynthesizer
from moonshine_tune.core.errors import AudioError
from moonshine_tune.core.provenance import package_version

# Longest clip that one text may become: an engine that does not stop is at fault.
MAX_CLIP_S = 120.0
# Splits by the share of an engine's voices, for engines whose voices are not known beforehand.
_DEV_EVERY, _TEST_EVERY = 4, 5


@dataclass(frozen=True)
class Prosody:
    """How one utterance is spoken; an engine uses what it has.

    Attributes:
        rate_wpm: words per minute.
        pitch, pitch_range: 0 to 100, where 50 is the voice's own.
    """

    rate_wpm: int = 175
    pitch: int = 50
    pitch_range: int = 50


class SpeechEngine(ABC):
    """Speaks texts. Use it as a context manager, or close it.

    Attributes:
        name: of the engine, and the prefix of its voices.
        version: of what speaks: another one may speak differently.
        uses: the fields of `Prosody` that it uses.
        is_slow: whether a clip takes long enough to keep it when a command stops.
    """

    name: str
    version: str = ""
    uses: tuple[str, ...] = ("rate_wpm",)
    is_slow: bool = True

    @abstractmethod
    def voice_sets(self) -> Mapping[str, tuple[str, ...]]:
        """Voices by split: train, dev, test; no voice is in two of them where it has several."""

    @abstractmethod
    def check_voice(self, voice: str) -> None:
        """Refuse a voice that does not exist.

        Raises:
            AudioError: no such voice; the hint names some that exist.
        """

    @abstractmethod
    def speak(self, text: str, voice: str, prosody: Prosody) -> Samples:
        """Speak one text.

        Returns:
            Mono float32 at 16 kHz, shape (num_samples,), peak at `PEAK`.

        Raises:
            AudioError: the engine fails on the text, or its output is no speech.
            MachineError: the engine does not work here.
        """

    def language_of(self, voice: str) -> str:
        """The language of a voice, such as "en"."""
        return "en"

    def close(self) -> None:  # noqa: B027
        """Free what the engine holds."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class EspeakEngine(SpeechEngine):
    """espeak-ng, offline, from the package `espeakng-loader`."""

    name = "espeak"
    uses = ("rate_wpm", "pitch", "pitch_range")
    is_slow = False

    def __init__(self) -> None:
        self._synthesizer = SpeechSynthesizer()
        self.version = package_version("espeakng-loader") or ""

    def voice_sets(self) -> Mapping[str, tuple[str, ...]]:
        """The voices that Moonshine tiny understands, by split."""
        return {name: VOICE_SETS[name] for name in ("train", "dev", "test")}

    def check_voice(self, voice: str) -> None:
        """As of `SpeechSynthesizer.check_voice`."""
        self._synthesizer.check_voice(voice)

    def speak(self, text: str, voice: str, prosody: Prosody) -> Samples:
        """As of `SpeechSynthesizer.speak`."""
        return self._synthesizer.speak(
            text,
            voice=voice,
            rate_wpm=prosody.rate_wpm,
            pitch=prosody.pitch,
            pitch_range=prosody.pitch_range,
        )

    def language_of(self, voice: str) -> str:
        """That of the voice's name."""
        return voice.partition("+")[0].partition("-")[0]

    def close(self) -> None:
        """End the worker process."""
        self._synthesizer.close()


def voices_by_split(voices: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Voices of an engine by split: of five one is dev and one is test.

    A single voice is in all splits.
    """
    if len(voices) < 3:
        return dict.fromkeys(("train", "dev", "test"), tuple(voices))
    sets: dict[str, list[str]] = {"train": [], "dev": [], "test": []}
    for number, voice in enumerate(voices, start=1):
        is_dev, is_test = number % 5 == _DEV_EVERY, number % 5 == _TEST_EVERY % 5
        sets["dev" if is_dev else "test" if is_test else "train"].append(voice)
    for name in ("dev", "test"):
        if not sets[name]:
            sets[name].append(sets["train"].pop())
    return {name: tuple(members) for name, members in sets.items()}


def speech_of(samples: npt.ArrayLike, rate_hz: int, text: str) -> Samples:
    """What an engine made as the samples that `speak` returns.

    Raises:
        AudioError: nothing, silence, values that are not finite, or far too long.
    """
    speech = np.asarray(samples, dtype=np.float32)
    if speech.ndim != 1 or not np.isfinite(speech).all():
        raise AudioError(f"the engine made no sound of the text {text[:80]!r}")
    if len(speech) > MAX_CLIP_S * rate_hz:
        raise AudioError(
            f"the engine made {len(speech) / rate_hz:.0f} s of the text {text[:80]!r}",
            hint=f"divide it: a clip may have {MAX_CLIP_S:g} s",
        )
    if rate_hz != SAMPLE_RATE_HZ and len(speech):
        speech = np.asarray(soxr.resample(speech, rate_hz, SAMPLE_RATE_HZ, quality="HQ"))
    peak = float(np.abs(speech).max(initial=0.0))
    if peak == 0.0:
        raise AudioError(f"no speech in the text {text[:80]!r}")
    # Resampling changes the peak: the level is set after it.
    return np.asarray(speech * (PEAK / peak), dtype=np.float32)
