"""Our greedy decoding against transformers' `generate`, and the limits."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from moonshine_tune.audio.samples import Samples
from moonshine_tune.inference.batching import batches_by_length, pad_clips
from moonshine_tune.inference.greedy import GreedySession, greedy_tokens
from moonshine_tune.inference.transcribe import TorchTranscriber
from moonshine_tune.models.base import BOS_ID, EOS_ID, DecodeLimits, EncoderStates, SpeechModel

pytestmark = pytest.mark.usefixtures("one_thread")

_SECONDS = (1.1, 0.4, 2.3, 1.7)


def _encode(model: SpeechModel, clips: list[Samples]) -> EncoderStates:
    with torch.inference_mode():
        return model.encode(*pad_clips(clips, model.device))


def _generated(model: SpeechModel, clip: Samples, limit: int) -> list[int]:
    """The tokens of transformers for one clip, by its own encoder and its own loop."""
    usable = len(clip) if model.family == "v1" else len(clip) // 80 * 80
    audio = torch.from_numpy(clip[:usable])[None]
    with torch.inference_mode():
        output = model.module.generate(
            audio, attention_mask=torch.ones_like(audio).long(), max_new_tokens=limit,
            do_sample=False, num_beams=1, decoder_start_token_id=BOS_ID, eos_token_id=EOS_ID,
            pad_token_id=EOS_ID,
        )  # fmt: skip
    tokens: list[int] = output[0, 1:].tolist()
    return tokens[: tokens.index(EOS_ID)] if EOS_ID in tokens else tokens


@pytest.mark.parametrize("num_clips", [1, 2, 3, 4])
def test_tokens_equal_those_of_generate(
    tiny_model: SpeechModel, make_clip: Callable[..., Samples], num_clips: int
) -> None:
    clips = [make_clip(seconds, seed) for seed, seconds in enumerate(_SECONDS[:num_clips])]
    limits = [DecodeLimits().tokens(len(clip) / 16_000) for clip in clips]
    decoded = greedy_tokens(tiny_model, _encode(tiny_model, clips), limits)
    assert decoded == [
        _generated(tiny_model, clip, limit) for clip, limit in zip(clips, limits, strict=True)
    ]
    # A text of one repeated token would prove little.
    assert all(len(set(tokens)) > 1 for tokens in decoded)


def test_texts_that_end_equal_those_of_generate(
    overfitted: tuple[SpeechModel, list[Samples], list[str]],
) -> None:
    """Rows leave the batch at their end token, each at another step."""
    model, clips, texts = overfitted
    states = _encode(model, clips)
    decoded = greedy_tokens(model, states, [40] * len(clips))
    assert decoded == [_generated(model, clip, 40) for clip in clips]
    assert [model.tokenizer.decode(tokens) for tokens in decoded] == texts
    assert len({len(tokens) for tokens in decoded}) == len(texts)


def test_rows_that_leave_change_nothing_for_the_others(
    tiny_model: SpeechModel, make_clip: Callable[..., Samples]
) -> None:
    clips = [make_clip(seconds, seed) for seed, seconds in enumerate(_SECONDS)]
    states = _encode(tiny_model, clips)
    full = greedy_tokens(tiny_model, states, [12] * 4)
    assert all(len(tokens) == 12 for tokens in full)
    cut = greedy_tokens(tiny_model, states, [1, 12, 5, 3])
    assert cut == [full[0][:1], full[1], full[2][:5], full[3][:3]]


def test_each_clip_has_its_own_limit(
    tiny_model: SpeechModel, make_clip: Callable[..., Samples]
) -> None:
    clips = [make_clip(seconds, seed) for seed, seconds in enumerate(_SECONDS)]
    texts = TorchTranscriber(tiny_model, DecodeLimits(tokens_per_second=4)).transcribe(clips)
    longer = TorchTranscriber(tiny_model, DecodeLimits(tokens_per_second=8)).transcribe(clips)
    for text, more in zip(texts, longer, strict=True):
        assert more.startswith(text)
        assert len(more) > len(text)


def test_the_limit_follows_the_length_of_the_clip() -> None:
    limits = DecodeLimits()
    assert [limits.tokens(seconds) for seconds in (0.0, 0.1, 1.0, 10.0)] == [1, 1, 7, 65]
    assert DecodeLimits(tokens_per_second=13).tokens(10.0) == 130


def test_no_text_is_longer_than_the_decoder_has_positions(
    tiny_v1: SpeechModel, make_clip: Callable[..., Samples]
) -> None:
    tokens = greedy_tokens(tiny_v1, _encode(tiny_v1, [make_clip(1.0)]), [10_000])
    assert 0 < len(tokens[0]) <= tiny_v1.max_tokens == 96


def test_an_end_token_at_once_gives_an_empty_text(
    tiny_model: SpeechModel, make_clip: Callable[..., Samples], monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(session: GreedySession, tokens: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(len(tokens), tiny_model.vocabulary_size)
        logits[:, EOS_ID] = 1.0
        return logits

    monkeypatch.setattr(GreedySession, "step", silent)
    clips = [make_clip(0.5), make_clip(1.0)]
    assert TorchTranscriber(tiny_model, DecodeLimits()).transcribe(clips) == ["", ""]


def test_groups_hold_every_clip_once_and_stay_within_their_seconds() -> None:
    seconds = np.random.default_rng(1).uniform(0.2, 30, size=200).tolist()
    groups = batches_by_length(seconds, 60.0)
    assert sorted(index for group in groups for index in group) == list(range(200))
    assert all(max(seconds[i] for i in group) * len(group) <= 60.0 for group in groups)
    assert len(groups) < 100


def test_groups_by_length_without_padding() -> None:
    """Decoding pads no clip beyond its span, so a short clip counts with its own length."""
    seconds = [30.0, *[1.0] * 20]
    assert len(batches_by_length(seconds, 60.0, padded=False)) == 1
    groups = batches_by_length([*seconds, 11.0], 60.0, padded=False)
    assert [sum([*seconds, 11.0][i] for i in group) for group in groups] == [31.0, 30.0]


def test_small_models_take_more_audio_at_a_time(tiny_model: SpeechModel) -> None:
    """Until keys and values of all frames take a quarter of a gigabyte."""
    model = tiny_model
    frames = TorchTranscriber(model, DecodeLimits()).batch_s * 16_000 / model.samples_per_frame
    states = EncoderStates(torch.zeros(1, 10, model.encoder.config.hidden_size), (10,))
    session = GreedySession(model, states, 1)
    kept = sum(part.nbytes for span in session._spans for pair in span.cross for part in pair)
    assert frames * kept / 10 == pytest.approx(256e6)


def test_a_clip_longer_than_a_batch_goes_alone() -> None:
    assert batches_by_length([200.0, 1.0, 300.0], 120.0) == [[1], [0], [2]]
    assert batches_by_length([], 120.0) == []
