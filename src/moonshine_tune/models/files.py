"""Names and choice of the files in adapter and checkpoint folders, for code without torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import read_json
from moonshine_tune.core.text import quoted

ADAPTER_WEIGHTS_FILE, ADAPTER_CONFIG_FILE = "adapter_model.safetensors", "adapter_config.json"
"""PEFT's names."""
BASE_FILE = "base_model.json"
"""This program's record of an adapter's base model, beside the adapter."""
CHECKPOINT_WEIGHTS_FILE = "model.safetensors"
"""The name that `save_pretrained` gives weights that fit in one file."""
CHECKPOINT_INDEX_FILE = "model.safetensors.index.json"
"""The name of `save_pretrained`'s list of shards."""

_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")


@dataclass(frozen=True)
class WeightFiles:
    """The files that hold a checkpoint's own weights, and other weights beside them.

    Attributes:
        paths: sorted by name.
        unread: files that look like weights and are no part of the model.
    """

    paths: tuple[Path, ...]
    unread: tuple[Path, ...]

    @property
    def remark(self) -> str | None:
        """A line that names the unread files; None where there are none."""
        if not self.unread:
            return None
        own = names_of(self.paths, most=1)
        return f"not read: {names_of(self.unread)} (the model's own weights are in {own})"


def weight_files(folder: Path) -> WeightFiles:
    """The files of a checkpoint's weights, as transformers chooses them.

    The file that config.json names as `transformers_weights`, else `model.safetensors`, else the
    shards of `model.safetensors.index.json`. Any other file is no part of the model.

    Raises:
        RequestError: there are none, or the index and its shards do not agree.
    """
    named = _named_by_config(folder)
    if named is not None:
        own = _shards(folder, named) if named.endswith(".index.json") else (folder / named,)
        for path in own:
            if not path.is_file():
                raise RequestError(
                    f"{named} is missing, which config.json names as transformers_weights",
                    where=folder,
                    hint="copy that file too, or remove transformers_weights from config.json",
                )
    elif (folder / CHECKPOINT_WEIGHTS_FILE).is_file():
        own = (folder / CHECKPOINT_WEIGHTS_FILE,)
    elif (folder / CHECKPOINT_INDEX_FILE).is_file():
        own = _shards(folder, CHECKPOINT_INDEX_FILE)
    else:
        raise _no_weights(folder)
    others = {*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")} - set(own)
    return WeightFiles(own, tuple(sorted(others)))


def _named_by_config(folder: Path) -> str | None:
    path = folder / "config.json"
    named = read_json(path).get("transformers_weights") if path.is_file() else None
    if named is None:
        return None
    if not isinstance(named, str) or not _is_inside(named):
        raise RequestError(
            f"transformers_weights {named!r} is no file of this folder",
            where=path,
            hint="name a file of the folder, or remove the entry",
        )
    return named


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name


def _shards(folder: Path, index: str) -> tuple[Path, ...]:
    path = folder / index
    weight_map = read_json(path).get("weight_map")
    names = sorted(set(map(str, weight_map.values()))) if isinstance(weight_map, dict) else []
    if not names or not all(map(_is_inside, names)):
        raise RequestError(
            "not a list of shards: `weight_map` names no files of this folder",
            where=path,
            hint="copy the checkpoint folder again, or save the model with save_pretrained",
        )
    shards = tuple(folder / name for name in names)
    if missing := [shard for shard in shards if not shard.is_file()]:
        raise RequestError(
            f"{len(missing)} of {len(shards)} shards are missing: {names_of(missing)}",
            where=folder,
            hint=f"copy them too; {index} names them",
        )
    return shards


def _no_weights(folder: Path) -> RequestError:
    """The reason why a folder has no weights of its own, by what it holds instead."""
    others = [path for path in sorted(folder.glob("*.safetensors"))
              if path.name != ADAPTER_WEIGHTS_FILE]  # fmt: skip
    pickled = sorted(path for pattern in _PICKLED for path in folder.glob(pattern))
    no_weights = "no safetensors weights of a model in this folder"
    if (folder / ADAPTER_CONFIG_FILE).is_file() and not others:
        return RequestError(
            f"{no_weights}: it holds an adapter",
            where=folder,
            hint=f"name its base as the model, and it as the adapter: --model BASE --adapter "
            f"{quoted(folder)}",
        )
    if any("-of-" in path.name for path in others):
        hint = f"copy {CHECKPOINT_INDEX_FILE} too: it says which tensor is in which shard"
        return RequestError(
            f"{no_weights}: shards without their index ({names_of(others)})",
            where=folder,
            hint=hint,
        )
    if others:
        return RequestError(
            f"{no_weights}: no {CHECKPOINT_WEIGHTS_FILE}, but {names_of(others)}",
            where=folder,
            hint=f"if that is the model, rename it: mv {others[0].name} {CHECKPOINT_WEIGHTS_FILE}",
        )
    instead = f": only {names_of(pickled)}" if pickled else ""
    return RequestError(
        f"{no_weights}{instead}",
        where=folder,
        hint="save the model with save_pretrained(folder, safe_serialization=True); "
        "other formats must be unpickled and are not read",
    )


def names_of(items: Sequence[Path | str], most: int = 3) -> str:
    """The first names, and how many more there are."""
    names = [item.name if isinstance(item, Path) else item for item in items]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def refuse_stray_adapter(folder: Path, adapter: Path | None = None) -> None:
    """Refuse a checkpoint folder with an adapter in it, unless that is the one in use.

    transformers applies such an adapter silently, and the next adapter would learn on top of it.

    Args:
        adapter: folder of the adapter in use.

    Raises:
        RequestError: shows both readings.
    """
    config = folder / ADAPTER_CONFIG_FILE
    if not config.is_file() or (adapter is not None and adapter.resolve() == folder.resolve()):
        return
    name = quoted(folder)
    raise RequestError(
        f"this model folder also holds an adapter ({ADAPTER_CONFIG_FILE}), so its own weights "
        "or the adapted ones may be meant",
        where=folder,
        hint=f"with the adapter: moonshine-tune merge --run {name} --model {name} --out MERGED ; "
        "without: move its adapter_* files to another folder",
    )
