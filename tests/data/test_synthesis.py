"""Speech synthesis and synthetic corpora."""

import hashlib
import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

from moonshine_tune.audio import tts
from moonshine_tune.audio.samples import SAMPLE_RATE_HZ
from moonshine_tune.audio.tts import PEAK, VOICE_SETS, SpeechSynthesizer
from moonshine_tune.core.errors import AudioError, MachineError, ProblemsError, RequestError
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.corpus.manifest import read_manifest
from moonshine_tune.data.synthesis.corpus import Delivery, SynthesisOptions, synthesize_corpus
from moonshine_tune.data.synthesis.sentence_sources import SentenceSources, choose_prompts

SENTENCE = "Lufthansa four six five two, descend to flight level three one zero."

needs_espeak = pytest.mark.skipif(
    not hasattr(os, "fork"), reason="speech synthesis needs a system that can fork"
)


@pytest.fixture(scope="module")
def speaker():
    pytest.importorskip("espeakng_loader", reason="the package espeakng-loader is missing")
    with SpeechSynthesizer() as synthesizer:
        yield synthesizer


@needs_espeak
def test_speech_is_mono_16_khz_at_the_stated_peak(speaker) -> None:
    samples = speaker.speak(SENTENCE)
    assert samples.dtype == np.float32 and samples.ndim == 1
    assert 3.0 < len(samples) / SAMPLE_RATE_HZ < 6.0
    assert float(np.abs(samples).max()) == pytest.approx(PEAK, abs=1e-4)


@needs_espeak
@pytest.mark.parametrize("voice", ["en-us", "en-us+f2", "en-gb-scotland+m4"])
def test_the_same_request_gives_the_same_samples_whatever_came_before(speaker, voice) -> None:
    first = speaker.speak(SENTENCE, voice=voice, rate_wpm=160, pitch=55)
    speaker.speak("Something else entirely.", voice="en-029+f1", rate_wpm=120, pitch=90)
    assert np.array_equal(first, speaker.speak(SENTENCE, voice=voice, rate_wpm=160, pitch=55))
    with SpeechSynthesizer() as second:
        assert np.array_equal(first, second.speak(SENTENCE, voice=voice, rate_wpm=160, pitch=55))


@needs_espeak
def test_every_argument_changes_the_speech(speaker) -> None:
    plain = speaker.speak(SENTENCE)
    assert len(speaker.speak(SENTENCE, rate_wpm=300)) < 0.8 * len(plain)
    for changed in ({"pitch": 90}, {"pitch_range": 95}, {"voice": "en-us+m3"}):
        second = speaker.speak(SENTENCE, **changed)
        assert len(second) != len(plain) or not np.allclose(second, plain, atol=1e-2), changed


@needs_espeak
def test_the_voices_of_the_splits_exist_and_share_no_variant(speaker) -> None:
    for voice in VOICE_SETS["all"]:
        speaker.check_voice(voice)
    variants = {
        name: {voice.partition("+")[2] for voice in VOICE_SETS[name]}
        for name in ("train", "dev", "test")
    }
    assert [len(VOICE_SETS[name]) for name in ("train", "dev", "test")] == [10, 3, 4]
    assert not variants["train"] & variants["dev"]
    assert not variants["train"] & variants["test"]
    assert not variants["dev"] & variants["test"]


@needs_espeak
def test_voices_are_listed_by_language(speaker) -> None:
    assert {"en-us", "en-gb", "en-029", "en-gb-scotland"} <= set(speaker.voices("en"))
    assert "de" in speaker.voices("de") and "de" not in speaker.voices("en")
    assert speaker.voices("xx") == ()
    assert {"f2", "m3"} <= set(speaker.variants)


@needs_espeak
@pytest.mark.parametrize("voice", ["en-uz", "en-us+f22", "en-us+", "", "+f2", "../en"])
def test_an_unknown_voice_is_an_error_that_names_real_ones(speaker, voice) -> None:
    with pytest.raises(AudioError, match="no voice") as caught:
        speaker.speak(SENTENCE, voice=voice)
    named = (caught.value.hint or "").partition(": ")[2].split(", ")
    assert named
    for name in named:
        speaker.check_voice(name)


@needs_espeak
@pytest.mark.parametrize(
    "wrong", [{"rate_wpm": 20}, {"rate_wpm": 900}, {"pitch": -1}, {"pitch_range": 101}]
)
def test_values_out_of_range_are_refused(speaker, wrong) -> None:
    with pytest.raises(AudioError, match=next(iter(wrong))):
        speaker.speak(SENTENCE, **wrong)


