"""What each kernel saves inside transformers' layers: a step with and without it, alternating.

    python -m benchmarks.own_parts [--models streaming-medium tiny] [--rounds 8]

Models of the published shapes with random weights, eight clips, LoRA of rank 8; short phrases as in
AN4 and sentences as in LibriSpeech. Prints a table: milliseconds with all kernels, and the median
ratio of the rounds without each.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from unittest import mock

import torch

import moonshine_tune.models.kernels.attention as attention
import moonshine_tune.models.kernels.cross_attention as cross_attention
import moonshine_tune.models.kernels.frozen_linear as frozen_linear
import moonshine_tune.models.kernels.lora_linear as lora_linear
from moonshine_tune.core.environment import apply_environment_defaults
from moonshine_tune.models.base import EncoderStates
from moonshine_tune.models.lora import inject_lora
from moonshine_tune.models.losses import FrozenHead, head_cross_entropy_sum, target_batch
from moonshine_tune.registry.published_configs import model_from_config, published_config

_CLIPS = 8
# Module, name, and the value that switches the kernel off.
PARTS = {
    "oneDNN": (frozen_linear, "is_for_onednn", lambda weight: False),
    "frames read directly": (cross_attention, "_MOST_SHARE", 0.0),
    "windows in blocks": (attention, "_LEAST_FRAMES", 10**9),
    "adapters in one function": (lora_linear, "plain_adapter", lambda layer: None),
}


@dataclass(frozen=True)
class Case:
    """A step: seconds of a clip, its tokens, and the adapter's target modules."""

    name: str
    clip_s: float
    tokens: int
    sites: str
    dtype: torch.dtype = torch.float32

    @property
    def encodes(self) -> bool:
        """Whether the step runs the encoder."""
        return self.sites == "qv"


CASES = (
    Case("phrases, stored states", 3.0, 8, "decoder-self-attention"),
    Case("phrases, stored states, bfloat16", 3.0, 8, "decoder-self-attention", torch.bfloat16),
    Case("phrases, stored states, preset's sites", 3.0, 8, "decoder"),
    Case("sentences, stored states", 8.0, 24, "decoder"),
    Case("sentences, encoder too", 8.0, 24, "qv"),
)


def without(part: str) -> AbstractContextManager[object]:
    """Switch a kernel off inside the block; none for an empty name."""
    return mock.patch.object(*PARTS[part]) if part else nullcontext()


def make_step(name: str, case: Case) -> Callable[[], None]:
    """A forward and backward pass of a case."""
    model = model_from_config(published_config(name), dtype=case.dtype)
    inject_lora(model, rank=8, sites=case.sites)
    model.module.train()
    samples = round(case.clip_s * 16_000)
    frames, width = model.frame_count(samples), int(model.encoder.config.hidden_size)
    states = EncoderStates(
        torch.randn(_CLIPS, frames, width).to(case.dtype), (frames - 3,) + (frames,) * (_CLIPS - 1)
    )
    audio, counts = 0.1 * torch.randn(_CLIPS, samples), [samples] * _CLIPS
    targets = target_batch([list(range(300, 300 + case.tokens))] * _CLIPS, "cpu")
    head = FrozenHead(model.head_weight)

    def step() -> None:
        encoded = model.encode(audio, counts) if case.encodes else states
        hidden = model.decoder_hidden(encoded, targets.input_ids)
        loss = head_cross_entropy_sum(hidden, head, targets.targets)
        loss.backward()  # type: ignore[no-untyped-call]

    return step


def measure(step: Callable[[], None], rounds: int) -> tuple[float, dict[str, float]]:
    """Seconds with all kernels, and for each kernel the ratio of the time without it."""
    names = ("", *PARTS)
    taken: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + 1):
        for name in names:
            with without(name):
                start_time = time.perf_counter()
                step()
            if number:
                taken[name].append(time.perf_counter() - start_time)
    ratios = {
        part: statistics.median(b / a for a, b in zip(taken[""], taken[part], strict=True))
        for part in PARTS
    }
    return statistics.median(taken[""]), ratios


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--models", nargs="+", default=["streaming-medium", "streaming-tiny", "tiny"]
    )
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()
    apply_environment_defaults()
    print(f"| a step of eight clips | ms | {' | '.join(f'without {part}' for part in PARTS)} |")
    print("|---|---|" + "---|" * len(PARTS))
    for name in options.models:
        for case in CASES:
            seconds, ratios = measure(make_step(name, case), options.rounds)
            row = " | ".join(f"{ratios[part]:.2f} ×" for part in PARTS)
            print(f"| {name}: {case.name} | {seconds * 1000:.0f} | {row} |", flush=True)


if __name__ == "__main__":
    main()
