"""Engines behind one interface: programs, moonshine-voice, and their voices."""

import sys
import types
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from moonshine_tune.audio import moonshine_engine, program_engines
from moonshine_tune.audio.moonshine_engine import MoonshineEngine
from moonshine_tune.audio.program_engines import CommandEngine, FliteEngine
from moonshine_tune.audio.speech_engine import Prosody, speech_of, voices_by_split
from moonshine_tune.audio.tts import PEAK
from moonshine_tune.audio.voice_pool import VoicePool
from moonshine_tune.core.errors import AudioError, MachineError, RequestError
from moonshine_tune.core.progress import SilentProgress

# Writes a tone whose length depends on the text, as WAV; imports nothing heavy.
_TONE = """
import math, struct, sys, wave
text = open(sys.argv[1], encoding="utf-8").read()
with wave.open(sys.argv[2], "wb") as file:
    file.setparams((1, 2, 8000, 0, "NONE", ""))
    count = 800 + 80 * len(text)
    file.writeframes(b"".join(struct.pack("<h", int(9000 * math.sin(n / 3))) for n in range(count)))
"""


def _program(tmp_path: Path, code: str = _TONE) -> str:
    path = tmp_path / "a program.py"
    path.write_text(code, encoding="utf-8")
    return f"{sys.executable} -S '{path}'"


def test_a_command_speaks_through_files_without_a_shell(tmp_path: Path) -> None:
    engine = CommandEngine(_program(tmp_path) + " {text_file} {out}")
    samples = engine.speak("hello; rm -rf $HOME", "default", Prosody())
    assert samples.dtype == np.float32 and len(samples) == pytest.approx(2 * (800 + 80 * 20), abs=4)
    assert float(np.abs(samples).max()) == pytest.approx(PEAK, abs=1e-4)
    assert engine.uses == () and str(tmp_path) not in engine.version


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import sys; sys.exit('no such voice')", "exit code 1: no such voice"),
        ("pass", "it wrote no audio file"),
        ("import sys; open(sys.argv[2], 'w').write('text')", "failed on 'hello'"),
        (_TONE.replace("9000", "0"), "no speech in the text"),
    ],
)
def test_a_program_that_makes_no_speech_is_an_error(
    tmp_path: Path, code: str, message: str
) -> None:
    engine = CommandEngine(_program(tmp_path, code) + " {text_file} {out}")
    with pytest.raises(AudioError, match=message):
        engine.speak("hello", "default", Prosody())