@needs_espeak
@pytest.mark.parametrize("text", ["", "   ", "\0"])
def test_a_text_without_words_is_an_error(speaker, text) -> None:
    with pytest.raises(AudioError, match="no speech in the text"):
        speaker.speak(text)


@needs_espeak
def test_unusual_texts_neither_crash_nor_lose_speech(speaker) -> None:
    plain = speaker.speak("one two three four")
    assert len(speaker.speak("one two\0 three four")) > 0.9 * len(plain)
    assert len(speaker.speak('naïve "quotes"\nand <b>tags</b> [[x]] 日本')) > 1000


@needs_espeak
def test_threads_may_share_a_synthesizer(speaker) -> None:
    texts = [f"Traffic number {number}." for number in range(6)]
    alone = [speaker.speak(text) for text in texts]
    results: dict[int, np.ndarray] = {}

    def work(number: int) -> None:
        results[number] = speaker.speak(texts[number])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(texts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(results[number], alone[number]) for number in range(len(texts)))


@needs_espeak
def test_a_closed_or_dead_synthesizer_is_an_error() -> None:
    pytest.importorskip("espeakng_loader")
    synthesizer = SpeechSynthesizer()
    synthesizer.close()
    with pytest.raises(AudioError, match="closed"):
        synthesizer.speak(SENTENCE)
    with SpeechSynthesizer() as dying:
        dying._process.kill()
        dying._process.wait()
        with pytest.raises(MachineError, match="exited unexpectedly"):
            dying.speak(SENTENCE)


