"""Engines that are programs: `flite`, `say` of macOS, and any command line.

A program gets a text file and writes an audio file. It runs without a shell, in a folder of its own
and within a time; what it wrote is read as any recording.
"""

import hashlib
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from moonshine_tune.audio.io import load_audio
from moonshine_tune.audio.samples import SAMPLE_RATE_HZ, Samples
from moonshine_tune.audio.speech_engine import Prosody, SpeechEngine, speech_of, voices_by_split
from moonshine_tune.core.errors import AudioError, MachineError, RequestError, TuneError
from moonshine_tune.core.text import did_you_mean, first_line

# For one text. A large model on a CPU takes seconds.
TIMEOUT_S = 120.0
_SLOTS = ("{text_file}", "{text}", "{out}", "{voice}", "{rate}")
_SAY_LANGUAGE = re.compile(r"^(?P<name>.+?)\s+(?P<language>[a-z]{2,3}[_-]\w+)\s+#", re.MULTILINE)


class ProgramEngine(SpeechEngine):
    """A program that makes an audio file of a text."""

    @abstractmethod
    def words(self, text: Path, out: Path, voice: str, prosody: Prosody) -> list[str]:
        """The command for a text file and the audio file to write."""

    def speak(self, text: str, voice: str, prosody: Prosody) -> Samples:
        """As of `SpeechEngine.speak`."""
        with tempfile.TemporaryDirectory(prefix="moonshine-tune-speech-") as name:
            folder = Path(name)
            source, out = folder / "text.txt", folder / "speech.wav"
            source.write_text(text + "\n", encoding="utf-8")
            _run(self.words(source, out, voice, prosody), folder)
            try:
                samples = load_audio(out)
            except AudioError as error:
                reason = error.message if out.exists() else "it wrote no audio file"
                raise AudioError(f"{self.name} failed on {text[:80]!r}: {reason}") from error
        return speech_of(samples, SAMPLE_RATE_HZ, text)


class FliteEngine(ProgramEngine):
    """flite, where it is installed."""

    name = "flite"
    is_slow = False

    def __init__(self) -> None:
        self._program = _program("flite", "install it, on Debian with: sudo apt install flite")
        listed = _output([self._program, "-lv"]).partition(":")[2].split()
        # `kal` has 8 kHz, and `awb_time` only tells the time.
        self._voices = tuple(v for v in listed if v not in ("kal", "awb_time")) or ("slt",)
        self.version = first_line(_output([self._program, "--version"]))

    def voice_sets(self) -> Mapping[str, tuple[str, ...]]:
        """Its voices by split."""
        return voices_by_split(sorted(self._voices))

    def check_voice(self, voice: str) -> None:
        """A name, or the path of a voice file."""
        if voice not in self._voices and not Path(voice).is_file():
            raise _no_voice(self.name, voice, self._voices)

    def words(self, text: Path, out: Path, voice: str, prosody: Prosody) -> list[str]:
        """Its options."""
        stretch = f"duration_stretch={175 / prosody.rate_wpm:.3f}"
        options = ["-voice", voice, "--setf", stretch]
        return [self._program, *options, "-f", str(text), "-o", str(out)]


class SayEngine(ProgramEngine):
    """`say` of macOS with its English voices."""

    name = "say"

    def __init__(self) -> None:
        if platform.system() != "Darwin":
            raise MachineError("say exists on macOS only", hint="take --engine espeak")
        self._program = _program("say", "it is part of macOS")
        self.version = os.uname().release
        listed = _SAY_LANGUAGE.finditer(_output([self._program, "-v", "?"]))
        self._languages = {match["name"].strip(): match["language"] for match in listed}

    def voice_sets(self) -> Mapping[str, tuple[str, ...]]:
        """The English voices by split."""
        return voices_by_split(
            sorted(name for name, lang in self._languages.items() if lang.startswith("en"))
        )

    def check_voice(self, voice: str) -> None:
        """A name as of `say -v ?`."""
        if voice not in self._languages:
            raise _no_voice(self.name, voice, sorted(self._languages))

    def language_of(self, voice: str) -> str:
        """As `say` lists it."""
        return re.split("[_-]", self._languages[voice])[0]

    def words(self, text: Path, out: Path, voice: str, prosody: Prosody) -> list[str]:
        """Its options."""
        form = ["--file-format=WAVE", "--data-format=LEI16@22050"]
        rate = ["-r", str(prosody.rate_wpm)]
        return [self._program, "-v", voice, *rate, *form, "-f", str(text), "-o", str(out)]