def test_a_program_that_does_not_end_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program_engines, "TIMEOUT_S", 0.2)
    waits = _program(tmp_path, "import time; time.sleep(100)")
    engine = CommandEngine(waits + " {text_file} {out}")
    with pytest.raises(AudioError, match="did not end within"):
        engine.speak("hello", "default", Prosody())


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("program", "no place"), ("cat {text}", "no place"), ("cat {out}", "no place"),
        ("cat '{text} {out}", "quotation"), ("no-such-program {text} {out}", "there is no program"),
    ],
)  # fmt: skip
def test_a_command_that_cannot_work_is_refused(command: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        CommandEngine(command)


def test_flite_speaks_where_it_is_installed() -> None:
    try:
        engine = FliteEngine()
    except MachineError as error:
        pytest.skip(error.message)
    slow, fast = (engine.speak("hello there", "slt", Prosody(rate_wpm=r)) for r in (120, 240))
    assert len(slow) > 1.5 * len(fast) > 5000
    with pytest.raises(AudioError, match="did you mean 'slt'"):
        engine.check_voice("sltt")


class _Synthesizer:
    """What moonshine-voice's `TextToSpeech` does, with a tone."""

    loaded: ClassVar[list[str]] = []

    def language(self, code: str) -> "_Synthesizer":
        return self

    def voice(self, name: str) -> "_Synthesizer":
        self.name = name
        return self

    def on_progress(self, handler) -> "_Synthesizer":
        handler(0.5, "model.onnx")
        return self

    def load(self) -> None:
        self.loaded.append(self.name)

    def synthesize(self, text: str, *, speed: float):
        return [0.1, -0.1] * round(1200 * len(text) / speed), 24_000

    def close(self) -> None:
        pass


@pytest.fixture
def moonshine(monkeypatch: pytest.MonkeyPatch) -> MoonshineEngine:
    voices = {
        "present": ["kokoro_af_sky", "piper_amy"],
        "downloadable": [f"kokoro_{n}" for n in range(4)],
    }
    package = types.ModuleType("moonshine_voice")
    package.download = types.SimpleNamespace(
        list_tts_voices=lambda language: voices, TTS_CDN_BASE_URL="https://store.invalid/"
    )
    package.tts = types.SimpleNamespace(TextToSpeech=_Synthesizer)
    monkeypatch.setitem(sys.modules, "moonshine_voice", package)
    _Synthesizer.loaded = []
    return MoonshineEngine(SilentProgress())


def test_moonshine_speaks_with_one_voice_at_a_time(moonshine: MoonshineEngine) -> None:
    slow = moonshine.speak("hello", "kokoro_af_sky", Prosody(rate_wpm=140))
    moonshine.speak("hello", "kokoro_af_sky", Prosody())
    moonshine.speak("hello", "piper_amy", Prosody())
    assert _Synthesizer.loaded == ["kokoro_af_sky", "piper_amy"]
    assert len(slow) == pytest.approx(2 * 1200 * 5 * 175 / 140 * 16 / 24, abs=4)
    sets = moonshine.voice_sets()
    assert all(voice.startswith("kokoro_") for names in sets.values() for voice in names)
    assert not set(sets["train"]) & set(sets["dev"])


def test_a_voice_of_a_store_that_is_out_of_reach_says_so(
    moonshine: MoonshineEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moonshine_engine, "why_unreachable", lambda url: "no network")
    moonshine.check_voice("kokoro_af_sky")
    with pytest.raises(MachineError, match="is not here, and no network"):
        moonshine.check_voice("kokoro_2")
    with pytest.raises(AudioError, match="did you mean 'piper_amy'"):
        moonshine.check_voice("piper_ami")


def test_voices_are_named_by_their_engine_and_alternate(tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader", reason="the package espeakng-loader is missing")
    command = _program(tmp_path) + " {text_file} {out} {voice}"
    with VoicePool.open(["espeak", "command"], SilentProgress(), command=command) as pool:
        assert pool.voices("dev") == ("en-us+f3", "command:default", "en-gb+m5", "en-gb-x-rp+Andy")
        pool.check_voice("command:anna")
        assert len(pool.speak("hello", "command:anna", Prosody())) > 1000
        assert pool.speaker_of("en-us") == "en-us"
        with pytest.raises(RequestError, match="needs the engine flite"):
            pool.engine_of("flite:slt")


@pytest.mark.parametrize(
    ("names", "command", "message"),
    [(["espeek"], None, "did you mean 'espeak'"), (["command"], None, "belong together"),
     (["espeak"], "x {text} {out}", "belong together")],
)  # fmt: skip
def test_wrong_engines_are_refused(names: list[str], command: str | None, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        VoicePool.open(names, SilentProgress(), command=command)


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has say")
def test_an_engine_that_is_not_here_is_left_out_only_beside_others(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="macOS only"):
        VoicePool.open(["say"], SilentProgress())
    command = _program(tmp_path) + " {text_file} {out}"
    with VoicePool.open(["say", "command"], SilentProgress(), command=command) as pool:
        assert pool.voices("all") == ("command:default",)


def test_voices_by_split_share_none_where_there_are_several() -> None:
    for count in (3, 4, 5, 11, 20):
        sets = voices_by_split([str(n) for n in range(count)])
        every = [voice for names in sets.values() for voice in names]
        assert len(every) == len(set(every)) == count and all(sets.values())
    assert voices_by_split(["a"]) == {"train": ("a",), "dev": ("a",), "test": ("a",)}


def test_speech_that_never_ends_is_refused() -> None:
    with pytest.raises(AudioError, match="125 s of the text"):
        speech_of(np.ones(1000), 8, "hello")
