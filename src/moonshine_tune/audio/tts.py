"""Offline text to speech: espeak-ng from the package `espeakng-loader`.

espeak-ng has global state and is not thread-safe, so it runs in a small worker process
(`espeak_worker.py`, with the reasons). Threads may share a synthesizer and then wait for each
other; several synthesizers are independent.
"""

import json
import os
import re
import struct
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import soxr

from moonshine_tune.audio.samples import SAMPLE_RATE_HZ, Samples
from moonshine_tune.core.errors import AudioError, MachineError

# Peak of every utterance: 3 dB below full scale, as headroom for augmentation.
PEAK = 10 ** (-3 / 20)
RATE_RANGE_WPM = (80, 450)
PERCENT_RANGE = (0, 100)

# Voices of the splits. No variant is in two splits, whatever its accent, so the timbre of a test
# voice is new. Received Pronunciation and the New York accent are on both sides. Whispering,
# robotic and croaking variants are left out, and those of which Moonshine tiny recognizes less
# than half of everyday sentences: they would measure espeak-ng and not the adaptation.
TRAIN_VOICES = (
    "en-us", "en-us+f2", "en-us+m3", "en-gb+m1", "en-gb-x-rp+f4", "en-gb-scotland+m4",
    "en-029+f1", "en-us+steph", "en-gb-x-gbclan+m7", "en-us-nyc+m2",
)  # fmt: skip
DEV_VOICES = ("en-us+f3", "en-gb+m5", "en-gb-x-rp+Andy")
TEST_VOICES = ("en-us+m8", "en-gb-x-rp+f5", "en-us-nyc+Annie", "en-gb+m6")

VOICE_SETS: dict[str, tuple[str, ...]] = {
    "train": TRAIN_VOICES,
    "dev": DEV_VOICES,
    "test": TEST_VOICES,
    "all": TRAIN_VOICES + DEV_VOICES + TEST_VOICES,
}

_INSTALL = "install it with: pip install espeakng-loader"
# Between phonemes, and marks of stress.
_PHONEME_GAPS = re.compile("[_ˈˌ]+")


@dataclass(frozen=True)
class _Voices:
    """The voices of this espeak-ng: identifiers by language, and variant names."""

    rate_hz: int
    languages: dict[str, str]
    variants: tuple[str, ...]


