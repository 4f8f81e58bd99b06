"""The base model of a run or an adapter: named by its record, recognized by its weights.

A run may be used from any folder, on another machine, and after its base was moved. Folders are
therefore only candidates, and the fingerprint decides.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from moonshine_tune.core.errors import RequestError, TuneError
from moonshine_tune.core.files import read_json
from moonshine_tune.core.hardware import cache_root
from moonshine_tune.core.names import home_expanded
from moonshine_tune.core.progress import Progress, SilentProgress
from moonshine_tune.core.text import quoted
from moonshine_tune.models.files import ADAPTER_CONFIG_FILE, BASE_FILE
from moonshine_tune.models.fingerprint import compare_weights, fingerprint_of, short_hash
from moonshine_tune.registry.catalog import lookup_model
from moonshine_tune.registry.resolve import HUB_ID, ResolvedModel, resolve_model

_RUN_FILE = "run.json"
_ADAPTER_FOLDER = "adapter"
# A run's copy of the adapter that it started at, which has the same base.
_PARENT_FOLDER = "parent"
_LOCAL_SOURCES = ("hub", "cache")
# A checkpoint in this program's cache: the model's name and a hash.
_CACHED_NAME = re.compile(r"(.+)-[0-9a-f]{12}")


@dataclass(frozen=True)
class BaseRecord:
    """What a run or an adapter says about its base.

    Attributes:
        folder: the run or adapter folder.
        name: as the user typed it or as PEFT recorded it: a catalog name, hub id or folder.
        path: the base's folder at that time.
        weights: `Fingerprint`'s fields, as far as they are recorded.
    """

    folder: Path
    name: str | None = None
    path: str | None = None
    weights: Mapping[str, Any] = field(default_factory=dict)

    @property
    def has_fingerprint(self) -> bool:
        """Whether the weights can be recognized."""
        return any(self.weights.get(key) for key in ("content_sha256", "sha256"))


def base_identity(resolved: ResolvedModel) -> dict[str, Any]:
    """The record of a base in an adapter: name, family, revision, fingerprint of the weights."""
    return {
        "name": resolved.name if resolved.record else resolved.checkpoint_dir.name,
        "family": resolved.family,
        "source": resolved.source,
        "revision": resolved.revision,
        **asdict(fingerprint_of(resolved.checkpoint_dir)),
    }


def location_of(resolved: ResolvedModel) -> str:
    """What to type as --model for this model, from any folder."""
    if resolved.record is not None or resolved.source == "hub":
        return resolved.name
    folder = resolved.runtime_dir if resolved.source == "runtime" else resolved.checkpoint_dir
    return str((folder or resolved.checkpoint_dir).absolute())


def read_base_record(path: Path) -> BaseRecord:
    """What the records in a run or adapter folder say; empty where there are none.

    Raises:
        RequestError: a record that cannot be read.
    """
    absolute = path.absolute()
    is_part = absolute.name in (_ADAPTER_FOLDER, _PARENT_FOLDER)
    run = absolute.parent if is_part and (absolute.parent / _RUN_FILE).is_file() else absolute
    adapter = run / _ADAPTER_FOLDER if (run / _ADAPTER_FOLDER).is_dir() else absolute
    record: dict[str, Any] = {}
    name: Any = None
    if (run / _RUN_FILE).is_file():
        content = read_json(run / _RUN_FILE)
        settings, base = content.get("settings"), content.get("base")
        record = dict(base) if isinstance(base, dict) else {}
        name = settings.get("model", "tiny") if isinstance(settings, dict) else "tiny"
    if (adapter / BASE_FILE).is_file():
        record |= {k: v for k, v in read_json(adapter / BASE_FILE).items() if v is not None}
    if name is None:
        name = record.get("name")
    if name is None and (adapter / ADAPTER_CONFIG_FILE).is_file():
        name = read_json(adapter / ADAPTER_CONFIG_FILE).get("base_model_name_or_path")
    where = record.get("path")
    return BaseRecord(path, str(name) if name else None, str(where) if where else None, record)


def is_name_of_base(name: str, path: Path) -> bool:
    """Whether a name that is no model here is the one that records and messages give the base.

    A run calls its base by the folder's name or the path as typed, which is found from no other
    folder.
    """
    if home_expanded(name).is_dir() or lookup_model(name) is not None:
        return False
    record = read_base_record(path)
    return record.has_fingerprint and name in (record.weights.get("name"), record.name)


def resolve_base(
    path: Path, *, offline: bool = False, progress: Progress | None = None
) -> ResolvedModel:
    """The base model of a run or adapter folder, wherever it is on this disk now.

    Raises:
        RequestError: it names none, or none with these weights is on this disk.
        SourceUnreachableError: it is a model of the catalog that no source has now.
    """
    progress = progress or SilentProgress()
    record = read_base_record(path)
    if not record.has_fingerprint:
        return _resolve_by_name(record, offline=offline, progress=progress)
    known = _with_these_weights(record, offline=offline, progress=progress)
    if known is not None:
        return known
    if record.name is not None and _is_public(record):
        # From the network; whether its weights are the recorded ones is checked where it is used.
        return resolve_model(record.name, offline=offline, progress=progress)
    looked = [candidate for candidate, _ in _candidates(record)]
    changed = [item for item in looked if Path(item).name == record.weights.get("name")]
    weights = f"weights {short_hash(record.weights)}"
    raise RequestError(
        f"{changed[0]} holds another base model now than was trained on ({weights})"
        if changed
        else f"the base model {record.name!r} ({weights}) is not on this disk",
        where=path,
        hint=f"name its folder with --model; it was {record.path or record.name}",
    )


def _is_public(record: BaseRecord) -> bool:
    """Whether the name is one of the catalog or the hub, not a folder."""
    is_name = record.name is not None and (
        lookup_model(record.name) is not None or HUB_ID.fullmatch(record.name) is not None
    )
    return is_name and record.weights.get("source") not in ("folder", "runtime")


def _resolve_by_name(record: BaseRecord, *, offline: bool, progress: Progress) -> ResolvedModel:
    """Adapters of other tools name a folder or a hub id, and no weights."""
    where = record.folder
    if record.name is None:
        raise RequestError(
            "this adapter does not name its base model",
            where=where,
            hint="name it, such as: --model tiny",
        )
    last = Path(record.name).name
    cached = _CACHED_NAME.fullmatch(last)
    for name in (record.name, cached[1] if cached else last.removeprefix("moonshine-")):
        if home_expanded(name).is_dir() or lookup_model(name) is not None:
            progress.say(f"base model: {record.name}, as the adapter names it")
            return resolve_model(name, offline=offline, progress=progress)
    raise RequestError(
        f"the adapter names the base model {record.name}, which is not on this disk",
        where=where,
        hint="name its folder or hub id, or the model that it is a copy of: --model tiny",
    )


def _with_these_weights(
    record: BaseRecord, *, offline: bool, progress: Progress
) -> ResolvedModel | None:
    """The first candidate with the recorded weights, else one with them rounded."""
    rounded: ResolvedModel | None = None
    for name, sources in _candidates(record):
        with suppress(TuneError, OSError):
            resolved = resolve_model(
                name, offline=offline or sources is not None, sources=sources, progress=progress
            )
            match compare_weights(record.weights, base_identity(resolved)):
                case "same":
                    return resolved
                case "rounded":
                    rounded = rounded or resolved
    return rounded


def _candidates(record: BaseRecord) -> Iterator[tuple[str, tuple[str, ...] | None]]:
    """Arguments of `resolve_model` that may be the base, all on this disk."""
    name = record.name
    if name is not None and _is_public(record):
        for source in _LOCAL_SOURCES:
            yield name, (source,)
    folders = [Path(record.path)] if record.path else []
    if name is not None:
        typed = home_expanded(name)
        # Most often a run and its base share a folder that was moved or is not the current one.
        folders += [parent / typed for parent in (Path(), *record.folder.absolute().parents[:4])]
    folders += sorted((cache_root() / "checkpoints").glob("*"))
    for folder in dict.fromkeys(folder.absolute() for folder in folders):
        if (folder / "config.json").is_file() or (folder / "tokenizer.bin").is_file():
            yield str(folder), None


def check_base(
    resolved: ResolvedModel, path: Path, *, is_named: bool, offline: bool, progress: Progress
) -> ResolvedModel:
    """The model, or another copy of it on this disk that has the weights of an adapter's base.

    Args:
        path: run or adapter folder.
        is_named: the user named the model, and did not leave it to the adapter's record.

    Raises:
        RequestError: the adapter was trained on another base.
    """
    record = read_base_record(path)
    own = base_identity(resolved)
    match = compare_weights(record.weights, own)
    if match == "rounded":
        progress.say(
            f"base model: a copy of {record.weights.get('name')} in {own['precision']}; the "
            f"adapter was trained on its {record.weights.get('precision')} weights"
        )
    named = lookup_model(record.name or "") if match == "unknown" else None
    if None not in (named, resolved.record) and named != resolved.record:
        progress.say(f"base model: {resolved.name} as requested; the adapter names {record.name}")
    if match != "other":
        return resolved
    known = _with_these_weights(record, offline=True, progress=progress)
    if known is not None and resolved.record is not None and known.record == resolved.record:
        progress.say(f"weights: the adapter was trained on other ones of {resolved.name}")
        return known
    hint = f"it was trained on {record.path or record.name}: name that model's folder with --model"
    if known is not None:
        again = " or leave out --model" if is_named else ""
        hint = f"run it with: --model {quoted(location_of(known))}{again}"
    raise RequestError(
        f"it was trained on another base model ({record.weights.get('name')}, weights "
        f"{short_hash(record.weights)}), not on {resolved.name} (weights {short_hash(own)})",
        where=path,
        hint=hint,
    )
