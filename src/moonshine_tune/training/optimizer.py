"""AdamW over the adapter's matrices: parameter groups and the learning rate of each step."""

import math
from typing import Any

import torch
from torch import Tensor

from moonshine_tune.config.settings import TrainSettings
from moonshine_tune.core.flat_adamw import adamw
from moonshine_tune.models.base import SpeechModel
from moonshine_tune.models.lora import adapter_parameters


def learning_rate_share(step: int, *, steps: int, warmup_share: float, final_share: float) -> float:
    """Share of the peak rate at `step` (from 0): linear warm-up, then cosine to `final_share`."""
    warmup = round(steps * warmup_share)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(steps - warmup, 1)
    return final_share + (1 - final_share) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def build_optimizer(model: SpeechModel, train: TrainSettings) -> torch.optim.AdamW:
    """AdamW with one group per peak rate: the encoder's, and B's apart from A's for LoRA+."""
    groups: dict[float, list[Tensor]] = {}
    for name, value in adapter_parameters(model.module):
        rate = train.encoder_learning_rate if ".encoder." in name else train.learning_rate
        if ".lora_B." in name:
            rate *= train.lora_plus_ratio
        groups.setdefault(rate, []).append(value)
    return adamw(
        [
            {"params": values, "lr": rate, "peak": rate, "weight_decay": train.weight_decay}
            for rate, values in groups.items()
        ],
        model.device,
    )


def set_learning_rate(optimizer: Any, step: int, train: TrainSettings) -> float:
    """Set the rate of every group for `step` (from 0); returns that of the decoder's matrices."""
    share = learning_rate_share(
        step,
        steps=train.steps,
        warmup_share=train.warmup_share,
        final_share=train.final_rate_share,
    )
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * share
    return train.learning_rate * share
