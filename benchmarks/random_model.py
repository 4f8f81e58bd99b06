"""Models of the published shapes with random weights, as `save_pretrained` folders.

Norms and biases differ from each other: equal tensors cannot be told apart by their content.
"""

from pathlib import Path

import torch

from moonshine_tune.core.hardware import cache_root
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.models.base import SpeechModel
from moonshine_tune.models.checkpoint import load_tokenizer
from moonshine_tune.registry.published_configs import model_from_config, published_config
from moonshine_tune.registry.resolve import resolve_model


def random_model(name: str, *, seed: int = 0) -> SpeechModel:
    """A model of a catalog shape with the real tokenizer, in 32 bits on the CPU."""
    tiny = resolve_model("tiny", cache=cache_root(), sources=("cache", "wheel"),
                         progress=SilentProgress())  # fmt: skip
    model = model_from_config(published_config(name), seed=seed)
    model.tokenizer = load_tokenizer(tiny.checkpoint_dir)
    chance = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, value in model.module.named_parameters():
            if value.dim() == 1:
                value.add_(0.2 * torch.randn(value.shape, generator=chance))
            elif key.endswith(("conv1.weight", "conv2.weight", "embedder.linear.weight")):
                value.mul_(3.0)
    return model


def save_random_model(name: str, folder: Path, *, seed: int = 0) -> SpeechModel:
    """Write such a model as a checkpoint folder with its tokenizer; returns the model."""
    model = random_model(name, seed=seed)
    model.module.save_pretrained(folder)
    model.tokenizer.raw.save(str(folder / "tokenizer.json"))
    return model
