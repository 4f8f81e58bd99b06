"""Would stored cross-attention keys and values pay? Their share of a step against their size.

    python -m benchmarks.cross_kv [--model medium] [--clips 4] [--clip-s 10] [--tokens 40]

A model of the exact shape with random weights takes decoder steps from stored encoder states. The
keys and values of every layer are computed alone, as a step does; what that takes is the most that
storing them could save. Prints one line of JSON.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

import moonshine_tune.models.kernels.cross_attention as cross_attention
from moonshine_tune.models.base import EncoderStates
from moonshine_tune.models.lora import inject_lora
from moonshine_tune.models.losses import FrozenHead, head_cross_entropy_sum, target_batch
from moonshine_tune.registry.published_configs import model_from_config, published_config

_ROUNDS = 5


def seconds(work: Callable[[], object]) -> float:
    """Median of several rounds, after one to warm up."""
    found = []
    for _ in range(_ROUNDS + 1):
        begun = time.perf_counter()
        work()
        found.append(time.perf_counter() - begun)
    return statistics.median(found[1:])


def measure(name: str, clips: int, clip_s: float, tokens: int) -> dict[str, Any]:
    """Times and sizes of one model."""
    # A step that makes keys and values, as one does that reads frames directly no more.
    cross_attention._MOST_SHARE = 0.0
    model = model_from_config(published_config(name))
    # The only sites that leave cross-attention's keys and values as they are.
    inject_lora(model, rank=8, sites="decoder-self-attention")
    width = int(model.encoder.config.hidden_size)
    frames = model.frame_count(round(clip_s * 16_000))
    states = EncoderStates(torch.randn(clips, frames, width), (frames,) * clips)
    targets = target_batch([list(range(300, 300 + tokens))] * clips, "cpu")

    def step() -> None:
        hidden = model.decoder_hidden(states, targets.input_ids)
        loss = head_cross_entropy_sum(hidden, FrozenHead(model.head_weight), targets.targets)
        loss.backward()  # type: ignore[no-untyped-call]

    def keys_and_values() -> None:
        with torch.no_grad():
            read = model.attended_states(states)
            for layer in model.decoder.layers:
                layer.encoder_attn.k_proj(read)
                layer.encoder_attn.v_proj(read)

    first = model.decoder.layers[0].encoder_attn
    each = first.k_proj.out_features + first.v_proj.out_features
    numbers = len(model.decoder.layers) * each
    whole, part = seconds(step), seconds(keys_and_values)
    rate = frames / clip_s
    return {
        "model": name,
        "step_s": round(whole, 3),
        "keys_and_values_s": round(part, 3),
        "share_of_step": round(part / whole, 3),
        "states_mb_per_hour_16_bit": round(width * rate * 2 * 3600 / 1e6),
        "keys_and_values_mb_per_hour_16_bit": round(numbers * rate * 2 * 3600 / 1e6),
        "times_larger": round(numbers / width, 1),
    }


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="medium")
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--clip-s", type=float, default=10.0)
    parser.add_argument("--tokens", type=int, default=40)
    options = parser.parse_args()
    print(json.dumps(measure(options.model, options.clips, options.clip_s, options.tokens)))


if __name__ == "__main__":
    main()
