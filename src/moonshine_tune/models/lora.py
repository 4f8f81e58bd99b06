"""LoRA adapters by PEFT: where they sit, how strong they are, saving and loading.

No `task_type` is ever given: PEFT's sequence-to-sequence wrapper passes a second decoder input and
breaks Moonshine. The adapter is injected into the transformers module in place.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import write_json_atomic
from moonshine_tune.models.base import SpeechModel
from moonshine_tune.models.files import ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE
from moonshine_tune.models.kernels.lora_linear import AdaptedLinear
from moonshine_tune.models.kernels.override import patch_forward

ADAPTER_NAME = "default"
# What DoRA calls the lengths of the weights.
_LENGTHS = "lora_magnitude_vector"
BASE_FILE = "base_model.json"

_DECODER = r"model\.decoder\.layers\.\d+\."
_ENCODER = r"model\.encoder\.layers\.\d+\."
_EVERY_ATTENTION = rf"({_DECODER}(self_attn|encoder_attn)|{_ENCODER}self_attn)\."
SITES: dict[str, str] = {
    "qv": rf"{_EVERY_ATTENTION}[qv]_proj",
    "attention": rf"{_EVERY_ATTENTION}[qkvo]_proj",
    "all": rf"{_EVERY_ATTENTION}[qkvo]_proj|({_DECODER}|{_ENCODER})mlp\.fc[12]",
    "decoder": rf"{_DECODER}((self_attn|encoder_attn)\.[qkvo]_proj|mlp\.fc[12])",
    "decoder-attention": rf"{_DECODER}(self_attn|encoder_attn)\.[qkv]_proj",
    "decoder-self-attention": rf"{_DECODER}self_attn\.[qkvo]_proj",
    "cross-attention": rf"{_DECODER}encoder_attn\.[qkvo]_proj",
    "encoder": rf"{_ENCODER}(self_attn\.[qkvo]_proj|mlp\.fc[12])",
}
"""Linear layers by what they are called; PEFT matches the whole name of a module."""


@dataclass(frozen=True)
class AdapterSummary:
    """Size of an adapter."""

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
    """Put fresh LoRA matrices into the model, in place; only they are trainable.

    The model computes what it did before until the first step: B starts at zero.

    Args:
        rslora: scale by alpha ÷ √rank instead of alpha ÷ rank (rank-stabilized LoRA).
        dora: also train the length of each output's weights, apart from their direction (DoRA).

    Raises:
        RequestError: no such sites.
    """
    from peft import LoraConfig

    if sites not in SITES:
        raise RequestError(f"no adapter sites are called {sites!r}", hint=f"one of: {list(SITES)}")
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=SITES[sites],
        use_rslora=rslora,
        use_dora=dora,
        bias="none",
    )
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    _inject(config, model)
    torch.random.set_rng_state(state)
    return summarize_adapter(model)


def _inject(config: Any, model: SpeechModel) -> None:
    """Adapter weights train in 32 bits, whatever the frozen weights are kept in."""
    from peft import inject_adapter_in_model

    inject_adapter_in_model(config, model.module, ADAPTER_NAME)
    for _name, parameter in adapter_parameters(model.module):
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
    for layer in _layers(model):
        patch_forward(AdaptedLinear, layer)


def adapter_parameters(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The LoRA matrices by name, and DoRA's lengths where it has them."""
    return [(name, value) for name, value in module.named_parameters() if ".lora_" in name]


def summarize_adapter(model: SpeechModel) -> AdapterSummary:
    """Count what the model's adapter holds."""
    found = adapter_parameters(model.module)
    return AdapterSummary(
        modules=sum(1 for _ in _layers(model)),
        parameters=sum(value.numel() for _, value in found),
        touches_encoder=any(name.startswith("model.encoder.") for name, _ in found),
    )


def _layers(model: SpeechModel) -> Iterator[Any]:
    from peft.tuners.lora import LoraLayer

    for module in model.module.modules():
        if isinstance(module, LoraLayer):
            yield module


def has_adapter(model: SpeechModel) -> bool:
    """Whether an adapter is injected."""
    return next(_layers(model), None) is not None


@contextmanager
def adapter_disabled(model: SpeechModel) -> Iterator[None]:
    """The frozen base inside the block."""
    layers = list(_layers(model))
    trained = [value for _, value in adapter_parameters(model.module) if value.requires_grad]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
        # PEFT makes all of them trainable again, or none: they are put back as they were.
        for _, value in adapter_parameters(model.module):
            value.requires_grad_(False)
        for value in trained:
            value.requires_grad_(True)


