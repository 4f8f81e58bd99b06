"""LoRA adapters by PEFT: target modules, scale, saving and loading.

Where a model is fully tuned (`models.full`), its trained matrices take the place of an adapter:
what is switched, scaled, saved and loaded here are they.

No `task_type` is given: PEFT's sequence-to-sequence wrapper passes a second decoder input, which
breaks Moonshine. The adapter is injected into the transformers module in place.
"""

import copy
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from moonshine_tune.core.device import is_launch_bound
from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import read_json, write_json_atomic
from moonshine_tune.core.text import first_line
from moonshine_tune.models.adapter_config import (
    ALTERING_STARTS,
    FULL,
    explain_mismatch,
    lora_fields,
    start_of,
)
from moonshine_tune.models.altered_base import double_rank, keep_base
from moonshine_tune.models.base import SpeechModel
from moonshine_tune.models.files import (
    ADAPTER_CONFIG_FILE,
    ADAPTER_WEIGHTS_FILE,
    BASE_FILE,
    names_of,
)
from moonshine_tune.models.full import full_layers, full_scale, inject_full, load_full, save_full
from moonshine_tune.models.kernels.full_linear import FULL_WEIGHT
from moonshine_tune.models.kernels.lora_linear import FeatureDropout, LoraLinear
from moonshine_tune.models.kernels.override import patch_forward

ADAPTER_NAME = "default"
# PEFT's name for DoRA's magnitudes of the weights.
_MAGNITUDE = "lora_magnitude_vector"

_DECODER = r"model\.decoder\.layers\.\d+\."
_ENCODER = r"model\.encoder\.layers\.\d+\."
_EVERY_ATTENTION = rf"({_DECODER}(self_attn|encoder_attn)|{_ENCODER}self_attn)\."
TARGET_MODULES: dict[str, str] = {
    "qv": rf"{_EVERY_ATTENTION}[qv]_proj",
    "attention": rf"{_EVERY_ATTENTION}[qkvo]_proj",
    "all": rf"{_EVERY_ATTENTION}[qkvo]_proj|({_DECODER}|{_ENCODER})mlp\.fc[12]",
    "decoder": rf"{_DECODER}((self_attn|encoder_attn)\.[qkvo]_proj|mlp\.fc[12])",
    "decoder-attention": rf"{_DECODER}(self_attn|encoder_attn)\.[qkv]_proj",
    "decoder-self-attention": rf"{_DECODER}self_attn\.[qkvo]_proj",
    "cross-attention": rf"{_DECODER}encoder_attn\.[qkvo]_proj",
    "encoder": rf"{_ENCODER}(self_attn\.[qkvo]_proj|mlp\.fc[12])",
}
"""Values of `adapter.sites`, and the linear layers by their full module names."""


@dataclass(frozen=True)
class AdapterSummary:
    """Size of an adapter, or of what trains in full fine-tuning."""

    modules: int
    parameters: int
    touches_encoder: bool


def inject_lora(
    model: SpeechModel,
    *,
    rank: int = 8,
    alpha: float = 16.0,
    dropout: float = 0.0,
    sites: str = "decoder",
    seed: int = 0,
    rslora: bool = False,
    dora: bool = False,
) -> AdapterSummary:
    """Inject new LoRA matrices into the model, in place; only they are trainable.

    The model's output does not change before the first step, because B starts at zero.

    Args:
        sites: a name in `TARGET_MODULES`.
        seed: of the matrices A; the global random state does not change.
        rslora: scale by alpha ÷ √rank instead of alpha ÷ rank (rank-stabilized LoRA).
        dora: also train the magnitude of each output's weights, separately from the direction.

    Raises:
        RequestError: no target modules have that name.
    """
    from peft import LoraConfig

    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=_modules_at(sites),
        use_rslora=rslora,
        use_dora=dora,
        bias="none",
    )
    state = torch.random.get_rng_state()
    # PEFT draws on the CPU: the matrices are the same on every device. Only the CPU's generator is
    # seeded; `torch.manual_seed` would seed those of the devices too, for good.
    torch.default_generator.manual_seed(seed)
    _inject(config, model)
    torch.random.set_rng_state(state)
    return _summary(model)


def tune_fully(model: SpeechModel, *, sites: str) -> AdapterSummary:
    """Let the matrices of the layers at `sites` train, in place, instead of LoRA matrices on them.

    Raises:
        RequestError: no target modules have that name.
    """
    inject_full(model, _modules_at(sites))
    return _summary(model)


def _modules_at(sites: str) -> str:
    if sites not in TARGET_MODULES:
        raise RequestError(
            f"no adapter sites are called {sites!r}", hint=f"one of: {list(TARGET_MODULES)}"
        )
    return TARGET_MODULES[sites]