@needs_espeak
def test_an_interrupted_synthesizer_never_returns_a_stale_answer(
    speaker: SpeechSynthesizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt() -> bytes:
        raise KeyboardInterrupt

    with SpeechSynthesizer() as second:
        monkeypatch.setattr(second, "_read_answer", interrupt)
        with pytest.raises(KeyboardInterrupt):
            second.speak("The first sentence.")
        monkeypatch.undo()
        with pytest.raises(AudioError, match="closed"):
            second.speak(SENTENCE)


@needs_espeak
def test_a_library_that_does_not_load_is_an_error_with_a_hint(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    library = tmp_path / "libespeak.so"
    library.write_bytes(b"no library")
    monkeypatch.setattr(tts, "_installed", lambda: (library, tmp_path))
    with pytest.raises(MachineError, match="does not load") as caught:
        SpeechSynthesizer()
    assert "pip install" in (caught.value.hint or "")
    assert caught.value.exit_code == 3


def make(out: Path, sentences=("One two three.", "Four five six.", "Seven eight nine."), **options):
    pytest.importorskip("espeakng_loader", reason="the package espeakng-loader is missing")
    voices = options.pop("voices", ("en-us", "en-us+f2"))
    options = SynthesisOptions(**options)
    return synthesize_corpus(
        sentences, out, voices=voices, options=options, progress=SilentProgress()
    )


def choose_sentences(*, progress, **sources):
    return tuple(prompt.text for prompt in choose_prompts(SentenceSources(**sources), progress))


def hashes(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((folder / "audio").iterdir())
    }


@needs_espeak
def test_a_corpus_is_a_manifest_with_its_recordings(tmp_path: Path) -> None:
    result = make(tmp_path / "out", seed=4)
    manifest = read_manifest(result.manifest)
    assert [item.text for item in manifest.utterances] == [
        "One two three.", "Four five six.", "Seven eight nine.",
    ]  # fmt: skip
    assert [item.speaker for item in manifest.utterances] == ["en-us", "en-us+f2", "en-us"]
    assert not manifest.remarks, "recordings are inside the manifest's folder"
    for item in manifest.utterances:
        info = soundfile.info(item.audio)
        assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "PCM_16")
        assert item.duration == pytest.approx(info.duration, abs=1e-4)
    assert (result.utterances, result.sentences, result.voices) == (3, 3, ("en-us", "en-us+f2"))
    assert result.seconds == pytest.approx(
        sum(item.duration or 0 for item in manifest.utterances), abs=0.01
    )
    assert json.loads((tmp_path / "out" / "synthesis.json").read_text())["seed"] == 4
    assert str(tmp_path) not in (tmp_path / "out" / "manifest.jsonl").read_text()


@needs_espeak
def test_the_same_seed_gives_the_same_files_and_another_seed_others(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        make(tmp_path / name, seed=seed)
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")
    assert (tmp_path / "a" / "manifest.jsonl").read_bytes() == (
        tmp_path / "b" / "manifest.jsonl"
    ).read_bytes()
    assert not set(hashes(tmp_path / "a").values()) & set(hashes(tmp_path / "c").values())


@needs_espeak
def test_another_sentence_changes_no_other(tmp_path: Path) -> None:
    make(tmp_path / "short", sentences=("One two three.",))
    make(tmp_path / "long", sentences=("One two three.", "Four five six."))
    assert hashes(tmp_path / "short").items() <= hashes(tmp_path / "long").items()


@needs_espeak
def test_each_sentence_by_several_voices_in_flac(tmp_path: Path) -> None:
    voices = ("en-us", "en-us+f2", "en-gb+m3")
    result = make(tmp_path / "out", voices=voices, voices_per_sentence=2, audio_format="flac")
    utterances = read_manifest(result.manifest).utterances
    assert len(utterances) == len({item.id for item in utterances}) == 6
    for sentence in {item.text for item in utterances}:
        assert len({item.speaker for item in utterances if item.text == sentence}) == 2
    assert {item.audio.suffix for item in utterances} == {".flac"}
    assert {item.speaker for item in utterances} == set(voices)


def test_all_problems_of_a_request_are_reported_together(tmp_path: Path) -> None:
    with pytest.raises(ProblemsError) as caught:
        synthesize_corpus(
            (),
            tmp_path / "out",
            voices=("en-us", "en-us"),
            options=SynthesisOptions(
                voices_per_sentence=3,
                delivery=Delivery(rate_wpm=(200, 100), pitch=(0, 200)),
                audio_format="mp3",
            ),
            progress=SilentProgress(),
        )
    assert len(caught.value.problems) == 6
    assert list(tmp_path.iterdir()) == []


@needs_espeak
@pytest.mark.parametrize(
    "wrong", [{"voices": ("en-us", "en-zz")}, {"sentences": ("One two.", "...")}]
)
def test_a_failure_leaves_nothing_behind(tmp_path: Path, wrong) -> None:
    with pytest.raises(AudioError):
        make(tmp_path / "out", **wrong)
    assert list(tmp_path.iterdir()) == []


@needs_espeak
def test_an_existing_folder_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(RequestError, match="exists"):
        make(tmp_path / "out")
    assert [path.name for path in tmp_path.rglob("*.*")] == ["mine.txt"]


class RecordingProgress(SilentProgress):
    """Keeps the lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def test_sentences_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "sätze.txt"
    path.write_bytes("\ufeffErster  Satz.\r\n\r\nZweiter Satz.\nErster Satz.\n".encode())
    progress = RecordingProgress()
    assert choose_sentences(file=path, progress=progress) == ("Erster Satz.", "Zweiter Satz.")
    assert progress.lines == ["kept 2 of 3 sentences: the others are repeated"]
    assert choose_sentences(file=path, skip=1, count=1, progress=progress) == ("Zweiter Satz.",)


def test_two_draws_with_skip_share_nothing() -> None:
    silent = SilentProgress()
    first = choose_sentences(grammar="atc", count=30, seed=5, progress=silent)
    second = choose_sentences(grammar="atc", count=30, skip=30, seed=5, progress=silent)
    assert len({*first, *second}) == 60
    general = choose_sentences(grammar="general", progress=silent)
    assert choose_sentences(grammar="general", skip=20, count=5, progress=silent) == general[20:25]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({}, "either"),
        ({"file": Path("x.txt"), "grammar": "atc"}, "either"),
        ({"grammar": "sea", "count": 3}, "sea"),
        ({"grammar": "atc"}, "unlimited"),
        ({"grammar": "atc", "count": 0}, "0 sentences"),
        ({"grammar": "atc", "count": 3, "skip": -1}, "-1"),
        ({"grammar": "general", "count": 5000}, "5000"),
        ({"grammar": "general", "skip": 5000}, "5000"),
        ({"file": Path("missing.txt")}, "no such file"),
    ],
)
def test_impossible_requests_are_refused(request_, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        choose_sentences(progress=SilentProgress(), **request_)


@pytest.mark.parametrize(("content", "message"), [(b"\n \n", "no sentences"), (b"\xff\xfe", "UTF")])
def test_a_file_without_sentences_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(RequestError, match=message) as caught:
        choose_sentences(file=path, progress=SilentProgress())
    assert str(path) in str(caught.value)
