"""Resolve a model's name to a trainable checkpoint on this disk, from the first source that has it.

Sources in order: a local folder, the hub's local cache, this program's cache, the hub, Moonshine's
own store, the wheel (`tiny` only). The result keeps the reason of every source that was tried.
"""

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from moonshine_tune.core.errors import RequestError, SourceUnreachableError, TuneError
from moonshine_tune.core.files import (
    complete_folder,
    disk_errors,
    read_json,
    sha256_of,
    write_json_atomic,
)
from moonshine_tune.core.hardware import cache_root, make_cache_folder
from moonshine_tune.core.names import home_expanded, short_label
from moonshine_tune.core.progress import Progress, SilentProgress
from moonshine_tune.core.text import quoted
from moonshine_tune.models.files import ADAPTER_CONFIG_FILE
from moonshine_tune.models.fingerprint import fingerprint_of
from moonshine_tune.registry.catalog import ModelRecord, lookup_model, nearest_hint
from moonshine_tune.registry.hub import cached_on_hub_disk, fetch_from_hub
from moonshine_tune.registry.moonshine_store import fetch_from_store
from moonshine_tune.registry.wheel import cached_wheel_assets, fetch_wheel_assets
from moonshine_tune.runtime.layout import is_runtime_folder, read_layout

SOURCES = ("cache", "hub", "store", "wheel")
"""Sources of a catalog name, in the order in which they are tried.

A copy of the hub's weights on this disk comes first: the others are rebuilt from 8 bits.
"""
CACHE_RECORD = "source.json"
"""The cache's record in a checkpoint folder; it names folders of this machine."""

_HASH_DIGITS = 12
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
"""The form of a hub id, which a relative path may have too."""
_FAMILIES = {"moonshine": "v1", "moonshine_streaming": "streaming"}


@dataclass(frozen=True)
class Attempt:
    """A source that was tried, whether it had the model, and the reason."""

    source: str
    served: bool
    reason: str


@dataclass(frozen=True)
class ResolvedModel:
    """A trainable checkpoint on this disk and its origin.

    `runtime_dir` is the runtime folder of the same weights, if available. `revision` is the hub's
    commit, or `sha256:` and a hash of the content. `record` is None for a model outside the
    catalog.
    """

    name: str
    family: str
    checkpoint_dir: Path
    runtime_dir: Path | None
    source: str
    reason: str
    revision: str
    attempts: tuple[Attempt, ...]
    record: ModelRecord | None


def resolve_model(
    name_or_path: str,
    *,
    cache: Path | None = None,
    offline: bool = False,
    sources: tuple[str, ...] | None = None,
    progress: Progress | None = None,
) -> ResolvedModel:
    """A checkpoint for a catalog name, a hub id, a `save_pretrained` or a runtime folder.

    `sources` restricts what is tried for a name, in the given order; `offline` forbids the network.

    Raises:
        RequestError: no such name or folder, or a folder without a Moonshine model.
        SourceUnreachableError: no source has it; lists each with its reason.
    """
    cache = cache or cache_root()
    progress = progress or SilentProgress()
    folder = home_expanded(name_or_path)
    record = lookup_model(name_or_path)
    if folder.is_dir() and (record is None or os.sep in name_or_path):
        return _from_folder(folder, cache, progress)
    if record is None and not HUB_ID.fullmatch(name_or_path):
        raise RequestError(
            f"no model is called {name_or_path!r}, and no such folder exists",
            hint=nearest_hint(name_or_path),
        )
    name = record.name if record else name_or_path
    search = _ModelSearch(name, record, cache, offline, progress)
    if sources is None:
        ids = record.hub_ids if record else (name,)
        sources = ("hub", *SOURCES) if cached_on_hub_disk(ids) else SOURCES
    return search.run(tuple(dict.fromkeys(sources)))


def cached_model(name: str, *, cache: Path | None = None) -> ResolvedModel | None:
    """The model if this program's cache has it complete, else None; never uses the network."""
    try:
        return resolve_model(name, cache=cache, offline=True, sources=("cache",))
    except TuneError:
        return None


