"""The text to speech of the package moonshine-voice: Kokoro, Piper and ZipVoice voices.

Voices are files of Moonshine's own store, fetched by that package into its cache on first use. By
default Kokoro speaks: all its voices share one model.
"""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from moonshine_tune.audio.samples import Samples
from moonshine_tune.audio.speech_engine import Prosody, SpeechEngine, speech_of, voices_by_split
from moonshine_tune.core.errors import AudioError, MachineError
from moonshine_tune.core.network import why_unreachable
from moonshine_tune.core.progress import Progress, advance_to
from moonshine_tune.core.text import did_you_mean, first_line

# The rate at which speed is 1, words per minute.
_OWN_RATE_WPM = 175
_PARTS = 100
_LANGUAGES = ("en_us", "en_gb")


class MoonshineEngine(SpeechEngine):
    """moonshine-voice's synthesizer; it holds one voice at a time.

    Raises:
        MachineError: the package is missing, or has no text to speech.
    """

    name = "moonshine"

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        try:
            from moonshine_voice import download, tts

            self._download, self._tts = download, tts
            self.version = version("moonshine-voice")
            # The same voice may be listed for two accents.
            self._languages: dict[str, str] = {}
            self._present: set[str] = set()
            for language in _LANGUAGES:
                voices = download.list_tts_voices(language)
                self._present |= set(voices["present"])
                for voice in (*voices["present"], *voices["downloadable"]):
                    self._languages.setdefault(voice, language)
        except (ImportError, AttributeError, PackageNotFoundError) as error:
            raise MachineError(
                f"moonshine-voice has no text to speech here ({first_line(error)})",
                hint="pip install --upgrade moonshine-voice",
            ) from error
        except Exception as error:
            # A native library: it has errors of its own.
            raise MachineError(
                f"moonshine-voice lists no voices ({type(error).__name__}: {first_line(error)})"
            ) from error
        self._loaded: tuple[str, Any] | None = None

    def voice_sets(self) -> Mapping[str, tuple[str, ...]]:
        """Kokoro's voices by split; without any, those that are here."""
        kokoro = sorted(voice for voice in self._languages if voice.startswith("kokoro_"))
        return voices_by_split(kokoro or sorted(self._present))

    def check_voice(self, voice: str) -> None:
        """One of the catalog; its files may have to be fetched."""
        if voice not in self._languages:
            some = ", ".join(list(self._languages)[:10])
            raise AudioError(
                f"moonshine has no voice {voice!r}{did_you_mean(voice, self._languages)}",
                hint=f"voices: {some}, …",
            )
        if voice not in self._present:
            reason = why_unreachable(self._download.TTS_CDN_BASE_URL)
            if reason:
                raise MachineError(
                    f"the voice {voice} is not here, and {reason}",
                    hint="connect once, or take --engine espeak",
                )

    def speak(self, text: str, voice: str, prosody: Prosody) -> Samples:
        """As of `SpeechEngine.speak`; loads the voice if another one is loaded."""
        synthesizer = self._open(voice)
        try:
            speed = prosody.rate_wpm / _OWN_RATE_WPM
            samples, rate_hz = synthesizer.synthesize(text, speed=speed)
        except Exception as error:
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise AudioError(f"moonshine cannot speak {text[:80]!r} ({reason})") from error
        return speech_of(samples, int(rate_hz), text)

    def close(self) -> None:
        """Free the voice."""
        if self._loaded is not None:
            self._loaded[1].close()
            self._loaded = None

    def _open(self, voice: str) -> Any:
        if self._loaded is not None and self._loaded[0] == voice:
            return self._loaded[1]
        self.close()
        synthesizer = self._tts.TextToSpeech().language(self._languages[voice]).voice(voice)
        try:
            if voice in self._present:
                synthesizer.load()
            else:
                self._fetch(synthesizer, voice)
        except Exception as error:
            # An HTTP client, the disk and a native library, each with exceptions of its own.
            raise MachineError(
                f"the voice {voice} cannot be loaded ({type(error).__name__}: {first_line(error)})"
            ) from error
        self._present.add(voice)
        self._loaded = voice, synthesizer
        return synthesizer

    def _fetch(self, synthesizer: Any, voice: str) -> None:
        with self._progress.stage(f"fetching the voice {voice}", _PARTS) as stage:
            synthesizer.on_progress(advance_to(stage, _PARTS)).load()
