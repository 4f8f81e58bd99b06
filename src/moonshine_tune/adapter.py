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

from moonshine_tune.errors import RequestError
from moonshine_tune.families.interface import SpeechModel
from moonshine_tune.files import write_json_atomic

_NAME = "default"
WEIGHTS_FILE, CONFIG_FILE, BASE_FILE = (
    "adapter_model.safetensors", "adapter_config.json", "base_model.json"
)  # fmt: skip

_DECODER = r"model\.decoder\.layers\.\d+\."
_ENCODER = r"model\.encoder\.layers\.\d+\."
SITES: dict[str, str] = {
    "decoder": rf"{_DECODER}((self_attn|encoder_attn)\.[qkvo]_proj|mlp\.fc[12])",
    "decoder-attention": rf"{_DECODER}(self_attn|encoder_attn)\.[qkv]_proj",
    "attention": rf"({_DECODER}(self_attn|encoder_attn)|{_ENCODER}self_attn)\.[qv]_proj",
    "encoder": rf"{_ENCODER}(self_attn\.[qkvo]_proj|mlp\.fc[12])",
    "all": rf"({_DECODER}((self_attn|encoder_attn)\.[qkvo]_proj|mlp\.fc[12])"
    rf"|{_ENCODER}(self_attn\.[qkvo]_proj|mlp\.fc[12]))",
}


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
) -> AdapterSummary:
    """Put fresh LoRA matrices into the model, in place; only they are trainable.

    The model computes what it did before until the first step: B starts at zero.

    Raises:
        RequestError: no such sites.
    """
    from peft import LoraConfig, inject_adapter_in_model

    if sites not in SITES:
        raise RequestError(f"no adapter sites are called {sites!r}", hint=f"one of: {list(SITES)}")
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=SITES[sites],
        bias="none",
    )
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    inject_adapter_in_model(config, model.module, _NAME)
    torch.random.set_rng_state(state)
    _keep_in_32_bits(model.module)
    return summarize_adapter(model)


def _keep_in_32_bits(module: nn.Module) -> None:
    """Adapter weights train in 32 bits, whatever the frozen weights are kept in."""
    for _name, parameter in adapter_parameters(module):
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)


def adapter_parameters(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The LoRA matrices by name."""
    return [(name, value) for name, value in module.named_parameters() if ".lora_" in name]


def summarize_adapter(model: SpeechModel) -> AdapterSummary:
    """Count what the model's adapter holds."""
    found = adapter_parameters(model.module)
    return AdapterSummary(
        modules=len(found) // 2,
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
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
            for matrix in (*layer.lora_A.values(), *layer.lora_B.values()):
                matrix.requires_grad_(True)


@contextmanager
def adapter_strength(model: SpeechModel, strength: float) -> Iterator[None]:
    """The adapter's effect scaled by `strength` inside the block."""
    layers = list(_layers(model))
    before = [layer.scaling[_NAME] for layer in layers]
    for layer, scaling in zip(layers, before, strict=True):
        layer.scaling[_NAME] = scaling * strength
    try:
        yield
    finally:
        for layer, scaling in zip(layers, before, strict=True):
            layer.scaling[_NAME] = scaling


def adapter_state(model: SpeechModel) -> dict[str, Tensor]:
    """The LoRA matrices, detached copies on the CPU."""
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
        strength: folded into `lora_alpha`, so that any PEFT loader gets the chosen strength.
        base: identity of the base model, checked when the adapter is loaded.
    """
    from safetensors.torch import save_file

    config = next(iter(model.module.peft_config.values())).to_dict()
    config["lora_alpha"] = config["lora_alpha"] * strength
    config["target_modules"] = _plain(config["target_modules"])
    config["base_model_name_or_path"] = base.get("name")
    config["inference_mode"] = True
    written = {f"base_model.model.{_portable(name)}": value for name, value in state.items()}
    save_file(written, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    (folder / WEIGHTS_FILE).chmod(0o644)
    write_json_atomic(folder / CONFIG_FILE, {k: _plain(v) for k, v in config.items()})
    write_json_atomic(folder / BASE_FILE, base)


def _portable(name: str) -> str:
    """The name that PEFT gives a matrix in a file."""
    portable = name.replace(f".{_NAME}.", ".")
    # DoRA's lengths are a module in memory and a plain tensor in a file.
    return portable.replace("lora_magnitude_vector.weight", "lora_magnitude_vector")


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
        if (folder / CONFIG_FILE).is_file() and (folder / WEIGHTS_FILE).is_file():
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
    from peft import LoraConfig, inject_adapter_in_model

    folder = find_adapter(path)
    _check_base(folder, base_sha256)
    fields = _read_object(folder / CONFIG_FILE, "r", "lora_alpha", "target_modules")
    _refuse_unknown_parts(fields, folder / CONFIG_FILE)
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
    saved = _read_matrices(folder / WEIGHTS_FILE)
    inject_adapter_in_model(config, model.module, _NAME)
    _keep_in_32_bits(model.module)
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


@torch.no_grad()
def merged_weights(model: SpeechModel) -> dict[str, Tensor]:
    """Weights with the adapter's effect added, [out, in] in 32 bits, by `….weight` name."""
    merged = {}
    for name, module in model.module.named_modules():
        if hasattr(module, "lora_A") and _NAME in getattr(module, "lora_A", {}):
            base = module.base_layer.weight.detach().float()
            whole = base + module.get_delta_weight(_NAME).float()
            if module.use_dora.get(_NAME, False):
                # DoRA trains the length of each row apart from its direction.
                lengths = module.lora_magnitude_vector[_NAME].weight.float()
                whole = whole * (lengths / whole.norm(dim=1))[:, None]
            merged[f"{name}.weight"] = whole
    return merged
