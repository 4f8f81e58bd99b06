"""Both families: results of a clip do not depend on the other clips of its batch."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from moonshine_tune.audio.samples import Samples
from moonshine_tune.inference.batching import fit_clip, pad_clips
from moonshine_tune.inference.transcribe import TorchTranscriber
from moonshine_tune.models.base import DecodeLimits, EncoderStates, SpeechModel
from moonshine_tune.models.losses import cross_entropy_sum, target_batch

pytestmark = pytest.mark.usefixtures("one_thread")

MakeClip = Callable[..., Samples]
# The shortest is padded to eleven times its length; no length is a multiple of a frame.
_SECONDS = (0.31, 2.03, 3.42, 0.97)


@pytest.fixture
def clips(make_clip: MakeClip) -> list[Samples]:
    return [make_clip(seconds, seed) for seed, seconds in enumerate(_SECONDS)]


def _encode(model: SpeechModel, clips: list[Samples]) -> EncoderStates:
    with torch.inference_mode():
        return model.encode(*pad_clips(clips, model.device))


def _distance(first: torch.Tensor, second: torch.Tensor) -> float:
    return float((first - second).norm() / second.norm())


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_encoder_states_do_not_depend_on_the_batch(
    tiny_model: SpeechModel, clips: list[Samples], attention: str
) -> None:
    tiny_model.module.set_attn_implementation(attention)
    together = _encode(tiny_model, clips)
    for row, clip in enumerate(clips):
        alone = _encode(tiny_model, [clip])
        length = together.lengths[row]
        assert alone.values.shape[1] == length
        assert _distance(together.values[row, :length], alone.values[0]) < 1e-5


def test_the_published_v1_encoder_would_fail_this(
    tiny_v1: SpeechModel, clips: list[Samples]
) -> None:
    """The test above is not vacuous: padding changes transformers' own states by percents."""
    audio, counts = pad_clips(clips, "cpu")  # type: ignore[arg-type]
    mask = torch.arange(audio.shape[1])[None] < torch.tensor(counts)[:, None]
    with torch.inference_mode():
        theirs = tiny_v1.encoder(audio, attention_mask=mask.long()).last_hidden_state
        alone = tiny_v1.encoder(
            audio[:1, : counts[0]], attention_mask=torch.ones(1, counts[0])
        ).last_hidden_state
    assert _distance(theirs[0, : alone.shape[1]], alone[0]) > 0.01


@pytest.mark.parametrize("seconds", [0.2, 0.75, 3.0])
def test_a_clip_alone_equals_the_published_encoder(
    tiny_model: SpeechModel, make_clip: MakeClip, seconds: float
) -> None:
    audio = torch.from_numpy(make_clip(seconds))[None]
    with torch.inference_mode():
        theirs = tiny_model.encoder(audio, attention_mask=torch.ones_like(audio).long())
    ours = _encode(tiny_model, [make_clip(seconds)])
    assert ours.values.shape == theirs.last_hidden_state.shape
    torch.testing.assert_close(ours.values, theirs.last_hidden_state, rtol=1e-5, atol=1e-5)
    assert ours.mask() is None


def test_decoder_logits_equal_the_published_forward(
    tiny_model: SpeechModel, make_clip: MakeClip
) -> None:
    audio = torch.from_numpy(make_clip(1.2))[None]
    ids = torch.tensor([[1, *tiny_model.tokenizer.encode("seven two")]])
    with torch.inference_mode():
        theirs = tiny_model.module(
            input_values=audio, attention_mask=torch.ones_like(audio).long(), decoder_input_ids=ids
        ).logits
    ours = tiny_model.decoder_logits(_encode(tiny_model, [make_clip(1.2)]), ids)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_encoder_states_are_not_changed_by_the_decoder(
    tiny_model: SpeechModel, make_clip: MakeClip
) -> None:
    """The streaming decoder adds its positions in place; stored states must not change."""
    states = _encode(tiny_model, [make_clip(1.0)])
    before = states.values.clone()
    ids = torch.tensor([[1, 270]])
    first = tiny_model.decoder_logits(states, ids)
    assert torch.equal(states.values, before)
    assert torch.equal(tiny_model.decoder_logits(states, ids), first)


