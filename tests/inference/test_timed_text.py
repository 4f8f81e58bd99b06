"""Times and confidence of words."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.conftest import Samples, build_tiny

from moonshine_tune.inference.confidence import share_read, word_confidence
from moonshine_tune.inference.loops import has_loop, without_loops
from moonshine_tune.inference.timed_text import TimedText, TimedWord
from moonshine_tune.inference.token_evidence import token_evidence
from moonshine_tune.inference.transcribe import TorchTranscriber
from moonshine_tune.inference.word_times import _best_path, words_of
from moonshine_tune.models.base import DecodeLimits, SpeechModel
from moonshine_tune.models.losses import target_batch


def test_the_path_gives_words_their_frames_and_pauses_theirs() -> None:
    sounds = np.array([-1, -1, 1, 1, 1, -1, -1, 1, 1, 1, -1], dtype=float)
    attention = np.zeros((3, 11), np.float32)
    attention[0, 2:4] = attention[1, 4] = attention[2, 7:10] = 2.0
    assert _best_path(attention, sounds, [[0, 1], [2]]) == [(2, 5), (7, 10)]


def test_words_without_a_pause_between_them_meet_where_attention_moves() -> None:
    attention = np.zeros((2, 10), np.float32)
    attention[0, :6] = attention[1, 6:] = 1.0
    assert _best_path(attention, np.ones(10), [[0], [1]]) == [(0, 6), (6, 10)]


def test_more_tokens_than_frames_still_have_times() -> None:
    spans = _best_path(np.zeros((5, 3), np.float32), np.ones(3), [[0], [1, 2], [3], [4]])
    assert len(spans) == 4
    assert all(0 <= start <= stop <= 3 for start, stop in spans)


def test_punctuation_belongs_to_the_word_before_it_and_is_not_spoken(tiny_v1: SpeechModel) -> None:
    tokenizer = tiny_v1.tokenizer
    text = "it was, the end."
    ids = tokenizer.encode(text)
    words = words_of(tokenizer, ids)
    assert [word.text for word in words] == ["it", "was,", "the", "end."]
    spoken = [tokenizer.decode([ids[n] for n in word.spoken]) for word in words]
    assert spoken == ["it", "was", "the", "end"]


@pytest.mark.parametrize("family", ["v1", "streaming"])
def test_evidence_is_that_of_a_plain_pass_whatever_the_batch(family: str) -> None:
    model = build_tiny(family, seed=3)
    rng = np.random.default_rng(0)
    clips = [rng.normal(0, 0.1, size).astype(np.float32) for size in (9000, 30_000, 16_000)]
    texts = [model.tokenizer.encode(text) for text in ("a", "it was the best", "two")]
    from moonshine_tune.inference.batching import encode_clips

    together = token_evidence(model, encode_clips(model, clips), texts)
    for clip, ids, item in zip(clips, texts, together, strict=True):
        states = encode_clips(model, [clip])
        (alone,) = token_evidence(model, states, [ids])
        np.testing.assert_allclose(item.log_probs, alone.log_probs, atol=2e-4)
        np.testing.assert_allclose(item.attention, alone.attention, atol=2e-3)
        assert item.attention.shape == (len(ids), states.lengths[0])
        with torch.inference_mode():
            logits = model.decoder_logits(states, target_batch([ids], "cpu").input_ids)
        expected = logits[0].log_softmax(-1)[range(len(ids)), ids].numpy()
        # The vocabulary has lower case only, so no token has a variant.
        np.testing.assert_allclose(alone.log_probs, expected, atol=2e-4)


def test_a_row_without_tokens_has_no_evidence(tiny_model: SpeechModel) -> None:
    from moonshine_tune.inference.batching import encode_clips

    clips = [np.zeros(16_000, np.float32)] * 2
    empty, other = token_evidence(tiny_model, encode_clips(tiny_model, clips), [[], [5]])
    assert empty.log_probs.shape == (0,)
    assert other.log_probs.shape == (1,)


def test_timed_texts_are_the_texts(
    overfitted: tuple[SpeechModel, list[Samples], list[str]],
) -> None:
    model, clips, texts = overfitted
    transcriber = TorchTranscriber(model, DecodeLimits(40.0))
    timed = transcriber.transcribe_timed(clips)
    assert [item.text for item in timed] == transcriber.transcribe(clips) == texts
    for item, clip in zip(timed, clips, strict=True):
        assert " ".join(word.text for word in item.words) == item.text
        moments = [moment for word in item.words for moment in (word.start, word.end)]
        assert moments == sorted(moments)
        assert moments[0] >= 0 and moments[-1] <= len(clip) / 16_000
        # A model that knows its clips by heart need not follow their sound.
        assert item.confidence is not None and 0.0 <= item.confidence <= 1.0


@pytest.mark.parametrize(
    ("text", "is_loop"),
    [
        ("W-i-l-l-l-l-l-l-l-l-l-l-l-l-l-l-l-l", True),
        ("I'm going to go to the hospital. " * 3, True),
        ("no, no, no, no. It was the best of times, it was the worst of times.", False),
        ("zero zero zero one one nine nine nine", False),
        # Cut off at the limit of the decoder, in the middle of a loop.
        ("A two wheel. A-2-6, a-6, a-6, a-6, a-6, a-6, a-6, a-6,", True),
        ("a-6, a-6, a-6, a-6, a-6, a-6, and then the other thing", False),
    ],
)
def test_loops_are_told_from_what_people_repeat(text: str, is_loop: bool) -> None:
    assert has_loop(text) == is_loop


def test_a_loop_is_transcribed_again_from_parts_and_then_written_once() -> None:
    clips = [np.full(5 * 16_000, 0.1, np.float32), np.full(10 * 16_000, 0.2, np.float32)]
    asked: list[list[float]] = []

    def transcribe(parts: Sequence[Samples]) -> list[TimedText]:
        asked.append([len(part) / 16_000 for part in parts])
        if len(asked) == 1:
            return [TimedText("fine"), TimedText("go left now, " * 5)]
        words = tuple(TimedWord("stop", 0.1 * n, 0.1 * n + 0.1, 0.9) for n in range(9))
        return [TimedText("two cities", words[:2]), TimedText("stop " * 9, words)]

    first, second = without_loops(clips, transcribe)
    assert first.text == "fine"
    assert second.text == "two cities stop"
    assert len(asked[1]) == 2
    assert sum(asked[1]) == 10.0
    assert [word.start for word in second.words] == pytest.approx([0.0, 0.1, asked[1][0]])


def test_confidence_grows_with_the_probability() -> None:
    values = [word_confidence([value, -0.1], -0.2) for value in (-5.0, -2.0, -0.5, -0.01)]
    assert values == sorted(values)
    assert 0.0 < values[0] < 0.5 < values[-1] < 1.0


def test_a_text_is_made_up_where_the_attention_does_not_move_on() -> None:
    forward = np.eye(8, 20, dtype=np.float32)
    tokens = range(8)
    assert share_read(forward, tokens) == 1.0
    assert share_read(forward[[0, 1, 2, 2, 3, 4, 5, 6]], tokens) == 1.0
    assert share_read(forward[[0, 3, 1, 5, 2, 7, 4, 6]], tokens) == 0.0
    # A step back in a longer text is no sign of noise.
    once = np.eye(30, 60, dtype=np.float32)[[*range(10), 8, *range(10, 30)]]
    assert share_read(once, range(31)) == 1.0
    assert share_read(forward[:1], [0]) == 1.0


@pytest.mark.real_model
@pytest.mark.shared_data
def test_noise_has_a_low_confidence_and_quiet_speech_does_not(
    real_tiny: object, shared_data: Path
) -> None:
    from moonshine_tune.audio.io import load_audio
    from moonshine_tune.core.progress import SilentProgress
    from moonshine_tune.registry.open import open_model

    noises = ("blanket/coffee_shop", "blanket/city_1", "speechbrain/noise1_0")
    clips = [load_audio(shared_data / "noise" / f"{name}.flac") for name in noises]
    speech = load_audio(shared_data / "ljspeech" / "audio" / "LJ001-0002.flac")
    opened = open_model("tiny", device="cpu", dtype="float32", progress=SilentProgress())
    transcriber = TorchTranscriber(opened.model, opened.limits)
    *made_up, spoken = transcriber.transcribe_timed([*clips, np.float32(0.01) * speech])
    assert all((text.confidence or 0.0) < 0.4 for text in made_up)
    assert (spoken.confidence or 0.0) > 0.8


@pytest.mark.real_model
@pytest.mark.shared_data
def test_words_are_where_their_energy_is(real_tiny: object, shared_data: Path) -> None:
    from benchmarks.transcription import word_limits

    from moonshine_tune.audio.io import load_audio
    from moonshine_tune.core.progress import SilentProgress
    from moonshine_tune.registry.open import open_model

    names = ("an253-fash-b", "an254-fash-b", "an251-fash-b")
    clips = [load_audio(shared_data / "an4" / "audio" / "train" / f"{n}.flac") for n in names]
    pause = np.zeros(8000, np.float32)
    limits, parts, position = [], [pause], len(pause)
    for clip in clips:
        first, stop = word_limits(clip)
        limits += [(position + first) / 16_000, (position + stop) / 16_000]
        parts += [clip, pause]
        position += len(clip) + len(pause)
    opened = open_model("tiny", device="cpu", dtype="float32", progress=SilentProgress())
    (timed,) = TorchTranscriber(opened.model, opened.limits).transcribe_timed(
        [np.concatenate(parts)]
    )
    moments = [moment for word in timed.words for moment in (word.start, word.end)]
    assert moments == pytest.approx(limits, abs=0.1)
