"""`try`: the base and the adapted model side by side, from files and while one speaks."""

import json
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.command_line import Answer

from moonshine_tune.audio.microphone import Microphone
from moonshine_tune.audio.samples import Samples
from moonshine_tune.cli.app import run
from moonshine_tune.core.errors import MachineError
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.transcription.live import LiveCutter, transcribe_live
from moonshine_tune.transcription.model_pair import ModelPair, PairedTranscript, TimedResult


def _speech(seconds: float, seed: int = 0) -> Samples:
    """Noise that swells and fades like syllables."""
    count = round(seconds * 16_000)
    swell = 0.6 + 0.4 * np.sin(np.arange(count) / 16_000 * 2 * np.pi * 4)
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(count) * swell * 0.1).astype(np.float32)


def _pause(seconds: float) -> Samples:
    rng = np.random.default_rng(9)
    return (rng.standard_normal(round(seconds * 16_000)) * 1e-4).astype(np.float32)


def _pair() -> ModelPair:
    """Each side writes the length of its clips; the adapted one a word more."""

    def base(clips: Sequence[Samples]) -> list[str]:
        return [f"{len(clip) / 16_000:.0f} seconds" for clip in clips]

    def adapted(clips: Sequence[Samples]) -> list[str]:
        return [f"{text} long" for text in base(clips)]

    return ModelPair(base, adapted, "torch")


def _blocks(samples: Samples, seconds: float = 0.1) -> Iterator[Samples]:
    size = round(seconds * 16_000)
    return (samples[first : first + size] for first in range(0, len(samples), size))


def _cut(samples: Samples) -> list[tuple[float, float]]:
    """Start and end of the pieces of sound that comes in blocks."""
    cutter = LiveCutter()
    pieces = [piece for block in _blocks(samples) for piece in cutter.feed(block)]
    pieces += cutter.flush()
    assert not len(cutter.waiting)
    return [(start, start + len(piece) / 16_000) for start, piece in pieces]


def test_changed_words_are_marked_without_case_and_punctuation() -> None:
    pair = PairedTranscript(
        "a.wav", 0, 1, TimedResult("Turn left, zoo.", 1), TimedResult("turn left zero zero", 1)
    )
    assert pair.changed_words == ((False, False, True), (False, False, True, True))
    assert pair.differs
    same = PairedTranscript("a.wav", 0, 1, TimedResult("It is.", 1), TimedResult("it is", 1))
    assert not same.differs


def test_speech_is_cut_where_one_pauses_while_it_comes_in() -> None:
    spoken = [_pause(1.0), _speech(2.0), _pause(1.5), _speech(1.0, 1), _pause(0.4), _speech(1.0)]
    pieces = _cut(np.concatenate([*spoken, _pause(1.2)]))
    assert len(pieces) == 2
    (first, second) = pieces
    assert 0.5 <= first[0] <= 1.1 and 2.9 <= first[1] <= 3.6
    # Less than a second of pause ends nothing.
    assert 4.0 <= second[0] <= 4.6 and 6.8 <= second[1] <= 7.3


def test_long_speech_and_long_silence_stay_bounded() -> None:
    pieces = _cut(_speech(40.0))
    assert max(end - start for start, end in pieces) <= 16.0
    assert sum(end - start for start, end in pieces) == pytest.approx(40.0, abs=0.5)
    cutter = LiveCutter()
    for block in _blocks(np.zeros(16_000 * 30, np.float32)):
        assert not list(cutter.feed(block))
        assert len(cutter.waiting) < 3 * 16_000


class _Source:
    """A microphone that reads a list of blocks."""

    def __init__(self, samples: Samples) -> None:
        self._blocks = _blocks(samples, 0.25)
        self.switched: list[str] = []

    def start(self) -> None:
        self.switched.append("start")

    def stop(self) -> None:
        self.switched.append("stop")

    def read(self) -> Samples:
        return next(self._blocks, np.zeros(0, np.float32))


class _View:
    def __init__(self) -> None:
        self.finals: list[PairedTranscript] = []
        self.partials = 0
        self.states: list[bool] = []

    def show_partial(self, transcript: PairedTranscript) -> None:
        self.partials += 1

    def show_final(self, transcript: PairedTranscript) -> None:
        self.finals.append(transcript)

    def show_state(self, *, is_listening: bool) -> None:
        self.states.append(is_listening)


def test_enter_stops_and_starts_and_q_quits_with_what_was_spoken() -> None:
    samples = np.concatenate([_speech(2.0), _pause(1.0), _speech(3.0, 1)])
    source, view = _Source(samples), _View()
    keys = iter([""] * 14 + ["\n", "", "\n"] + [""] * 8 + ["x", "q"])
    transcribe_live(_pair(), source, view, lambda: next(keys), lambda: None)
    assert source.switched == ["start", "stop", "start", "stop"]
    assert view.states == [True, False, True]
    assert view.partials >= 3
    # The first ended by its pause, the second by Enter, the third by `q`.
    assert len(view.finals) == 3
    assert view.finals[0].base.text == "2 seconds" and view.finals[0].differs
    assert view.finals[0].source == "microphone"
    assert all(item.end_s > item.start_s for item in view.finals)