def test_the_loss_does_not_depend_on_the_batch(
    tiny_model: SpeechModel, clips: list[Samples]
) -> None:
    texts = [
        tiny_model.tokenizer.encode(text) for text in ("a", "two cities", "it was", "far, far")
    ]

    def loss(rows: list[int]) -> float:
        targets = target_batch([texts[row] for row in rows], "cpu")
        states = _encode(tiny_model, [clips[row] for row in rows])
        with torch.inference_mode():
            logits = tiny_model.decoder_logits(states, targets.input_ids)
            return float(cross_entropy_sum(logits, targets.targets))

    alone = sum(loss([row]) for row in range(len(clips)))
    assert loss([0, 1, 2, 3]) == pytest.approx(alone, rel=1e-5)
    assert loss([2, 0]) == pytest.approx(loss([0]) + loss([2]), rel=1e-5)


def test_transcripts_do_not_depend_on_the_batch(
    tiny_model: SpeechModel, clips: list[Samples]
) -> None:
    alone = [TorchTranscriber(tiny_model, DecodeLimits()).transcribe([clip])[0] for clip in clips]
    assert TorchTranscriber(tiny_model, DecodeLimits()).transcribe(clips) == alone
    assert TorchTranscriber(tiny_model, DecodeLimits()).transcribe(clips[::-1]) == alone[::-1]
    # Four different transcripts, so that the comparison means something.
    assert len(set(alone)) == 4


def test_padding_that_is_not_silent_changes_nothing(
    tiny_model: SpeechModel, clips: list[Samples]
) -> None:
    """Only the counts define where a clip ends; samples past them are not used."""
    audio, counts = pad_clips(clips[:2], tiny_model.device)
    quiet = tiny_model.encode(audio, counts)
    audio[0, counts[0] :] = 0.5
    loud = tiny_model.encode(audio, counts)
    length = quiet.lengths[0]
    assert _distance(loud.values[0, :length], quiet.values[0, :length]) < 1e-5


def test_frame_counts_are_those_of_the_encoder(tiny_model: SpeechModel) -> None:
    least, spacing = tiny_model.min_samples, tiny_model.samples_per_frame
    around = [least + k * spacing + d for k in (0, 1, 2, 7, 50) for d in (-1, 0, 1, 79, 80)]
    odd = np.random.default_rng(3).integers(least, 40_000, size=25).tolist()
    for count in {value for value in [*around, *odd] if value >= least}:
        states = tiny_model.encode(torch.zeros(1, count), [count])
        assert states.values.shape[1] == tiny_model.frame_count(count), count
        assert states.lengths == (tiny_model.frame_count(count),)


def test_the_shortest_clip_gives_one_frame(tiny_model: SpeechModel) -> None:
    least = tiny_model.min_samples
    assert (tiny_model.frame_count(least), tiny_model.frame_count(least - 1)) == (1, 0)
    long = 160_000
    per_frame = (tiny_model.frame_count(2 * long) - tiny_model.frame_count(long)) / long
    assert per_frame == pytest.approx(1 / tiny_model.samples_per_frame, rel=0.01)


@pytest.mark.parametrize("count", [0, 1, 79, 500])
def test_clips_shorter_than_a_frame_are_padded_with_silence(
    tiny_model: SpeechModel, make_clip: MakeClip, count: int
) -> None:
    short, long = make_clip(1.0)[:count], make_clip(1.5, 4)
    assert len(fit_clip(tiny_model, short)) >= tiny_model.min_samples
    alone = TorchTranscriber(tiny_model, DecodeLimits()).transcribe([short])
    together = TorchTranscriber(tiny_model, DecodeLimits()).transcribe([long, short])
    assert together == [*TorchTranscriber(tiny_model, DecodeLimits()).transcribe([long]), *alone]


def test_selecting_rows_trims_to_the_longest_of_them(
    tiny_model: SpeechModel, clips: list[Samples]
) -> None:
    states = _encode(tiny_model, clips)
    chosen = states.select([0, 3])
    assert chosen.lengths == (states.lengths[0], states.lengths[3])
    assert chosen.values.shape[1] == states.lengths[3]
    assert torch.equal(chosen.values[1], states.values[3, : states.lengths[3]])
