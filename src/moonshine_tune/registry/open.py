"""Opening a model: resolve its name, choose device and precision, load it and its adapter."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from moonshine_tune.core.device import DeviceChoice, DtypeChoice, choose_device, choose_dtype
from moonshine_tune.core.files import sha256_of
from moonshine_tune.core.progress import Progress
from moonshine_tune.models.base import TOKENS_PER_SECOND, DecodeLimits, SpeechModel
from moonshine_tune.models.checkpoint import load_checkpoint
from moonshine_tune.models.lora import load_adapter
from moonshine_tune.registry.resolve import ResolvedModel, resolve_model


@dataclass(frozen=True)
class OpenedModel:
    """A loaded model with its origin, device and precision, for reports."""

    model: SpeechModel
    resolved: ResolvedModel
    base: dict[str, Any]
    device: DeviceChoice
    dtype: DtypeChoice
    limits: DecodeLimits
    language: str


def open_model(
    name: str,
    *,
    adapter: Path | None = None,
    device: str | DeviceChoice = "auto",
    dtype: str | DtypeChoice = "auto",
    frozen_weights: str = "float32",
    offline: bool = False,
    progress: Progress,
) -> OpenedModel:
    """Load a model by catalog name, hub id or folder, with or without an adapter.

    Raises:
        RequestError: no such model or adapter, or the adapter belongs to another base.
        SourceUnreachableError: no source has the model.
        MachineError: this machine has no such device.
    """
    chosen_device = choose_device(device) if isinstance(device, str) else device
    chosen_dtype = choose_dtype(chosen_device.device, dtype) if isinstance(dtype, str) else dtype
    resolved = resolve_model(name, offline=offline, progress=progress)
    model = load_checkpoint(
        resolved.checkpoint_dir,
        device=chosen_device.device,
        # Fused attention has given wrong gradients on MPS before; eager costs little there.
        attention="eager" if chosen_device.device.type == "mps" else "sdpa",
        dtype=getattr(torch, frozen_weights),
    )
    base = base_identity(resolved)
    if adapter is not None:
        load_adapter(model, adapter, base_sha256=base["sha256"])
    record = resolved.record
    rate = record.tokens_per_second if record else TOKENS_PER_SECOND
    return OpenedModel(
        model=model,
        resolved=resolved,
        base=base,
        device=chosen_device,
        dtype=chosen_dtype,
        limits=DecodeLimits(tokens_per_second=rate),
        language=record.language if record else "en",
    )


def base_identity(resolved: ResolvedModel) -> dict[str, Any]:
    """The record of the base in an adapter: name, family, revision, hash of the weights."""
    files = sorted(resolved.checkpoint_dir.glob("*.safetensors"))
    hashes = [sha256_of(path) for path in files]
    return {
        "name": resolved.name if resolved.record else resolved.checkpoint_dir.name,
        "family": resolved.family,
        "source": resolved.source,
        "revision": resolved.revision,
        "sha256": hashes[0] if len(hashes) == 1 else "+".join(h[:16] for h in hashes),
    }