@contextmanager
def adapter_strength(model: SpeechModel, strength: float) -> Iterator[None]:
    """The adapter's effect scaled by `strength` inside the block."""
    layers = list(_layers(model))
    before = [layer.scaling[ADAPTER_NAME] for layer in layers]
    lengths = {
        name: value.detach().clone()
        for name, value in adapter_parameters(model.module)
        if _LENGTHS in name
    }
    for layer, scaling in zip(layers, before, strict=True):
        layer.scaling[ADAPTER_NAME] = scaling * strength
    _put(model, _weaker_lengths(model, lengths, strength))
    try:
        yield
    finally:
        for layer, scaling in zip(layers, before, strict=True):
            layer.scaling[ADAPTER_NAME] = scaling
        _put(model, lengths)


def _put(model: SpeechModel, values: dict[str, Tensor]) -> None:
    own = dict(adapter_parameters(model.module)) if values else {}
    with torch.no_grad():
        for name, value in values.items():
            own[name].copy_(value)


@torch.no_grad()
def _weaker_lengths(
    model: SpeechModel, state: dict[str, Tensor], strength: float
) -> dict[str, Tensor]:
    """DoRA's lengths at a part of the way from the base's to the trained ones.

    The matrices are weakened by their scaling; the lengths have none.
    """
    modules = dict(model.module.named_modules()) if strength != 1.0 else {}
    found = {}
    for name, trained in state.items():
        if _LENGTHS in name and strength != 1.0:
            layer = modules[name.partition(f".{_LENGTHS}")[0]]
            base = layer.base_layer.weight.detach().float().norm(dim=1).to(trained.device)
            found[name] = base + strength * (trained - base)
        elif _LENGTHS in name:
            found[name] = trained
    return found


def adapter_state(model: SpeechModel) -> dict[str, Tensor]:
    """What the adapter has learnt, detached copies on the CPU."""
    return {
        name: value.detach().to("cpu", copy=True).contiguous()
        for name, value in adapter_parameters(model.module)
    }


def load_adapter_state(model: SpeechModel, state: dict[str, Tensor]) -> None:
    """Put matrices of `adapter_state` back.

    Raises:
        RequestError: names or shapes are those of another adapter.
    """
    own = dict(adapter_parameters(model.module))
    if {n: v.shape for n, v in own.items()} != {n: v.shape for n, v in state.items()}:
        raise RequestError("the saved matrices belong to an adapter of another shape")
    with torch.no_grad():
        for name, value in state.items():
            own[name].copy_(value)


def save_adapter(
    folder: Path,
    model: SpeechModel,
    state: dict[str, Tensor],
    *,
    strength: float = 1.0,
    base: dict[str, Any],
) -> None:
    """Write an adapter in PEFT's format, and beside it what it belongs to.

    Args:
        folder: an existing folder (usually the scratch folder of `complete_folder`).
        state: matrices of `adapter_state`.
        strength: folded into `lora_alpha` and DoRA's lengths, so that any PEFT loader gets it.
        base: identity of the base model, checked when the adapter is loaded.
    """
    from safetensors.torch import save_file

    config = next(iter(model.module.peft_config.values())).to_dict()
    config["lora_alpha"] = config["lora_alpha"] * strength
    config["target_modules"] = _plain(config["target_modules"])
    config["base_model_name_or_path"] = base.get("name")
    config["inference_mode"] = True
    state = state | _weaker_lengths(model, state, strength)
    written = {f"base_model.model.{_portable(name)}": value for name, value in state.items()}
    save_file(written, folder / ADAPTER_WEIGHTS_FILE, metadata={"format": "pt"})
    (folder / ADAPTER_WEIGHTS_FILE).chmod(0o644)
    write_json_atomic(folder / ADAPTER_CONFIG_FILE, {k: _plain(v) for k, v in config.items()})
    write_json_atomic(folder / BASE_FILE, base)


def _portable(name: str) -> str:
    """The name in a saved file: PEFT leaves out the adapter's, and `weight` after the lengths."""
    return name.replace(f".{ADAPTER_NAME}.", ".").replace(f".{_LENGTHS}.weight", f".{_LENGTHS}")


def _plain(value: Any) -> Any:
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, dict | list | str | int | float | bool) or value is None:
        return value
    return str(getattr(value, "value", value))


