"""Stored encoder states equal those of the encoder, within the memory budget."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from moonshine_tune.audio.samples import Samples
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.corpus.manifest import Utterance
from moonshine_tune.corpus.normalizers import normalizer_for
from moonshine_tune.inference import scored_set as scored_set_module
from moonshine_tune.inference.encoder_cache import StateSource
from moonshine_tune.inference.scored_set import ScoredSet, transcribe_source
from moonshine_tune.inference.transcribe import TorchTranscriber
from moonshine_tune.models.base import DecodeLimits, EncoderStates, SpeechModel
from moonshine_tune.models.lora import inject_lora

pytestmark = pytest.mark.usefixtures("one_thread")

_SECONDS = (0.7, 2.1, 0.4, 1.3, 0.02)


@pytest.fixture
def clips(make_clip: Callable[..., Samples]) -> list[Samples]:
    """The last one is shorter than a frame of either family."""
    return [make_clip(seconds, seed) for seed, seconds in enumerate(_SECONDS)]


def _source(
    model: SpeechModel, clips: Sequence[Samples], budget_mb: int, *, trains_encoder: bool = False
) -> StateSource:
    dataset = SimpleNamespace(seconds=_SECONDS, load=lambda index: clips[index])
    return StateSource(model, dataset, budget_mb=budget_mb, trains_encoder=trains_encoder)


def _close(first: EncoderStates, second: EncoderStates) -> bool:
    if first.lengths != second.lengths:
        return False
    return all(
        torch.allclose(first.values[row, :length], second.values[row, :length], atol=1e-5)
        for row, length in enumerate(first.lengths)
    )


@pytest.mark.parametrize("trains_encoder", [False, True])
def test_stored_states_are_those_of_the_encoder(
    tiny_model: SpeechModel, clips: list[Samples], trains_encoder: bool
) -> None:
    stored = _source(tiny_model, clips, 100, trains_encoder=trains_encoder)
    fresh = _source(tiny_model, clips, 0)
    assert stored.prepare(range(5), SilentProgress(), "encoding") == 5
    assert fresh.prepare(range(5), SilentProgress(), "encoding") == 0
    assert (stored.stores, fresh.stores) == (True, False)
    for rows in ([0], [1, 2], [3, 0, 4], [0, 1, 2, 3, 4]):
        with torch.no_grad():
            assert _close(stored.batch(rows), fresh.batch(rows))


@pytest.mark.parametrize("trains_encoder", [False, True])
def test_clips_are_read_once_where_states_are_stored(
    tiny_model: SpeechModel, clips: list[Samples], trains_encoder: bool
) -> None:
    read: list[int] = []

    def load(index: int) -> Samples:
        read.append(index)
        return clips[index]

    dataset = SimpleNamespace(seconds=_SECONDS, load=load)
    source = StateSource(tiny_model, dataset, budget_mb=100, trains_encoder=trains_encoder)
    source.prepare([0, 2, 3], SilentProgress(), "encoding")
    assert sorted(read) == [0, 2, 3]
    source.batch([0, 3])
    source.prepare([0, 2, 3], SilentProgress(), "encoding")
    assert len(read) == 3
    # A clip that is not stored is encoded when it is needed.
    source.batch([0, 1])
    assert sorted(read[3:]) == [0, 1]


def test_the_budget_is_kept(tiny_model: SpeechModel, make_clip: Callable[..., Samples]) -> None:
    """60 clips of 10 s; what does not fit is encoded when it is needed."""
    clip = make_clip(10.0)
    dataset = SimpleNamespace(seconds=[10.0] * 60, load=lambda _index: clip)
    source = StateSource(tiny_model, dataset, budget_mb=1)
    stored = source.prepare(range(60), SilentProgress(), "encoding")
    frames = tiny_model.frame_count(len(clip))
    bytes_each = 4 * frames * tiny_model.encode(torch.zeros(1, 16_000), [16_000]).values.shape[2]
    assert source.stored_bytes == stored * bytes_each
    assert 0 < stored < 60
    # The budget is looked at before each batch of a minute.
    assert source.stored_bytes < 1_000_000 + 6 * bytes_each
    assert _close(source.batch([0]), source.batch([59]))


def test_a_frozen_encoder_gives_no_graph_and_a_trained_one_does(
    tiny_model: SpeechModel, clips: list[Samples]
) -> None:
    tiny_model.encoder.requires_grad_(True)
    for trains_encoder in (False, True):
        stored = _source(tiny_model, clips, 100, trains_encoder=trains_encoder)
        stored.prepare([0], SilentProgress(), "encoding")
        for row in (0, 1):
            assert stored.batch([row]).values.requires_grad == trains_encoder
    assert _source(tiny_model, clips, 0, trains_encoder=True).batch([0]).values.requires_grad


def test_a_trained_encoder_learns_the_same_from_stored_features(
    tiny_model: SpeechModel, clips: list[Samples]
) -> None:
    """Gradients of its layers, and states that follow their weights."""
    layers = tiny_model.encoder.layers.requires_grad_(True)
    rows = [1, 0, 3]
    gradients = []
    for budget in (0, 100):
        source = _source(tiny_model, clips, budget, trains_encoder=True)
        source.prepare(rows, SilentProgress(), "encoding")
        states = source.batch(rows)
        own = [states.values[row, :length] for row, length in enumerate(states.lengths)]
        loss = torch.cat(own).square().mean()
        gradients.append(torch.autograd.grad(loss, list(layers.parameters()), allow_unused=True))
    for fresh, stored in zip(*gradients, strict=True):
        assert (fresh is None) == (stored is None)
        assert fresh is None or torch.allclose(fresh, stored, atol=1e-5)
    with torch.no_grad():
        before = source.batch(rows)
        layers[0].self_attn.v_proj.weight.mul_(1.5)
        assert not _close(source.batch(rows), before)
        assert _close(source.batch(rows), _source(tiny_model, clips, 0).batch(rows))


# --- held-out sets on top of it


@pytest.mark.parametrize("trains_encoder", [False, True])
def test_a_score_encodes_a_few_clips_at_a_time_and_keeps_no_graph(
    tiny_model: SpeechModel,
    clips: list[Samples],
    trains_encoder: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inject_lora(tiny_model, rank=2, sites="all")
    tiny_model.module.eval()
    source = _source(tiny_model, clips, 100, trains_encoder=trains_encoder)
    source.prepare(range(5), SilentProgress(), "encoding")
    monkeypatch.setattr(scored_set_module, "encode_batch_s", lambda device: 1.5)
    states = scored_set_module._states(tiny_model, source, [4, 2, 0, 3, 1])
    assert not states.values.requires_grad
    with torch.no_grad():
        assert _close(states, source.batch([4, 2, 0, 3, 1]))


def test_transcripts_do_not_depend_on_how_states_are_kept(
    tiny_model: SpeechModel, clips: list[Samples]
) -> None:
    alone = [TorchTranscriber(tiny_model, DecodeLimits()).transcribe([clip])[0] for clip in clips]
    for budget in (0, 100):
        source = _source(tiny_model, clips, budget)
        source.prepare(range(5), SilentProgress(), "encoding")
        with torch.no_grad():
            texts = transcribe_source(
                tiny_model, source, DecodeLimits(), SilentProgress(), "scoring"
            )
        assert texts == alone


def test_lines_without_text_are_scored_against_the_first_hypothesis(
    tiny_model: SpeechModel, build_model: Callable[..., SpeechModel], clips: list[Samples],
) -> None:  # fmt: skip
    utterances = [
        Utterance(f"u{i}", Path(__file__), text="far" if i == 1 else None) for i in range(5)
    ]
    canary = ScoredSet(
        "canary", utterances, _source(tiny_model, clips, 100), normalizer_for("basic-1"),
        DecodeLimits(),
    )  # fmt: skip
    first = canary.score(tiny_model, SilentProgress())
    assert [item.id for item in first.scored] == [f"u{i}" for i in range(5)]
    wrong = {item.id for item in first.scored if item.words.errors}
    assert wrong == {"u1"}
    second = canary.score(build_model(tiny_model.family, seed=5), SilentProgress())
    assert [item.reference for item in second.scored] == [item.reference for item in first.scored]
    assert second.score.wer > first.score.wer
