"""Opening a model: resolve its name, choose device and precision, load it and its adapter."""

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from moonshine_tune.core.device import (
    DeviceChoice,
    DtypeChoice,
    choose_device,
    choose_dtype,
    choose_frozen_format,
)
from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.progress import Progress, SilentProgress
from moonshine_tune.models.adapter_set import AdapterSet
from moonshine_tune.models.base import TOKENS_PER_SECOND, DecodeLimits, SpeechModel
from moonshine_tune.models.checkpoint import load_checkpoint
from moonshine_tune.models.files import refuse_stray_adapter, weight_files
from moonshine_tune.models.lora import find_adapter, load_adapter
from moonshine_tune.registry.base_model import (
    base_identity,
    check_base,
    is_name_of_base,
    resolve_base,
)
from moonshine_tune.registry.resolve import ResolvedModel, resolve_model

DEFAULT_ADAPTER = "default"
"""The name of the adapter that a model is opened with."""


@dataclass(frozen=True)
class OpenedModel:
    """A loaded model with its origin, device and precision, for reports.

    It can hold several adapters: `load_adapter` adds one, `use_adapter` switches between them.
    """

    model: SpeechModel
    resolved: ResolvedModel
    base: dict[str, Any]
    device: DeviceChoice
    dtype: DtypeChoice
    limits: DecodeLimits
    language: str
    adapters: AdapterSet

    def load_adapter(self, name: str, path: str | PathLike[str]) -> None:
        """Load an adapter of this base beside those that are loaded, and use it.

        Args:
            path: run folder or adapter folder.

        Raises:
            RequestError: the name is taken, no adapter there, or it belongs to another base.
        """
        folder = Path(path)
        base = check_base(
            self.resolved, folder, is_named=True, offline=True, progress=SilentProgress()
        )
        if base is not self.resolved:
            raise RequestError(
                f"this adapter was trained on other weights of {self.resolved.name} than are open",
                where=folder,
                hint="open its base by itself: open_model(adapter=PATH)",
            )
        self.adapters.add(name, folder)

    def use_adapter(self, name: str | None) -> None:
        """Use a loaded adapter from now on; None uses the base alone. No weight is read or copied.

        Raises:
            RequestError: no adapter has this name.
        """
        self.adapters.use(name)

    @property
    def base_record(self) -> dict[str, Any]:
        """`base` with the folder that has it, for records that stay on this machine."""
        folder = self.resolved.checkpoint_dir
        if self.resolved.source == "runtime":
            folder = self.resolved.runtime_dir or folder
        return self.base | {"path": str(folder.absolute())}


def open_model(
    name: str | None = None,
    *,
    adapter: Path | None = None,
    base_of: Path | None = None,
    device: str | DeviceChoice = "auto",
    dtype: str | DtypeChoice = "auto",
    frozen_weights: str = "float32",
    offline: bool = False,
    progress: Progress,
) -> OpenedModel:
    """Load a model by catalog name, hub id or folder, with or without an adapter.

    Args:
        name: None takes the base that the adapter was trained on, and `tiny` without an adapter.
        adapter: run or adapter folder.
        base_of: run or adapter folder whose base is taken where there is no name.

    Raises:
        RequestError: no such model or adapter, or the adapter belongs to another base.
        SourceUnreachableError: no source has the model.
        MachineError: this machine has no such device.
    """
    chosen_device = choose_device(device) if isinstance(device, str) else device
    chosen_dtype = choose_dtype(chosen_device.device, dtype) if isinstance(dtype, str) else dtype
    resolved = _resolve(name, adapter, base_of, offline=offline, progress=progress)
    adapter = None if adapter is None else find_adapter(adapter)
    refuse_stray_adapter(resolved.checkpoint_dir, adapter)
    progress.say(f"weights: {resolved.name}, {resolved.reason} ({resolved.checkpoint_dir})")
    if remark := weight_files(resolved.checkpoint_dir).remark:
        progress.say(remark)
    frozen = choose_frozen_format(chosen_device.device, frozen_weights)
    if str(frozen.dtype) != f"torch.{frozen_weights}":
        progress.say(frozen.reason)
    model = load_checkpoint(
        resolved.checkpoint_dir,
        device=chosen_device.device,
        # Fused attention has given wrong gradients on MPS before; eager costs little there.
        attention="eager" if chosen_device.device.type == "mps" else "sdpa",
        dtype=frozen.dtype,
    )
    if adapter is not None:
        load_adapter(model, adapter)
    record = resolved.record
    rate = record.tokens_per_second if record else TOKENS_PER_SECOND
    return OpenedModel(
        model=model,
        resolved=resolved,
        base=base_identity(resolved),
        device=chosen_device,
        dtype=chosen_dtype,
        limits=DecodeLimits(tokens_per_second=rate),
        language=record.language if record else "en",
        adapters=AdapterSet(model, DEFAULT_ADAPTER if adapter is not None else None),
    )


def _resolve(
    name: str | None,
    adapter: Path | None,
    base_of: Path | None,
    *,
    offline: bool,
    progress: Progress,
) -> ResolvedModel:
    subject = base_of if adapter is None else adapter
    if subject is not None and name is not None and is_name_of_base(name, subject):
        name = None
    if name is not None or subject is None:
        resolved = resolve_model(name or "tiny", offline=offline, progress=progress)
    else:
        resolved = resolve_base(subject, offline=offline, progress=progress)
    if subject is None:
        return resolved
    return check_base(
        resolved, subject, is_named=name is not None, offline=offline, progress=progress
    )
