"""The weighted sum of several adapters of one base, as one adapter.

The changes of the weights are summed, not the matrices: the sum of two products B·A is the product
of the matrices side by side. So it is exact, and its rank is the sum of the ranks.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import read_json, write_json_atomic
from moonshine_tune.models.adapter_config import ALTERING_STARTS, lora_fields, start_of
from moonshine_tune.models.files import ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE, BASE_FILE
from moonshine_tune.models.fingerprint import compare_weights, short_hash
from moonshine_tune.models.lora import find_adapter, read_matrices

_A, _B = ".lora_A.weight", ".lora_B.weight"
_PREFIX = "base_model.model."


@dataclass(frozen=True)
class WeightedAdapter:
    """An adapter and what its change of the weights is multiplied by.

    Attributes:
        path: run folder or adapter folder.
    """

    path: Path
    weight: float


def sum_of_adapters(parts: Sequence[WeightedAdapter]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration and tensors of the weighted sum, as PEFT loads them.

    Args:
        parts: adapters of one base; their sites and ranks may differ.

    Raises:
        RequestError: no adapter there, one of another base, or one whose change of the weights is
            no product of two matrices.
    """
    pairs: dict[str, list[tuple[Tensor, Tensor]]] = {}
    first: dict[str, Any] = {}
    for part in parts:
        folder = find_adapter(part.path)
        fields = _plain_fields(folder)
        first = first or fields
        tensors = read_matrices(folder / ADAPTER_WEIGHTS_FILE)
        for key in sorted(tensors):
            if key.endswith(_A):
                name = key.removesuffix(_A)
                down, up = tensors[key].float(), tensors[name + _B].float()
                scale = part.weight * _scaling(fields, len(down))
                pairs.setdefault(name, []).append((down, scale * up))
    ranks = {name: sum(len(down) for down, _ in matrices) for name, matrices in pairs.items()}
    rank = max(ranks.values())
    summed: dict[str, Tensor] = {}
    for name, matrices in pairs.items():
        summed[name + _A] = torch.cat([down for down, _ in matrices]).contiguous()
        # The scale is in B: what PEFT multiplies a layer of this rank with is taken out of it.
        up = torch.cat([up for _, up in matrices], dim=1) * (ranks[name] / rank)
        summed[name + _B] = up.contiguous()
    others = {name: value for name, value in ranks.items() if value != rank}
    config = first | {
        "r": rank,
        "lora_alpha": rank,
        "use_rslora": False,
        "target_modules": sorted(name.removeprefix(_PREFIX) for name in ranks),
        "exclude_modules": None,
        "layers_to_transform": None,
        "layers_pattern": None,
        "rank_pattern": {name.removeprefix(_PREFIX): value for name, value in others.items()},
        "alpha_pattern": {},
    }
    return config, summed


def check_summable(paths: Sequence[Path]) -> None:
    """Refuse adapters that have no sum, before any of them is loaded.

    Raises:
        RequestError: as of `save_sum`.
    """
    for path in paths:
        _plain_fields(find_adapter(path))
    _common_base(paths)


def save_sum(folder: Path, parts: Sequence[WeightedAdapter]) -> None:
    """Write the weighted sum of adapters in PEFT's format, and their base's identity beside it.

    Args:
        folder: an existing folder, usually the scratch folder of `complete_folder`.

    Raises:
        RequestError: as of `sum_of_adapters`, or the adapters belong to different bases.
    """
    from safetensors.torch import save_file

    base = _common_base([part.path for part in parts])
    config, tensors = sum_of_adapters(parts)
    write_json_atomic(folder / ADAPTER_CONFIG_FILE, config)
    save_file(tensors, folder / ADAPTER_WEIGHTS_FILE, metadata={"format": "pt"})
    (folder / ADAPTER_WEIGHTS_FILE).chmod(0o644)
    if base:
        write_json_atomic(folder / BASE_FILE, base)


def _plain_fields(folder: Path) -> dict[str, Any]:
    path = folder / ADAPTER_CONFIG_FILE
    fields = read_json(path)
    lora_fields(fields, path)
    why = (
        "DoRA"
        if fields.get("use_dora")
        else f"init_lora_weights {fields.get('init_lora_weights')!r}"
        if start_of(fields) in ALTERING_STARTS
        else "an alpha of its own for some layers"
        if fields.get("alpha_pattern")
        else None
    )
    if why is not None:
        raise RequestError(
            f"this adapter cannot be summed with others: {why}",
            where=path,
            hint="train it again as plain LoRA, such as with: --set adapter.dora=false",
        )
    return fields


def _scaling(fields: Mapping[str, Any], rank: int) -> float:
    """What PEFT multiplies the product of a layer of this rank with."""
    return float(fields["lora_alpha"]) / (math.sqrt(rank) if fields.get("use_rslora") else rank)


def _common_base(paths: Sequence[Path]) -> dict[str, Any]:
    """The identity of the base that all adapters name; empty where none does."""
    base: dict[str, Any] = {}
    for path in paths:
        file = find_adapter(path) / BASE_FILE
        own = read_json(file) if file.is_file() else {}
        if base and own and compare_weights(base, own) == "other":
            raise RequestError(
                f"this adapter belongs to another base, {own.get('name')} (weights "
                f"{short_hash(own)}) instead of {base.get('name')} (weights {short_hash(base)})",
                where=path,
                hint="only adapters of one base model can be summed: train this one again on "
                "the base of the others",
            )
        base = base or own
    return base