def _sounddevice(monkeypatch: pytest.MonkeyPatch, **content: Any) -> None:
    module = types.ModuleType("sounddevice")
    vars(module).update({"PortAudioError": ValueError} | content)
    monkeypatch.setitem(sys.modules, "sounddevice", module)


def _no_device(*_: Any) -> Any:
    raise ValueError("Error querying device -1")


def test_without_a_microphone_the_command_says_how_to_give_a_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _sounddevice(monkeypatch, query_devices=_no_device)
    assert run(["try", "my runs/a"]) == 3
    printed = capsys.readouterr().err
    assert "no microphone can be used here: Error querying device -1" in printed
    assert "moonshine-tune try 'my runs/a' talk.wav" in printed


def test_without_portaudio_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class _Broken(types.ModuleType):
        def __getattr__(self, name: str) -> Any:
            raise OSError("PortAudio library not found")

    monkeypatch.setitem(sys.modules, "sounddevice", _Broken("sounddevice"))
    with pytest.raises(MachineError, match="PortAudio") as caught:
        Microphone()
    assert "libportaudio2" in str(caught.value.hint)


def test_a_device_of_another_rate_is_resampled(monkeypatch: pytest.MonkeyPatch) -> None:
    class _Stream:
        def __init__(self, samplerate: int, callback: Callable[..., None], **_: Any) -> None:
            if samplerate == 16_000:
                raise ValueError("Invalid sample rate")
            self.callback = callback

        def start(self) -> None:
            for _ in range(10):
                self.callback(np.ones((4_800, 1), np.float32), 4_800, None, None)

        def stop(self) -> None: ...

        def close(self) -> None: ...

    info = {"name": "Desk", "default_samplerate": 48_000.0}
    _sounddevice(monkeypatch, query_devices=lambda *_: info, InputStream=_Stream)
    with Microphone() as microphone:
        microphone.start()
        samples = microphone.read()
    assert samples.dtype == np.float32 and 15_000 < len(samples) <= 16_000
    assert microphone.name == "Desk" and microphone.lost_s == 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, training: Any) -> Path:
    """A run of a few steps on a small random model, strong enough to write something else."""
    from moonshine_tune.training.run import train

    out = tmp_path_factory.mktemp("try") / "run"
    train(training.settings(train__steps=4, train__learning_rate=0.05), out, SilentProgress())
    return out


def test_both_texts_are_those_of_transcribe(
    trained: Path, training: Any, ask: Callable[..., Answer], capsys: pytest.CaptureFixture[str]
) -> None:
    clips = sorted(training.speech.rglob("*.wav"))[:2]
    code = run(["try", str(trained), *map(str, clips), "--json"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert code == 0 and [line["source"] for line in lines[:-1]] == [
        str(c.resolve()) for c in clips
    ]
    assert lines[-1]["pieces"] == 2 and lines[-1]["backend"] == "torch"
    assert lines[-1]["differing"] > 0
    for side, options in (
        ("base", ["--model", str(training.model)]),
        ("adapted", ["--adapter", str(trained)]),
    ):
        for clip, line in zip(clips, lines, strict=False):
            run(["transcribe", str(clip), *options])
            assert capsys.readouterr().out.strip() == line[side]["text"].strip()
            assert line[side]["latency_ms"] > 0


def test_wrong_requests_are_refused(
    tmp_path: Path, trained: Path, training: Any, ask: Callable[..., Answer]
) -> None:
    clip = next(training.speech.rglob("*.wav"))
    code, document = ask("try", tmp_path / "nothing", clip)
    assert code == 2 and "no such folder" in document["error"]["message"]
    code, document = ask("try", trained, clip, "--base-runtime", tmp_path)
    assert code == 2 and "--base-runtime" in document["error"]["message"]
    code, document = ask("try", trained, tmp_path / "gone.wav")
    assert code == 2
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    code, document = ask("try", trained, tmp_path / "broken.wav", clip)
    assert code == 1 and document["failed"] == 1 and document["pieces"] == 1
    for name in ("encoder_model.ort", "decoder_model_merged.ort", "tokenizer.bin"):
        (tmp_path / name).write_bytes(b"")
    code, document = ask("try", tmp_path, clip)
    assert code == 2 and "--base-runtime DIR" in document["error"]["hint"]


@pytest.mark.real_model
def test_an_exported_folder_is_tried_by_the_runtime(real_tiny: Any, tmp_path: Path) -> None:
    from moonshine_tune.transcription.model_pair import open_pair

    runtime = real_tiny.runtime_dir
    with ExitStack() as stack:
        pair = open_pair(runtime, stack, SilentProgress(), base_runtime=runtime)
        result = pair.transcribe(_speech(2.0), "microphone", 0.0)
    assert pair.backend == "runtime" and not result.differs
