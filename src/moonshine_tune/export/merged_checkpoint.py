"""`merge`: a checkpoint with the adapter's effect added, which transformers loads without PEFT."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from moonshine_tune.core.errors import ProblemsError, RequestError
from moonshine_tune.core.files import (
    complete_folder,
    holds_out,
    read_json,
    sha256_of,
    write_json_atomic,
)
from moonshine_tune.core.progress import Progress
from moonshine_tune.models.files import (
    ADAPTER_WEIGHTS_FILE,
    CHECKPOINT_WEIGHTS_FILE,
    weight_files,
)
from moonshine_tune.models.lora import find_adapter
from moonshine_tune.models.merge import LazyMerged
from moonshine_tune.registry.open import open_model

DTYPES = ("float32", "bfloat16", "float16")
_COPIED = (
    "generation_config.json", "preprocessor_config.json", "processor_config.json",
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
)  # fmt: skip


@dataclass(frozen=True)
class MergeResult:
    """The written checkpoint.

    Attributes:
        base: name of the base model.
        changed: how many tensors the adapter changed.
        sha256: hash of the weights.
        dtype: number format of the weights.
        relative_error: of the adapter's effect, by rounding to `dtype`: 0.1 is a tenth of it lost.
    """

    checkpoint_dir: Path
    base: str
    tensors: int
    changed: int
    sha256: str
    dtype: str
    relative_error: float


@holds_out(lambda run, out, **options: out)
def merge(
    run: Path,
    out: Path,
    *,
    progress: Progress,
    model: str | None = None,
    dtype: str = "float32",
) -> MergeResult:
    """Write the base checkpoint with the adapter of `run` merged into it, complete or absent.

    Args:
        run: run folder or adapter folder.
        model: the base; None takes the one that the run or adapter names.
        dtype: number format of the weights, whatever that of the base is. A step of training is
            smaller than what 16 bits resolve: most of a short run is lost in them.

    Raises:
        RequestError: no adapter, one of another base, or `out` exists.
        ProblemsError: the merged tensors are not those of the base.
    """
    if dtype not in DTYPES:
        raise RequestError(
            f"no number format is called {dtype!r}", hint=f"one of: {', '.join(DTYPES)}"
        )
    if out.exists():
        raise RequestError("the output path exists", where=out, hint="choose another --out")
    adapter = find_adapter(run)
    opened = open_model(model, adapter=adapter, device="cpu", dtype="float32", progress=progress)
    source = opened.resolved.checkpoint_dir
    # Every tensor of the base's files, those of other kinds than floating point as they are.
    state: dict[str, Tensor] = {}
    for path in weight_files(source).paths:
        state |= load_file(path)
    if opened.model.module.config.tie_word_embeddings:
        # Stored a second time by some versions of transformers, and not read.
        state.pop("proj_out.weight", None)
    target: torch.dtype = getattr(torch, dtype)
    state = {name: value.to(target) if value.is_floating_point() else value
             for name, value in state.items()}  # fmt: skip
    merged = LazyMerged(opened.model)
    changed = merge_into(state, merged)
    error = rounding_error(merged, state) if dtype != "float32" else 0.0
    with complete_folder(out) as scratch:
        weights = scratch / CHECKPOINT_WEIGHTS_FILE
        save_file(state, weights, metadata={"format": "pt"})
        weights.chmod(0o644)
        _write_config(source / "config.json", scratch / "config.json", dtype)
        for name in _COPIED:
            if (source / name).is_file():
                shutil.copyfile(source / name, scratch / name)
        digest = sha256_of(weights)
        write_json_atomic(
            scratch / "merged.json",
            {
                "base": opened.base,
                "adapter_sha256": sha256_of(adapter / ADAPTER_WEIGHTS_FILE),
                "tensors": len(state),
                "changed": changed,
                "dtype": dtype,
                "relative_error": error,
            },
        )
    base = str(opened.base["name"])
    return MergeResult(out, base, len(state), changed, digest, dtype, error)


def _write_config(source: Path, target: Path, dtype: str) -> None:
    """Copy config.json with the number format of the weights, in which transformers loads them."""
    config = read_json(source)
    config.pop("transformers_weights", None)
    config.pop("torch_dtype", None)
    target.write_text(json.dumps(config | {"dtype": dtype}, indent=2, sort_keys=True) + "\n")


@torch.no_grad()
def rounding_error(merged: LazyMerged, state: Mapping[str, Tensor]) -> float:
    """Norm of what rounding changes, divided by the norm of the adapter's effect."""
    lost = effect = 0.0
    for name, exact in merged.items():
        lost += float((state[name].float() - exact).double().square().sum())
        effect += float((exact - merged.base(name)).double().square().sum())
    return (lost / effect) ** 0.5 if effect else 0.0


def merge_into(state: dict[str, Tensor], merged: Mapping[str, Tensor]) -> int:
    """Replace tensors by merged ones, in the number format of `state`; returns how many.

    Raises:
        ProblemsError: the base has no such tensor, or one of another shape; lists all.
    """
    problems = [f"{name}: the base has none" for name in merged if name not in state]
    problems += [
        f"{name}: {tuple(value.shape)} instead of {tuple(state[name].shape)}"
        for name, value in merged.items()
        if name in state and value.shape != state[name].shape
    ]
    if problems:
        raise ProblemsError(
            f"{len(problems)} merged tensors are not those of the base checkpoint",
            sorted(problems),
            hint="this adapter changes modules for which the base has no tensor; export it with "
            "--method trace",
        )
    for name, value in merged.items():
        state[name] = value.to(state[name].dtype).contiguous()
    return len(merged)
