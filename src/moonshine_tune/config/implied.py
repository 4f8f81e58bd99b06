"""Settings that follow from others, where nobody has set them."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from moonshine_tune.config.settings import RunSettings
from moonshine_tune.core.nested import flatten

FULL_RATES = {"train.learning_rate": 5e-5, "train.encoder_learning_rate": 2e-5}
"""Peak rates of full fine-tuning, unless others are set: each step moves every weight."""

_OF_LORA = ("adapter.rank", "adapter.alpha", "adapter.dropout", "adapter.rslora", "adapter.dora",
            "train.lora_plus_ratio")  # fmt: skip
_KIND, _SITES, _FOLDS = "adapter.kind", "adapter.sites", "train.folds"
_ENCODER_RATE = "train.encoder_learning_rate"
# Values of `adapter.sites` without a layer of the encoder.
_IN_DECODER = ("decoder", "decoder-attention", "decoder-self-attention", "cross-attention")


def imply_settings(
    values: dict[str, Any], sources: dict[str, str], layers: Iterable[tuple[str, Mapping[str, Any]]]
) -> list[str]:
    """Add what follows from the settings, in place; returns what is wrong with them.

    Full fine-tuning has rates of its own, and leaves out what a preset says of LoRA adapters. A
    rate of 0 in the encoder freezes it.

    Args:
        values, sources: by dotted name, without the defaults.
        layers: the sources with all that they say.
    """
    problems: list[str] = []
    if values.get(_KIND) == "full":
        full = {source for source, content in layers if dict(flatten(content)).get(_KIND) == "full"}
        problems += _imply_full(values, sources, full)
    rate = values.get(_ENCODER_RATE)
    if isinstance(rate, int | float) and rate == 0:
        sites = values.get(_SITES, RunSettings().adapter.sites)
        if sites == "all":
            values[_SITES], sources[_SITES] = "decoder", f"{_ENCODER_RATE}=0"
        elif sites not in _IN_DECODER:
            problems.append(
                f"{sources[_ENCODER_RATE]}: {_ENCODER_RATE} = 0 freezes the encoder, and "
                f"{_SITES} = {sites} trains it: choose one of {', '.join(_IN_DECODER)}"
            )
    return problems


def _imply_full(
    values: dict[str, Any], sources: dict[str, str], full_sources: Collection[str]
) -> list[str]:
    defaults = dict(flatten(RunSettings().model_dump()))
    problems = []
    for name, rate in FULL_RATES.items():
        if name not in values or _is_for_lora(sources[name], full_sources):
            values[name], sources[name] = rate, f"{_KIND}=full"
    for name in _OF_LORA:
        if name in values and _is_for_lora(sources[name], full_sources):
            del values[name], sources[name]
        elif values.get(name, defaults[name]) != defaults[name]:
            problems.append(
                f"{sources[name]}: {name} = {values[name]} is of LoRA adapters, and {_KIND} is full"
            )
    if values.get(_FOLDS, 1) != 1:
        problems.append(f"{sources[_FOLDS]}: {_FOLDS} averages LoRA adapters, and {_KIND} is full")
    return problems


def _is_for_lora(source: str, full_sources: Collection[str]) -> bool:
    """Whether a value comes from where adapters were meant: a preset, or an earlier run of them."""
    return source.startswith(("preset ", "--from ", "run.json")) and source not in full_sources
