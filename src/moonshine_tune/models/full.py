"""Full fine-tuning: the matrices of the layers train themselves, instead of LoRA matrices on them.

Every matrix of the chosen layers trains. Normalizations, biases, the embedding with the output head
and the encoder's front end stay as they are: the columns of a matrix can do what a gain in front of
it could, the teacher's distribution needs the base's head, and features of the front end are
computed once.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import write_json_atomic
from moonshine_tune.models.adapter_config import FULL
from moonshine_tune.models.base import SpeechModel
from moonshine_tune.models.files import (
    ADAPTER_CONFIG_FILE,
    ADAPTER_WEIGHTS_FILE,
    BASE_FILE,
    names_of,
)
from moonshine_tune.models.kernels.full_linear import FULL_WEIGHT, FullLinear


def full_layers(module: nn.Module) -> dict[str, FullLinear]:
    """The layers whose matrices train or were trained, by name; empty without full fine-tuning."""
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, FullLinear)}


def inject_full(model: SpeechModel, pattern: str) -> None:
    """Let the matrices of some linear layers train, in place; the output does not change.

    Args:
        pattern: matches the full names of the layers.
    """
    names = [name for name, layer in model.module.named_modules()
             if isinstance(layer, nn.Linear) and re.fullmatch(pattern, name)]  # fmt: skip
    _replace(model.module, names)


def _replace(module: Any, names: Iterable[str]) -> None:
    for name in names:
        module.set_submodule(name, FullLinear(module.get_submodule(name)))


@contextmanager
def full_scale(module: nn.Module, scale: float) -> Iterator[None]:
    """Inside the block, compute with matrices between the base's (0) and the trained ones (1)."""
    layers = full_layers(module).values()
    for layer in layers:
        layer.scale = scale
    try:
        yield
    finally:
        for layer in layers:
            layer.scale = 1.0


def full_base(module: nn.Module) -> dict[str, Tensor]:
    """The base's matrices by the names of the trained ones, in the number format of the base."""
    return {
        f"{name}.{FULL_WEIGHT}": layer.weight.detach()
        for name, layer in full_layers(module).items()
    }


def save_full(
    folder: Path,
    model: SpeechModel,
    state: Mapping[str, Tensor],
    *,
    scale: float,
    base: Mapping[str, Any],
) -> None:
    """Write trained matrices under their names in a checkpoint, and their base's identity.

    Args:
        state: matrices by parameter name, as of `adapter_state`.
        scale: 1 writes them as they are, less a matrix between the base's and the trained one.
    """
    own = full_base(model.module)
    tensors = {
        name.replace(f".{FULL_WEIGHT}", ".weight"): value
        if scale == 1.0
        else own[name].float().cpu().lerp(value, scale)
        for name, value in state.items()
    }
    config = {"peft_type": FULL, "base_model_name_or_path": base.get("name")}
    write_json_atomic(folder / ADAPTER_CONFIG_FILE, config)
    save_file(tensors, folder / ADAPTER_WEIGHTS_FILE, metadata={"format": "pt"})
    (folder / ADAPTER_WEIGHTS_FILE).chmod(0o644)
    write_json_atomic(folder / BASE_FILE, dict(base))


def load_full(model: SpeechModel, saved: Mapping[str, Tensor], folder: Path) -> None:
    """Put the matrices of `save_full` into the model, in place, beside those of the base.

    Raises:
        RequestError: names or shapes are not those of the model's layers.
    """
    wanted = {name.removesuffix(".weight"): value for name, value in saved.items()}
    linear = {name: layer for name, layer in model.module.named_modules()
              if isinstance(layer, nn.Linear | FullLinear)}  # fmt: skip
    wrong = [
        name
        for name, value in wanted.items()
        if name not in linear or linear[name].weight.shape != value.shape
    ]
    trained = full_layers(model.module)
    if wrong or (trained and trained.keys() != wanted.keys()):
        what = f": {names_of(wrong)}" if wrong else ", or another set of layers"
        raise RequestError(
            f"these matrices do not fit this model{what}",
            where=folder,
            hint="name the base that was trained with --model",
        )
    if not trained:
        _replace(model.module, wanted)
        trained = full_layers(model.module)
    for name, value in wanted.items():
        trained[name].full_weight.data.copy_(value)