@dataclass(frozen=True)
class _ModelSearch:
    """Tries sources one after the other for one model."""

    name: str
    record: ModelRecord | None
    cache: Path
    offline: bool
    progress: Progress

    def run(self, sources: tuple[str, ...]) -> ResolvedModel:
        fetch: dict[str, Callable[[], ResolvedModel]] = {
            "cache": self.from_cache,
            "hub": self.from_hub,
            "store": self.from_store,
            "wheel": self.from_wheel,
        }
        unknown = [source for source in sources if source not in fetch]
        if unknown:
            raise RequestError(
                f"no source is called {unknown[0]!r}", hint=f"sources: {', '.join(SOURCES)}"
            )
        attempts: list[Attempt] = []
        for source in sources:
            try:
                result = fetch[source]()
            except TuneError as error:
                # After a damaged download or rebuild too, the next source is tried.
                reason = error.message if isinstance(error, SourceUnreachableError) else str(error)
                attempts.append(Attempt(source, False, reason))
            else:
                attempts.append(Attempt(source, True, result.reason))
                return replace(result, attempts=tuple(attempts))
        lines = [f"  {attempt.source}: {attempt.reason}" for attempt in attempts]
        raise SourceUnreachableError(
            "\n".join([f"no source has the model {self.name!r} now:", *lines]), hint=self._hint()
        )

    def _hint(self) -> str:
        if self.record is None:
            return f"if {self.name} is a folder, check its path; else check the hub id"
        if self.offline:
            return f"run once with a network: moonshine-tune models fetch {quoted(self.name)}"
        if self.record.in_wheel:
            return "connect to a package index or the hub, or give a local folder as the model"
        return (
            "connect to the network, give a local folder as the model, or use tiny, "
            "which comes from the package index"
        )

    def from_cache(self) -> ResolvedModel:
        if self.record is None:
            raise SourceUnreachableError("the cache holds only models of the catalog")
        reasons = []
        pattern = f"{self.name}-{'[0-9a-f]' * _HASH_DIGITS}"
        for folder in sorted((self.cache / "checkpoints").glob(pattern)):
            entry, damage = _read_entry(folder)
            if entry is not None:
                return self._cached(folder, entry)
            reasons.append(f"{folder.name}: {damage}")
        raise SourceUnreachableError("; ".join(reasons) or "not in the cache")

    def _cached(self, folder: Path, entry: dict[str, Any]) -> ResolvedModel:
        origin = entry["source"]
        folder_of_entry = Path(entry["runtime_dir"])
        runtime = None
        if origin == "wheel":
            runtime = self._runtime_of_wheel()
        elif is_runtime_folder(folder_of_entry):
            is_unchanged = _runtime_hash(folder_of_entry) == entry["runtime_sha256"]
            runtime = folder_of_entry if is_unchanged else None
        missing = "" if runtime else "; its runtime folder is missing or altered: export needs one"
        return self._resolved(
            folder, runtime, "cache", f"rebuilt earlier from 8-bit files of the {origin}{missing}",
            f"sha256:{entry['runtime_sha256']}",
        )  # fmt: skip

    def _runtime_of_wheel(self) -> Path | None:
        assets = cached_wheel_assets(self.cache)
        try:
            if assets is None and not self.offline:
                assets = fetch_wheel_assets(self.cache, self.progress)
        except TuneError as error:
            self.progress.say(f"the runtime folder of {self.name} is missing: {error.message}")
        return assets.runtime_dir if assets else None

    def from_hub(self) -> ResolvedModel:
        ids = self.record.hub_ids if self.record else (self.name,)
        checkpoint = fetch_from_hub(ids, offline=self.offline, progress=self.progress)
        result = self._resolved(
            checkpoint.folder, None, "hub", f"{checkpoint.repo} has the original weights",
            checkpoint.revision,
        )  # fmt: skip
        if self.record and result.family != self.record.family:
            raise SourceUnreachableError(f"{checkpoint.repo} holds a {result.family} model")
        return result

    def from_store(self) -> ResolvedModel:
        if self.record is None or self.record.store is None:
            raise SourceUnreachableError("Moonshine's store does not have this model")
        if self.offline:
            raise SourceUnreachableError("the network is forbidden (--offline)")
        runtime = fetch_from_store(
            self.record.language,
            self.record.store,
            make_cache_folder(self.cache / "store", self.progress.say),
            self.progress,
        )
        return self._rebuilt(runtime, "store", "rebuilt from Moonshine's runtime files")

    def from_wheel(self) -> ResolvedModel:
        if self.record is None or not self.record.in_wheel:
            raise SourceUnreachableError("the wheel has tiny only")
        assets = cached_wheel_assets(self.cache)
        if assets is None and self.offline:
            raise SourceUnreachableError(
                "not unpacked yet, and the network is forbidden (--offline)"
            )
        assets = assets or fetch_wheel_assets(self.cache, self.progress)
        return self._rebuilt(
            assets.runtime_dir, "wheel", "rebuilt from the runtime model in moonshine-voice 0.1.0"
        )

    def _rebuilt(self, runtime: Path, source: str, reason: str) -> ResolvedModel:
        folder, digest = rebuild_once(
            runtime, self.name, source=source, cache=self.cache, progress=self.progress
        )
        return self._resolved(folder, runtime, source, reason, f"sha256:{digest}")

    def _resolved(
        self, folder: Path, runtime: Path | None, source: str, reason: str, revision: str
    ) -> ResolvedModel:
        family = _family_of(folder)
        return ResolvedModel(
            self.name, family, folder, runtime, source, reason, revision, (), self.record
        )