class SpeechSynthesizer:
    """A running espeak-ng. Use it as a context manager, or close it.

    Raises:
        MachineError: the library is missing or does not load here.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        library, data = _installed()
        if not hasattr(os, "fork"):
            raise MachineError(
                "speech synthesis needs a system that can fork",
                hint="run it on macOS or Linux, or under WSL",
            )
        script = Path(__file__).with_name("espeak_worker.py")
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(script), str(library), str(data)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        try:
            voices: dict[str, Any] = json.loads(self._read_answer())
        except AudioError as error:
            self.close()
            raise MachineError(f"espeak-ng does not load here: {error}", hint=_INSTALL) from error
        except BaseException:
            self.close()
            raise
        self._voices = _Voices(voices["rate_hz"], voices["languages"], tuple(voices["variants"]))

    def voices(self, language: str = "en") -> tuple[str, ...]:
        """Names of the voices of a language and its accents ("en", "en-gb"), sorted.

        A name may be followed by `+` and one of `variants`, which changes timbre and sex.
        """
        wanted = language.lower()
        return tuple(
            sorted(
                name
                for name in self._voices.languages
                if name.lower() == wanted or name.lower().startswith(f"{wanted}-")
            )
        )

    @property
    def variants(self) -> tuple[str, ...]:
        """Names that may follow a voice after `+`, sorted."""
        return self._voices.variants

    def check_voice(self, voice: str) -> None:
        """Refuse a voice that does not exist; espeak-ng itself silently uses another one.

        Raises:
            AudioError: no such language or variant; the hint names some that exist.
        """
        self._identifier(voice)

    def speak(
        self,
        text: str,
        *,
        voice: str = "en-us",
        rate_wpm: int = 175,
        pitch: int = 50,
        pitch_range: int = 50,
    ) -> Samples:
        """Speak `text`; the same request always gives the same samples.

        Args:
            text: one utterance.
            voice: language and variant, as "en-us" or "en-us+f2".
            rate_wpm: words a minute, 80 to 450.
            pitch: 0 to 100, 50 is the voice's own.
            pitch_range: liveliness of the melody, 0 (monotone) to 100, 50 is the voice's own.

        Returns:
            Mono float32 at 16 kHz, shape (num_samples,), peak at `PEAK`.

        Raises:
            AudioError: an unknown voice, a value out of range, or a text without speech.
            MachineError: the worker process has died.
        """
        identifier = self._identifier(voice)
        _check_range("rate_wpm", rate_wpm, RATE_RANGE_WPM)
        _check_range("pitch", pitch, PERCENT_RANGE)
        _check_range("pitch_range", pitch_range, PERCENT_RANGE)
        request = {
            # espeak-ng ends the text at a NUL and drops the rest without an error.
            "text": text.replace("\0", " "),
            "voice": identifier,
            "rate": rate_wpm,
            "pitch": pitch,
            "range": pitch_range,
        }
        raw = np.frombuffer(self._ask(request), dtype="<i2").astype(np.float32)
        peak = float(np.abs(raw).max(initial=0.0))
        if peak == 0.0:
            raise AudioError(f"no speech in the text {text[:80]!r}")
        speech = soxr.resample(raw / peak, self._voices.rate_hz, SAMPLE_RATE_HZ, quality="HQ")
        # Resampling changes the peak: the level is set after it.
        return np.asarray(speech * (PEAK / np.abs(speech).max()), dtype=np.float32)

    def phonemes(self, texts: Sequence[str], *, voice: str = "en-us") -> list[tuple[str, ...]]:
        """How a voice pronounces each text: phonemes in IPA, without stress.

        Raises:
            AudioError: an unknown voice.
            MachineError: the worker process has died.
        """
        plain = [text.replace("\0", " ") for text in texts]
        answer = self._ask({"phonemes": plain, "voice": self._identifier(voice)})
        spoken: list[str] = json.loads(answer)
        return [tuple(_PHONEME_GAPS.sub(" ", text).split()) for text in spoken]

    def close(self) -> None:
        """End the worker process."""
        process = self._process
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                # A dead worker has not read its last request, and does not need to.
                with suppress(BrokenPipeError):
                    stream.close()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def __enter__(self) -> "SpeechSynthesizer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _identifier(self, voice: str) -> str:
        """espeak-ng's own name of a voice: "gmw/en+f3" for "en-gb+f3"."""
        language, plus, variant = voice.partition("+")
        languages = {name.lower(): name for name in self._voices.languages}
        if language.lower() not in languages:
            near = get_close_matches(language.lower(), languages, n=3, cutoff=0.6)
            raise _no_voice(voice, [languages[name] for name in near] or self.voices("en"))
        identifier = self._voices.languages[languages[language.lower()]]
        if not plus:
            return identifier
        if variant not in self.variants:
            near = get_close_matches(variant, self.variants, n=3, cutoff=0.4)
            names = dict.fromkeys((*near, "f2", "f3", "m3"))
            raise _no_voice(voice, [f"{language}+{name}" for name in names])
        return f"{identifier}+{variant}"

    def _ask(self, request: dict[str, Any]) -> bytes:
        stdin = self._process.stdin
        if stdin is None or stdin.closed:
            raise AudioError("this synthesizer is closed")
        with self._lock:
            try:
                stdin.write(json.dumps(request).encode() + b"\n")
                stdin.flush()
                return self._read_answer()
            except AudioError:
                raise
            except BrokenPipeError as error:
                raise _died() from error
            except BaseException:
                # After an interruption, the rest of this answer would be read as the next one.
                self.close()
                raise

    def _read_answer(self) -> bytes:
        status, length = struct.unpack("<ii", self._read(8))
        payload = self._read(length)
        if status != 0:
            raise AudioError(payload.decode("utf-8", "replace"))
        return payload

    def _read(self, length: int) -> bytes:
        stdout = self._process.stdout
        data = stdout.read(length) if stdout is not None else b""
        if len(data) < length:
            raise _died()
        return data


def _no_voice(voice: str, existing: Sequence[str]) -> AudioError:
    return AudioError(f"no voice is called {voice!r}", hint=f"voices: {', '.join(existing)}")


def _died() -> MachineError:
    return MachineError(
        "the espeak-ng process exited unexpectedly",
        hint="reinstall it with: pip install --force-reinstall espeakng-loader",
    )


def _installed() -> tuple[Path, Path]:
    """Library and data folder of espeak-ng, from the package `espeakng-loader`."""
    try:
        import espeakng_loader

        library = Path(espeakng_loader.get_library_path())
        data = Path(espeakng_loader.get_data_path())
    except (ImportError, RuntimeError) as error:
        raise MachineError(f"espeak-ng is not installed: {error}", hint=_INSTALL) from error
    if not library.is_file():
        raise MachineError("espeak-ng has no library for this system", where=library, hint=_INSTALL)
    return library, data


def _check_range(name: str, value: int, bounds: tuple[int, int]) -> None:
    if not bounds[0] <= value <= bounds[1]:
        raise AudioError(f"{name} is {value}: it must lie between {bounds[0]} and {bounds[1]}")
