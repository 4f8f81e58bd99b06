"""Decoding from drafts writes what greedy search writes, whatever the drafts are."""

from collections.abc import Callable

import pytest
import torch

from moonshine_tune.audio.samples import Samples
from moonshine_tune.core.device import counted_as
from moonshine_tune.inference import drafts as drafts_module
from moonshine_tune.inference.batching import pad_clips
from moonshine_tune.inference.drafts import DraftPosition, DraftStore, greedy_tokens_by_drafts
from moonshine_tune.inference.greedy import greedy_tokens
from moonshine_tune.inference.transcribe import TorchTranscriber
from moonshine_tune.models.base import DecodeLimits, EncoderStates, SpeechModel

pytestmark = pytest.mark.usefixtures("one_thread")

Tokens = list[int]
_CHANGES: dict[str, Callable[[Tokens], Tokens]] = {
    "the same": lambda tokens: tokens,
    "cut off": lambda tokens: tokens[: len(tokens) // 2],
    "too long": lambda tokens: [*tokens, 5, 6, 7] * 3,
    "a token in the place of another": lambda tokens: [*tokens[:2], 9, *tokens[3:]],
    "wrong at first": lambda tokens: [9, *tokens[1:]],
    "a token too many": lambda tokens: [*tokens[:3], 9, *tokens[3:]],
    "a token missing": lambda tokens: [*tokens[:3], *tokens[4:]],
    "wrong everywhere": lambda tokens: [(token + 1) % 90 + 3 for token in tokens],
    "empty": lambda tokens: [],
}


@pytest.fixture
def states(tiny_model: SpeechModel, make_clip: Callable[..., Samples]) -> EncoderStates:
    """Of clips of different lengths, padded."""
    seconds = (1.1, 0.4, 2.3, 1.7, 0.8, 2.0)
    clips = [make_clip(length, seed) for seed, length in enumerate(seconds)]
    with torch.inference_mode():
        return tiny_model.encode(*pad_clips(clips, tiny_model.device))


_LIMITS = [12, 7, 20, 1, 15, 20]


@pytest.mark.parametrize("change", _CHANGES.values(), ids=_CHANGES)
@pytest.mark.parametrize("least_kept", [0.0, 0.6])
def test_drafts_change_no_token(
    tiny_model: SpeechModel,
    states: EncoderStates,
    change: Callable[[Tokens], Tokens],
    least_kept: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where drafts are used that do not pay."""
    monkeypatch.setattr(drafts_module, "_LEAST_KEPT", least_kept)
    expected = greedy_tokens(tiny_model, states, _LIMITS)
    all_changed = [change(tokens) for tokens in expected]
    assert greedy_tokens_by_drafts(tiny_model, states, _LIMITS, all_changed) == expected
    some = [change(own) if row % 2 else own for row, own in enumerate(expected)]
    assert greedy_tokens_by_drafts(tiny_model, states, _LIMITS, some) == expected


@pytest.mark.parametrize("change", _CHANGES.values(), ids=_CHANGES)
def test_drafts_change_no_text_that_ends(
    overfitted: tuple[SpeechModel, list[Samples], list[str]],
    change: Callable[[Tokens], Tokens],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Texts leave the batch at their end token, and a draft may go on behind it."""
    monkeypatch.setattr(drafts_module, "_LEAST_KEPT", 0.0)
    model, clips, texts = overfitted
    with torch.inference_mode():
        states = model.encode(*pad_clips(clips, model.device))
    limits = [40] * len(clips)
    expected = greedy_tokens(model, states, limits)
    changed = [change(tokens) for tokens in expected]
    assert greedy_tokens_by_drafts(model, states, limits, changed) == expected
    assert [model.tokenizer.decode(tokens) for tokens in expected] == texts


def test_drafts_change_nothing_where_shapes_cost(
    tiny_model: SpeechModel, states: EncoderStates
) -> None:
    """On the code path of Apple's GPU, which pads rows, texts and frames to a few sizes."""
    expected = greedy_tokens(tiny_model, states, _LIMITS)
    changed = [_CHANGES["a token too many"](tokens) for tokens in expected]
    with counted_as("mps"):
        assert greedy_tokens_by_drafts(tiny_model, states, _LIMITS, changed) == expected


def _passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens of each decoder pass after the verification."""
    counts: list[int] = []
    real = drafts_module.DraftSession.advance

    def advance(session: object, blocks: list[list[int]]) -> list[list[int]]:
        counts.append(sum(map(len, blocks)))
        return real(session, blocks)  # type: ignore[arg-type]

    monkeypatch.setattr(drafts_module.DraftSession, "advance", advance)
    return counts


def test_a_draft_that_is_right_needs_no_step(
    tiny_model: SpeechModel, states: EncoderStates, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, passes = greedy_tokens(tiny_model, states, _LIMITS), _passes(monkeypatch)
    monkeypatch.setattr(drafts_module, "greedy_tokens", None)
    assert greedy_tokens_by_drafts(tiny_model, states, _LIMITS, expected) == expected
    assert passes == []


def test_a_text_meets_its_draft_again_after_a_difference(
    tiny_model: SpeechModel, states: EncoderStates, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, passes = greedy_tokens(tiny_model, states, [20] * 6), _passes(monkeypatch)
    changed = [_CHANGES["a token in the place of another"](expected[0]), *expected[1:]]
    assert greedy_tokens_by_drafts(tiny_model, states, [20] * 6, changed) == expected
    # Fewer than one pass for each of the 17 tokens that are left.
    assert 0 < len(passes) <= 6


def test_drafts_that_do_not_pay_are_dropped_by_count(
    tiny_model: SpeechModel, states: EncoderStates, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, passes = greedy_tokens(tiny_model, states, [20] * 6), _passes(monkeypatch)
    verified: list[int] = []
    real = drafts_module._chosen_after

    def counted(model: object, states: object, own: list[Tokens]) -> list[Tokens]:
        verified.append(len(own))
        return real(model, states, own)  # type: ignore[arg-type]

    monkeypatch.setattr(drafts_module, "_chosen_after", counted)
    wrong = [_CHANGES["wrong everywhere"](tokens) for tokens in expected]
    assert greedy_tokens_by_drafts(tiny_model, states, [20] * 6, wrong) == expected
    assert passes == []
    assert len(verified) == 1
    assert verified[0] < 6


def test_proposals_shrink_where_nothing_is_kept() -> None:
    position = DraftPosition([10, 11, 12, 13, 14, 15, 16, 17])
    sizes = []
    for token in (50, 51, 52):
        position.follow([token], 0)
        sizes.append(len(position.proposal(9)))
    assert sizes == [2, 1, 0]
    # The text meets the draft: its rest is next.
    position.follow([15], 0)
    assert list(position.proposal(9)) == [16, 17]
    assert list(position.proposal(1)) == [16]
    assert list(position.proposal(-1)) == []


def test_a_store_gives_each_clip_its_own_draft(
    tiny_model: SpeechModel, make_clip: Callable[..., Samples], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `evaluate` has it: the base first, then the adapted model."""
    clips = [make_clip(1.0, 1), make_clip(2.0, 2), make_clip(0.7, 3)]
    expected = TorchTranscriber(tiny_model, DecodeLimits()).transcribe(clips)
    store = DraftStore()
    assert TorchTranscriber(tiny_model, DecodeLimits(), store).transcribe(clips) == expected
    monkeypatch.setattr(drafts_module, "greedy_tokens", None)
    turned = clips[::-1]
    assert TorchTranscriber(tiny_model, DecodeLimits(), store).transcribe(turned) == expected[::-1]
    assert store.of([make_clip(1.0, 9)]) == [()]