def _summary(model: SpeechModel) -> AdapterSummary:
    parameters = adapter_parameters(model.module)
    return AdapterSummary(
        modules=sum(1 for _ in _adapted(model)),
        parameters=sum(value.numel() for _, value in parameters),
        touches_encoder=any(name.startswith("model.encoder.") for name, _ in parameters),
    )


def _inject(config: Any, model: SpeechModel) -> None:
    """Inject an adapter whose weights are in 32 bits, whatever the format of the frozen ones."""
    from peft import inject_adapter_in_model

    inject_adapter_in_model(config, model.module, ADAPTER_NAME)
    for _name, parameter in adapter_parameters(model.module):
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
    for layer in _layers(model):
        patch_forward(LoraLinear, layer)
        for name, dropout in layer.lora_dropout.items():
            if probability := getattr(dropout, "p", 0.0):
                layer.lora_dropout[name] = FeatureDropout(probability)


class AdapterDropout:
    """Draws the dropout masks of an adapter, where one kernel for each layer would cost.

    Elsewhere every layer draws its own, in the order of the pass.
    """

    def __init__(self, model: SpeechModel) -> None:
        self._device = model.device
        self._layers = [
            (dropout, int(layer.lora_A[name].weight.shape[1]))
            for layer in _layers(model)
            for name, dropout in layer.lora_dropout.items()
            if isinstance(dropout, FeatureDropout)
        ]

    def draw(self) -> None:
        """Draw the masks of the next pass."""
        if self._layers and is_launch_bound(self._device):
            FeatureDropout.draw_together(self._layers, self._device)