def rebuild_once(
    runtime: Path, name: str, *, source: str, cache: Path, progress: Progress
) -> tuple[Path, str]:
    """The cached checkpoint of a runtime folder, rebuilt if it is missing or damaged.

    Returns its folder and the hash of the runtime files. Of several processes at once, one
    rebuilds and the others wait for it.
    """
    # Imported here, so that a ready checkpoint can be used where onnxruntime is missing.
    from moonshine_tune.runtime.rebuild import rebuild_checkpoint

    digest = _runtime_hash(runtime)
    home = cache / "checkpoints"
    folder = home / f"{short_label(name, 'model')}-{digest[:_HASH_DIGITS]}"
    # A complete checkpoint needs no lock, which a cache that may only be read cannot have.
    if _read_entry(folder)[0] is not None:
        return folder, digest
    home = make_cache_folder(home, progress.say)
    folder = home / folder.name
    with disk_errors(home), FileLock(home / ".rebuild.lock"):
        entry, damage = _read_entry(folder)
        if entry is not None:
            return folder, digest
        if folder.exists():
            progress.say(f"the cached checkpoint is damaged ({damage}): rebuilding it")
        with (
            progress.stage(f"rebuild {name}", 2) as stage,
            complete_folder(folder, replace=True) as scratch,
        ):
            rebuild_checkpoint(runtime, scratch / "rebuilt")
            stage.advance(1, "hash")
            for path in sorted((scratch / "rebuilt").iterdir()):
                path.rename(scratch / path.name)
            (scratch / "rebuilt").rmdir()
            record = {
                "model": name,
                "source": source,
                "runtime_dir": str(runtime.absolute()),
                "runtime_sha256": digest,
                "files": {path.name: sha256_of(path) for path in sorted(scratch.iterdir())},
            }
            write_json_atomic(scratch / CACHE_RECORD, record)
            stage.advance(1)
    return folder, digest


def _runtime_hash(runtime: Path) -> str:
    """One hash over the names and contents of a runtime folder's files."""
    total = hashlib.sha256()
    for name in read_layout(runtime).files:
        total.update(f"{name} {sha256_of(runtime / name)}\n".encode())
    return total.hexdigest()


def _read_entry(folder: Path) -> tuple[dict[str, Any] | None, str]:
    """The record of a cached checkpoint with complete files; or None and the damage."""
    try:
        entry = read_json(folder / CACHE_RECORD)
        files = dict(entry["files"])
        for key in ("model", "source", "runtime_dir", "runtime_sha256"):
            str(entry[key])
    except (RequestError, ValueError, KeyError, TypeError):
        return None, f"no readable {CACHE_RECORD}"
    for name, digest in files.items():
        path = folder / name
        if not path.is_file():
            return None, f"{name} is missing"
        if sha256_of(path) != digest:
            return None, f"{name} is altered"
    return entry, ""


def _from_folder(folder: Path, cache: Path, progress: Progress) -> ResolvedModel:
    name = folder.absolute().name
    if (folder / "config.json").is_file():
        family = _family_of(folder)
        if folder.absolute().parent == cache.absolute() / "checkpoints":
            entry, _damage = _read_entry(folder)
            if entry is not None and (record := lookup_model(entry["model"])) is not None:
                # By its path, as records of PEFT name it: still the catalog's model.
                return _ModelSearch(record.name, record, cache, True, progress)._cached(
                    folder, entry
                )
        fingerprint = fingerprint_of(folder)
        runtime = folder if is_runtime_folder(folder) else None
        return ResolvedModel(
            name, family, folder, runtime, "folder", "a local save_pretrained folder",
            f"sha256:{fingerprint.content_sha256}",
            (Attempt("folder", True, "a local folder"),), None,
        )  # fmt: skip
    if (folder / ADAPTER_CONFIG_FILE).is_file():
        raise RequestError(
            "this folder holds an adapter, not a model",
            where=folder,
            hint=f"name it as the adapter: --adapter {quoted(folder)} (and its base with --model)",
        )
    if is_runtime_folder(folder):
        # With a prefix: a folder that happens to be called "tiny" is not the catalog's tiny.
        checkpoint, digest = rebuild_once(
            folder, f"local-{name}", source="folder", cache=cache, progress=progress
        )
        return ResolvedModel(
            name, _family_of(checkpoint), checkpoint, folder, "runtime",
            "rebuilt from a local runtime folder", f"sha256:{digest}",
            (Attempt("runtime", True, "a local runtime folder"),), None,
        )  # fmt: skip
    raise RequestError(
        "this folder holds neither a checkpoint (config.json and safetensors) "
        "nor a Moonshine runtime model (encoder_model.ort …)",
        where=folder,
        hint="give a catalog name instead: moonshine-tune models list",
    )


def _family_of(folder: Path) -> str:
    """The family that a checkpoint's config.json names.

    Raises:
        RequestError: unreadable, or not a Moonshine model.
    """
    path = folder / "config.json"
    kind = read_json(path).get("model_type")
    if kind not in _FAMILIES:
        raise RequestError(
            f"a {kind!r} model, not a Moonshine one",
            where=path,
            hint=f"known are {' and '.join(map(repr, _FAMILIES))}",
        )
    return _FAMILIES[kind]