class CommandEngine(ProgramEngine):
    """Any command line with `{text_file}` or `{text}`, `{out}` and, if wanted, `{voice}`, `{rate}`.

    Raises:
        RequestError: the command has no place for the text or the result, or does not exist.
    """

    name = "command"

    def __init__(self, command: str) -> None:
        try:
            self._words = shlex.split(command)
        except ValueError as error:
            raise RequestError(f"--engine-command {command!r}: {error}") from error
        slots = [slot for slot in _SLOTS if any(slot in word for word in self._words)]
        if "{out}" not in slots or not {"{text_file}", "{text}"} & set(slots):
            raise RequestError(
                f"--engine-command {command!r} has no place for the text and the result",
                hint="such as: --engine-command 'program {text_file} {out}'",
            )
        if shutil.which(self._words[0]) is None:
            raise RequestError(f"--engine-command: there is no program {self._words[0]!r}")
        self.uses = ("rate_wpm",) if "{rate}" in slots else ()
        self._takes_voice = "{voice}" in slots
        # The command itself may name folders of this machine.
        self.version = hashlib.sha256(command.encode()).hexdigest()[:16]

    def voice_sets(self) -> Mapping[str, tuple[str, ...]]:
        """One voice that is not named; others are named with `--voices`."""
        return voices_by_split(["default"])

    def check_voice(self, voice: str) -> None:
        """Several voices need `{voice}` in the command."""
        if voice != "default" and not self._takes_voice:
            raise AudioError(
                f"the command cannot take the voice {voice!r}",
                hint="write {voice} where it belongs in --engine-command",
            )

    def words(self, text: Path, out: Path, voice: str, prosody: Prosody) -> list[str]:
        """The command with its places filled; a word stays one word."""
        spoken = text.read_text(encoding="utf-8").strip()
        values = (str(text), spoken, str(out), voice, str(prosody.rate_wpm))
        filled = dict(zip(_SLOTS, values, strict=True))
        pattern = re.compile("|".join(map(re.escape, _SLOTS)))
        return [pattern.sub(lambda match: filled[match[0]], word) for word in self._words]


def _run(words: Sequence[str], folder: Path) -> None:
    """Run a program to its end.

    Raises:
        AudioError: it failed or took too long; its children are ended with it.
        MachineError: it cannot be started.
    """
    errors = folder / "errors.txt"
    try:
        with errors.open("wb") as stream:
            process = subprocess.Popen(
                list(words),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stream,
                start_new_session=True,
            )
    except OSError as error:
        raise MachineError(f"{words[0]} cannot be started: {first_line(error)}") from error
    try:
        code = process.wait(TIMEOUT_S)
    except BaseException as error:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if isinstance(error, subprocess.TimeoutExpired):
            raise AudioError(f"{words[0]} did not end within {TIMEOUT_S:g} s") from error
        raise
    if code:
        with errors.open("rb") as stream:
            text = stream.read(4000).decode("utf-8", "replace")
        output = f": {first_line(text)}" if text.strip() else ""
        raise AudioError(f"{words[0]} failed with exit code {code}{output}")


def _program(name: str, hint: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise MachineError(f"{name} is not installed", hint=hint)
    return path


def _output(words: Sequence[str]) -> str:
    try:
        done = subprocess.run(words, capture_output=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MachineError(f"{words[0]} does not work here: {first_line(error)}") from error
    return done.stdout.decode("utf-8", "replace")


def _no_voice(engine: str, voice: str, known: Sequence[str]) -> TuneError:
    return AudioError(
        f"{engine} has no voice {voice!r}{did_you_mean(voice, known)}",
        hint=f"voices: {', '.join(known[:20])}",
    )