def adapter_parameters(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The LoRA matrices and DoRA's magnitudes, or the matrices of full fine-tuning, by name."""
    return [(name, value) for name, value in module.named_parameters() if is_of_adapter(name)]


def is_of_adapter(name: str) -> bool:
    """Whether a parameter is an adapter's, or trains in full fine-tuning, by its name."""
    return ".lora_" in name or name.endswith(f".{FULL_WEIGHT}")


def _layers(model: SpeechModel) -> Iterator[Any]:
    from peft.tuners.lora import LoraLayer

    for module in model.module.modules():
        if isinstance(module, LoraLayer):
            yield module


def _adapted(model: SpeechModel) -> list[Any]:
    """The layers with LoRA matrices, or those whose own matrices train."""
    return [*_layers(model), *full_layers(model.module).values()]


def has_adapter(model: SpeechModel) -> bool:
    """Whether the model has an adapter, or is fully tuned."""
    return bool(_adapted(model))


@contextmanager
def adapter_disabled(model: SpeechModel) -> Iterator[None]:
    """Switch the adapter off inside the block: the frozen base model."""
    layers = _adapted(model)
    trained = [value for _, value in adapter_parameters(model.module) if value.requires_grad]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
        # PEFT makes all of them trainable, or none: restore the state from before.
        for _, value in adapter_parameters(model.module):
            value.requires_grad_(False)
        for value in trained:
            value.requires_grad_(True)


@contextmanager
def adapter_scale(model: SpeechModel, scale: float) -> Iterator[None]:
    """Multiply the adapter's effect by `scale` inside the block.

    Of full fine-tuning, that is the interpolation between the base's weights and the tuned ones
    (WiSE-FT, arXiv 2109.01903).
    """
    if full_layers(model.module):
        with full_scale(model.module, scale):
            yield
        return
    layers = list(_layers(model))
    before = [layer.scaling[ADAPTER_NAME] for layer in layers]
    magnitudes = {
        name: value.detach().clone()
        for name, value in adapter_parameters(model.module)
        if _MAGNITUDE in name
    }
    for layer, scaling in zip(layers, before, strict=True):
        layer.scaling[ADAPTER_NAME] = scaling * scale
    _copy_into(model, _scaled_magnitudes(model, magnitudes, scale))
    try:
        yield
    finally:
        for layer, scaling in zip(layers, before, strict=True):
            layer.scaling[ADAPTER_NAME] = scaling
        _copy_into(model, magnitudes)


def _copy_into(model: SpeechModel, values: dict[str, Tensor]) -> None:
    """Overwrite adapter parameters by name."""
    own = dict(adapter_parameters(model.module)) if values else {}
    with torch.no_grad():
        for name, value in values.items():
            own[name].copy_(value)


@torch.no_grad()
def _scaled_magnitudes(
    model: SpeechModel, state: dict[str, Tensor], scale: float
) -> dict[str, Tensor]:
    """DoRA's magnitudes, interpolated between the base's (scale 0) and the trained ones (scale 1).

    PEFT's scaling applies to the matrices only.
    """
    modules = dict(model.module.named_modules()) if scale != 1.0 else {}
    result = {}
    for name, trained in state.items():
        if _MAGNITUDE in name and scale != 1.0:
            layer = modules[name.partition(f".{_MAGNITUDE}")[0]]
            base = layer.base_layer.weight.detach().float().norm(dim=1).to(trained.device)
            result[name] = base + scale * (trained - base)
        elif _MAGNITUDE in name:
            result[name] = trained
    return result


def adapter_state(model: SpeechModel) -> dict[str, Tensor]:
    """The adapter's parameters by name, as detached copies on the CPU."""
    return {
        name: value.detach().to("cpu", copy=True).contiguous()
        for name, value in adapter_parameters(model.module)
    }


def load_adapter_state(model: SpeechModel, state: dict[str, Tensor]) -> None:
    """Restore parameters of `adapter_state`.

    Raises:
        RequestError: names or shapes are those of another adapter.
    """
    own = dict(adapter_parameters(model.module))
    if {n: v.shape for n, v in own.items()} != {n: v.shape for n, v in state.items()}:
        raise RequestError("the saved matrices belong to an adapter of another shape")
    _copy_into(model, state)


def save_adapter(
    folder: Path,
    model: SpeechModel,
    state: dict[str, Tensor],
    *,
    scale: float = 1.0,
    base: dict[str, Any],
) -> None:
    """Write an adapter in PEFT's format, and the identity of its base model beside it.

    Matrices of full fine-tuning are written as of `save_full`.

    Args:
        folder: an existing folder, usually the scratch folder of `complete_folder`.
        state: parameters of `adapter_state`.
        scale: multiplied into `lora_alpha` and DoRA's magnitudes, so that any PEFT loader uses it.
        base: identity of the base model, which loading checks.
    """
    from safetensors.torch import save_file

    if full_layers(model.module):
        save_full(folder, model, state, scale=scale, base=base)
        return
    config = copy.copy(next(iter(model.module.peft_config.values())))
    config.lora_alpha *= scale
    config.base_model_name_or_path = base.get("name")
    config.inference_mode = True
    config.save_pretrained(folder)
    state = state | _scaled_magnitudes(model, state, scale)
    tensors = {f"base_model.model.{_portable(name)}": value for name, value in state.items()}
    save_file(tensors, folder / ADAPTER_WEIGHTS_FILE, metadata={"format": "pt"})
    (folder / ADAPTER_WEIGHTS_FILE).chmod(0o644)
    write_json_atomic(folder / BASE_FILE, base)


def _portable(name: str) -> str:
    """The name in a saved file: PEFT omits the adapter's name, and `weight` after magnitudes."""
    name = name.replace(f".{ADAPTER_NAME}.", ".")
    return name.replace(f".{_MAGNITUDE}.weight", f".{_MAGNITUDE}")


def find_adapter(path: Path) -> Path:
    """The adapter folder of a run folder or an adapter folder.

    Raises:
        RequestError: neither holds an adapter.
    """
    for folder in (path / "adapter", path):
        if (folder / ADAPTER_CONFIG_FILE).is_file() and (folder / ADAPTER_WEIGHTS_FILE).is_file():
            return folder
    hint = "give a run folder of `moonshine-tune train`, or its adapter/ folder"
    if (path / "adapter_model.bin").is_file():
        raise RequestError(
            "this adapter is pickled (adapter_model.bin), and pickled files are not read",
            where=path,
            hint="load it with PEFT, and save it again: model.save_pretrained(FOLDER)",
        )
    if nested := sorted(path.glob(f"*/{ADAPTER_CONFIG_FILE}")):
        # PEFT writes an adapter that is not called `default` into a folder of its name.
        hint = f"give one of these folders: {names_of([item.parent for item in nested])}"
    what = "there is no adapter in this folder" if path.is_dir() else "no such folder"
    raise RequestError("a file, not a folder" if path.is_file() else what, where=path, hint=hint)


def load_adapter(model: SpeechModel, path: Path) -> Path:
    """Inject a saved adapter into the model, in place and frozen; returns its folder.

    It computes what PEFT computes with it, with one difference: the base without the adapter stays
    the base, where PEFT alters it for PiSSA and OLoRA.

    Args:
        path: a run folder or an adapter folder, of this program or of PEFT.

    Raises:
        RequestError: no adapter there, a damaged or foreign one, one that does not fit the model,
            or one with parts that are not applied here.
    """
    folder = find_adapter(path)
    config_path = folder / ADAPTER_CONFIG_FILE
    if is_full(folder):
        load_full(model, read_matrices(folder / ADAPTER_WEIGHTS_FILE), folder)
        for _name, parameter in adapter_parameters(model.module):
            parameter.requires_grad_(False)
        return folder
    fields = _read_object(config_path, "r", "lora_alpha", "target_modules")
    arguments = lora_fields(fields, config_path)
    _inject_saved(arguments, model, config_path)
    load_matrices(model, folder)
    if (start := start_of(fields)) in ALTERING_STARTS:
        for layer in _layers(model):
            keep_base(layer, ADAPTER_NAME, start)
        double_rank(model.module.peft_config[ADAPTER_NAME])
    for _name, parameter in adapter_parameters(model.module):
        parameter.requires_grad_(False)
    return folder


def is_full(folder: Path) -> bool:
    """Whether an adapter folder holds the matrices of full fine-tuning."""
    return read_json(folder / ADAPTER_CONFIG_FILE).get("peft_type") == FULL


def load_matrices(model: SpeechModel, folder: Path) -> None:
    """Overwrite the matrices of an injected adapter with those of a saved one.

    Raises:
        RequestError: a damaged adapter, or one of another shape.
    """
    if is_full(folder):
        load_full(model, read_matrices(folder / ADAPTER_WEIGHTS_FILE), folder)
        return
    fields = _read_object(folder / ADAPTER_CONFIG_FILE, "r", "lora_alpha", "target_modules")
    saved = read_matrices(folder / ADAPTER_WEIGHTS_FILE)
    own = dict(adapter_parameters(model.module))
    by_portable = {f"base_model.model.{_portable(name)}": name for name in own}
    mismatch = explain_mismatch(
        {name: tuple(value.shape) for name, value in saved.items()},
        {name: tuple(own[by_portable[name]].shape) for name in by_portable},
        fields,
        folder,
    )
    if mismatch is not None:
        raise mismatch
    load_adapter_state(model, {by_portable[name]: value for name, value in saved.items()})


def _inject_saved(arguments: dict[str, Any], model: SpeechModel, path: Path) -> None:
    """Inject matrices for a configuration that PEFT or another program wrote."""
    from peft import LoraConfig
    from peft.tuners.lora import Linear

    try:
        with warnings.catch_warnings():
            # Such as: fan_in_fan_out does not apply to a linear layer.
            warnings.simplefilter("ignore")
            _inject(LoraConfig(**arguments, bias="none"), model)
    except (ValueError, TypeError, AttributeError, RuntimeError, re.error) as error:
        raise RequestError(
            f"PEFT cannot apply this adapter to this model: {first_line(error, 300)}",
            where=path,
            hint="name the base that it was trained on with --model",
        ) from error
    others = [
        f"{name} ({type(layer.base_layer).__name__})"
        for name, layer in model.module.named_modules()
        if hasattr(layer, "base_layer") and not isinstance(layer, Linear)
    ]
    if others:
        raise RequestError(
            f"this adapter changes layers that are not linear: {names_of(others)}",
            where=path,
            hint="merge it with the tool that made it, and give the merged checkpoint as --model",
        )


def _read_object(path: Path, *keys: str) -> dict[str, Any]:
    """The JSON object of one of the folder's files, which must have these keys."""
    content = read_json(path)
    missing = [key for key in keys if key not in content]
    if missing:
        kind = content.get("peft_type", "LORA")
        raise RequestError(
            f"not a file of a LoRA adapter: no {', '.join(missing)}"
            + ("" if kind == "LORA" else f" (peft_type {kind!r})"),
            where=path,
        )
    return content


def read_matrices(path: Path) -> dict[str, Tensor]:
    """The tensors of an adapter's file by their names in it.

    Raises:
        RequestError: the file is damaged, or has values that are not finite.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        matrices = dict(load_file(path))
    except SafetensorError as error:
        raise RequestError(
            f"damaged or cut off: {error}", where=path, hint="copy the adapter folder again"
        ) from error
    for name, values in matrices.items():
        if not values.is_floating_point() or values.element_size() < 2:
            raise RequestError(
                f"{name} is in {str(values.dtype).removeprefix('torch.')}: quantized matrices "
                "cannot be applied without their scales",
                where=path,
                hint="load it with the program that made it, and save it in 32 or 16 bits",
            )
        if not bool(values.isfinite().all()):
            raise RequestError(
                f"{name} has values that are not finite (NaN or infinite): the file is damaged, "
                "or its training diverged",
                where=path,
                hint="copy the adapter folder again, or use one from an earlier step",
            )
    return matrices