def find_adapter(path: Path) -> Path:
    """The adapter folder meant by a run folder or an adapter folder.

    Raises:
        RequestError: there is none.
    """
    for folder in (path / "adapter", path):
        if (folder / ADAPTER_CONFIG_FILE).is_file() and (folder / ADAPTER_WEIGHTS_FILE).is_file():
            return folder
    raise RequestError(
        "no adapter here",
        where=path,
        hint="name a run folder of `moonshine-tune train`, or its adapter/ folder",
    )


def load_adapter(model: SpeechModel, path: Path, *, base_sha256: str | None = None) -> Path:
    """Inject a saved adapter into the model, in place; returns the folder it came from.

    Raises:
        RequestError: no adapter there, or it belongs to another base model.
    """
    from peft import LoraConfig

    folder = find_adapter(path)
    _check_base(folder, base_sha256)
    fields = _read_object(folder / ADAPTER_CONFIG_FILE, "r", "lora_alpha", "target_modules")
    _refuse_unknown_parts(fields, folder / ADAPTER_CONFIG_FILE)
    config = LoraConfig(
        r=fields["r"],
        lora_alpha=fields["lora_alpha"],
        target_modules=fields["target_modules"],
        use_rslora=fields.get("use_rslora", False),
        use_dora=fields.get("use_dora", False),
        rank_pattern=fields.get("rank_pattern") or {},
        alpha_pattern=fields.get("alpha_pattern") or {},
        layers_to_transform=fields.get("layers_to_transform"),
        layers_pattern=fields.get("layers_pattern"),
        exclude_modules=fields.get("exclude_modules"),
        bias="none",
    )
    saved = _read_matrices(folder / ADAPTER_WEIGHTS_FILE)
    _inject(config, model)
    own = dict(adapter_parameters(model.module))
    by_portable = {f"base_model.model.{_portable(name)}": name for name in own}
    wrong = [
        n for n in by_portable if n not in saved or saved[n].shape != own[by_portable[n]].shape
    ]
    if wrong or len(saved) != len(own):
        raise RequestError(
            f"the adapter does not fit this model: {len(wrong) or len(saved)} matrices differ, "
            f"such as {wrong[0] if wrong else next(iter(saved))}",
            where=folder,
            hint="use the base model that is named in its base_model.json",
        )
    load_adapter_state(model, {by_portable[name]: value for name, value in saved.items()})
    for _name, parameter in adapter_parameters(model.module):
        parameter.requires_grad_(False)
    return folder


def _refuse_unknown_parts(fields: dict[str, Any], path: Path) -> None:
    """Other tools' adapters may hold more than LoRA matrices: what would be dropped is refused."""
    known: dict[str, tuple[Any, ...]] = {
        "peft_type": (None, "LORA"), "bias": (None, "none"), "modules_to_save": (None, []),
        "fan_in_fan_out": (None, False), "trainable_token_indices": (None,),
        "target_parameters": (None, []), "megatron_config": (None,), "use_qalora": (None, False),
    }  # fmt: skip
    wrong = [f"{key} {fields[key]!r}" for key, values in known.items()
             if fields.get(key) not in values]  # fmt: skip
    if wrong:
        raise RequestError(
            f"this adapter holds more than LoRA matrices: {', '.join(wrong)}",
            where=path,
            hint="merge it with the tool that made it, and name the merged checkpoint as --model",
        )


def _read_object(path: Path, *keys: str) -> dict[str, Any]:
    """The JSON object of one of the folder's files, with these keys in it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(f"cannot be read: {error}", where=path) from error
    missing = [key for key in keys if not isinstance(content, dict) or key not in content]
    if not isinstance(content, dict) or missing:
        raise RequestError(
            f"not the file of a LoRA adapter: no {', '.join(missing) or 'object'} in it", where=path
        )
    return content


def _read_matrices(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise RequestError(
            f"damaged or cut off: {error}", where=path, hint="copy the adapter folder again"
        ) from error


def _check_base(folder: Path, base_sha256: str | None) -> None:
    path = folder / BASE_FILE
    if base_sha256 is None or not path.is_file():
        return
    recorded = _read_object(path)
    if recorded.get("sha256") not in (None, base_sha256):
        raise RequestError(
            f"this adapter was trained on another base model ({recorded.get('name')}, weights "
            f"{str(recorded['sha256'])[:12]}), not on weights {base_sha256[:12]}",
            where=folder,
            hint=f"run it with: --model {recorded.get('name')}",
        )
