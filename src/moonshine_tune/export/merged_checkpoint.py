"""`merge`: a checkpoint with the adapter's effect added, which transformers loads without PEFT."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from moonshine_tune.core.errors import ProblemsError, RequestError
from moonshine_tune.core.files import complete_folder, holds_out, sha256_of, write_json_atomic
from moonshine_tune.core.progress import Progress
from moonshine_tune.models.files import ADAPTER_WEIGHTS_FILE, CHECKPOINT_WEIGHTS_FILE
from moonshine_tune.models.lora import find_adapter
from moonshine_tune.models.merge import merged_weights
from moonshine_tune.registry.open import open_model
from moonshine_tune.runs.folder import RunFolder

_COPIED = (
    "config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json",
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
)  # fmt: skip


@dataclass(frozen=True)
class MergeResult:
    """The written checkpoint.

    Attributes:
        base: name of the base model.
        changed: how many tensors the adapter changed.
        sha256: hash of the weights.
    """

    checkpoint_dir: Path
    base: str
    tensors: int
    changed: int
    sha256: str


@holds_out(lambda run, out, **options: out)
def merge(run: Path, out: Path, *, progress: Progress, model: str | None = None) -> MergeResult:
    """Write the base checkpoint with the adapter of `run` merged into it, complete or absent.

    Args:
        run: run folder, or an adapter folder together with `model`.

    Raises:
        RequestError: no adapter, one of another base, or `out` exists.
        ProblemsError: the merged tensors are not those of the base.
    """
    if out.exists():
        raise RequestError("the output path exists", where=out, hint="choose another --out")
    adapter = find_adapter(run)
    name = model or base_model_of(run)
    opened = open_model(name, adapter=adapter, device="cpu", dtype="float32", progress=progress)
    source = opened.resolved.checkpoint_dir
    # Every tensor of the base's files, in its stored number format.
    state: dict[str, Tensor] = {}
    for path in sorted(source.glob("*.safetensors")):
        state |= load_file(path)
    merged = merged_weights(opened.model)
    changed = merge_into(state, merged)
    with complete_folder(out) as scratch:
        weights = scratch / CHECKPOINT_WEIGHTS_FILE
        save_file(state, weights, metadata={"format": "pt"})
        weights.chmod(0o644)
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
            },
        )
    return MergeResult(out, str(opened.base["name"]), len(state), changed, digest)


def merge_into(state: dict[str, Tensor], merged: Mapping[str, Tensor]) -> int:
    """Replace the base's tensors by merged ones, in the base's number format; returns how many.

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


def base_model_of(run: Path) -> str:
    """The base model that a run was trained on.

    Raises:
        RequestError: an adapter folder, which does not name its base.
    """
    if not (run / "run.json").is_file():
        raise RequestError(
            "an adapter folder does not name its base model",
            where=run,
            hint="name it with: --model tiny",
        )
    return str(RunFolder.open(run).read_record().settings.get("model", "tiny"))
