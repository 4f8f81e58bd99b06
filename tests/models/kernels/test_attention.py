"""Block attention and 32-bit attention give the results of transformers' kernels."""

from collections.abc import Callable

import pytest
import torch

import moonshine_tune.models.kernels.attention as attention
from moonshine_tune.audio.samples import Samples
from moonshine_tune.inference.batching import pad_clips
from moonshine_tune.models.base import EncoderStates, SpeechModel
from moonshine_tune.models.kernels.attention import WindowBlocks
from moonshine_tune.models.lora import adapter_parameters, inject_lora
from moonshine_tune.models.losses import FrozenHead, head_cross_entropy_sum, target_batch

pytestmark = pytest.mark.usefixtures("one_thread")

MakeClip = Callable[..., Samples]
# 50 frames per second: the longest clip is long enough for blocks, and no multiple of a block.
_SECONDS = (4.13, 0.3, 2.5, 4.0)


@pytest.fixture
def audio(make_clip: MakeClip) -> tuple[torch.Tensor, list[int]]:
    clips = [make_clip(seconds, seed) for seed, seconds in enumerate(_SECONDS)]
    return pad_clips(clips, torch.device("cpu"))


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The windows that were computed in blocks."""
    windows: list[tuple[int, int]] = []
    real = WindowBlocks.of

    def recording(before: int, after: int, *rest: object) -> WindowBlocks:
        windows.append((before, after))
        return real(before, after, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(WindowBlocks, "of", staticmethod(recording))
    return windows


def _without_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_LEAST_FRAMES", 10**9)


def _own_frames(states: EncoderStates) -> list[torch.Tensor]:
    return [row[:length] for row, length in zip(states.values, states.lengths, strict=True)]


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_blocks_give_the_same_states_as_full_attention(
    tiny_streaming: SpeechModel,
    audio: tuple[torch.Tensor, list[int]],
    blocks: list[tuple[int, int]],
    kernel: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tiny_streaming.module.set_attn_implementation(kernel)
    attention.use_block_attention(tiny_streaming.module)
    with torch.inference_mode():
        result = tiny_streaming.encode(*audio)
        # Both bounds of the published windows, (16, 4) and (16, 0), are exclusive.
        assert sorted(blocks) == [(15, 0), (15, 3)]
        _without_blocks(monkeypatch)
        expected = tiny_streaming.encode(*audio)
    assert len(blocks) == 2
    for mine, theirs in zip(_own_frames(result), _own_frames(expected), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_a_clip_in_blocks_equals_the_published_encoder(
    tiny_streaming: SpeechModel, make_clip: MakeClip, blocks: list[tuple[int, int]]
) -> None:
    clip = torch.from_numpy(make_clip(4.6))[None]
    with torch.inference_mode():
        result = tiny_streaming.encode(clip, [clip.shape[1]])
        theirs = tiny_streaming.encoder(clip, attention_mask=torch.ones_like(clip).long())
    assert blocks
    torch.testing.assert_close(result.values, theirs.last_hidden_state, rtol=1e-4, atol=1e-5)


def _gradients(
    model: SpeechModel, audio: tuple[torch.Tensor, list[int]]
) -> dict[str, torch.Tensor]:
    """Gradients of an adapter in all layers after one batch."""
    targets = target_batch([[5, 6, 7], [8], [9, 10], [11, 12]], "cpu")
    model.module.zero_grad()
    hidden = model.decoder_hidden(model.encode(*audio), targets.input_ids)
    loss = head_cross_entropy_sum(hidden, FrozenHead(model.head_weight), targets.targets)
    loss.backward()  # type: ignore[no-untyped-call]
    return {
        name: value.grad.clone()
        for name, value in adapter_parameters(model.module)
        if value.grad is not None
    }


@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_through_blocks(
    tiny_streaming: SpeechModel,
    audio: tuple[torch.Tensor, list[int]],
    recompute: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inject_lora(tiny_streaming, rank=2, sites="all", seed=1)
    if recompute:
        tiny_streaming.enable_gradient_checkpointing()
    tiny_streaming.module.train()
    result = _gradients(tiny_streaming, audio)
    _without_blocks(monkeypatch)
    expected = _gradients(tiny_streaming, audio)
    assert any(".encoder." in name for name in expected)
    assert result.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(result[name], gradient, rtol=1e-3, atol=1e-5)


def test_16_bits_train_through_32_bit_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU, if gradients are needed; inference stays in 16 bits."""
    dtypes: list[torch.dtype] = []

    def kernel(
        module: object, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
        mask: torch.Tensor | None, **options: object,
    ) -> tuple[torch.Tensor, None]:  # fmt: skip
        assert key.dtype == value.dtype == query.dtype
        assert mask is None or mask.dtype in (torch.bool, query.dtype)
        dtypes.append(query.dtype)
        return (query + key + value).transpose(1, 2), None

    attend = attention._wrapped(kernel)
    inputs = [torch.randn(1, 2, 3, 4).bfloat16().requires_grad_(True) for _ in range(3)]
    masks = (None, torch.ones(1, 1, 3, 3, dtype=torch.bool), torch.zeros(1, 1, 3, 3).bfloat16())
    for mask in masks:
        mixed, _ = attend(torch.nn.Identity(), *inputs, mask)
        assert mixed.dtype == torch.bfloat16
    with torch.inference_mode():
        attend(torch.nn.Identity(), *inputs, None)
    attend(torch.nn.Identity(), *[item.float() for item in inputs], None)
    assert dtypes == [torch.float32] * 3 + [torch.bfloat16, torch.float32]
