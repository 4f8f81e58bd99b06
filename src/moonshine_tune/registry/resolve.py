"""From a model's name to a trainable checkpoint on this disk, by the first source that has it.

Sources in order: a local folder, this program's cache, the hub, Moonshine's own store, the wheel
(`tiny` only). Every refusal is kept with its reason, and so is the choice.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from moonshine_tune.core.errors import RequestError, SourceUnreachableError, TuneError
from moonshine_tune.core.files import complete_folder, disk_errors, sha256_of, write_json_atomic
from moonshine_tune.core.hardware import cache_root, make_cache_folder
from moonshine_tune.core.progress import Progress, SilentProgress
from moonshine_tune.registry.catalog import ModelRecord, lookup_model, nearest_hint
from moonshine_tune.registry.hub import fetch_from_hub
from moonshine_tune.registry.moonshine_store import fetch_from_store
from moonshine_tune.registry.wheel import cached_wheel_assets, fetch_wheel_assets
from moonshine_tune.runtime.layout import is_runtime_folder, read_layout

SOURCES = ("cache", "hub", "store", "wheel")
"""Sources of a catalog name, in the order in which they are tried."""

_RECORD = "source.json"
_HASH_DIGITS = 12
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_MODEL_TYPES = {"moonshine": "v1", "moonshine_streaming": "streaming"}


@dataclass(frozen=True)
class Attempt:
    """One source that was tried: its name, whether it served, and why or why not."""

    source: str
    served: bool
    reason: str


@dataclass(frozen=True)
class ResolvedModel:
    """A trainable checkpoint on this disk and how it came here.

    `runtime_dir` is the runtime folder of the same weights, where one is at hand. `revision` is
    the hub's commit, or `sha256:` and a hash of the content. `record` is None for a model that
    the catalog does not know.
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
        RequestError: no such name or folder, or a folder that holds no Moonshine model.
        SourceUnreachableError: no source has it; lists each with its reason.
    """
    cache = cache or cache_root()
    listener = progress or SilentProgress()
    folder = Path(name_or_path).expanduser()
    record = lookup_model(name_or_path)
    if folder.is_dir() and (record is None or os.sep in name_or_path):
        return _from_folder(folder, cache, listener)
    if record is None and not _HUB_ID.fullmatch(name_or_path):
        raise RequestError(
            f"no model is called {name_or_path!r}, and no such folder exists",
            hint=nearest_hint(name_or_path),
        )
    search = _ModelSearch(name_or_path, record, cache, offline, listener)
    return search.run(sources or SOURCES)


def cached_model(name: str, *, cache: Path | None = None) -> ResolvedModel | None:
    """The model where this program's cache holds it whole, else None; never uses the network."""
    try:
        return resolve_model(name, cache=cache, offline=True, sources=("cache",))
    except TuneError:
        return None


class _ModelSearch:
    """Tries sources one after the other for one model."""

    def __init__(
        self,
        name: str,
        record: ModelRecord | None,
        cache: Path,
        offline: bool,
        progress: Progress,
    ) -> None:
        self.name = record.name if record else name
        self.record = record
        self.cache = cache
        self.offline = offline
        self.progress = progress

    def run(self, sources: tuple[str, ...]) -> ResolvedModel:
        ways: dict[str, Callable[[], ResolvedModel]] = {
            "cache": self.from_cache,
            "hub": self.from_hub,
            "store": self.from_store,
            "wheel": self.from_wheel,
        }
        unknown = [source for source in sources if source not in ways]
        if unknown:
            raise RequestError(
                f"no source is called {unknown[0]!r}", hint=f"sources: {', '.join(SOURCES)}"
            )
        attempts: list[Attempt] = []
        for source in sources:
            try:
                found = ways[source]()
            except SourceUnreachableError as error:
                attempts.append(Attempt(source, False, error.message))
            except TuneError as error:
                # A damaged download or a layout that cannot be rebuilt: the next source may do.
                attempts.append(Attempt(source, False, str(error)))
            else:
                attempts.append(Attempt(source, True, found.reason))
                return replace(found, attempts=tuple(attempts))
        lines = [f"  {attempt.source}: {attempt.reason}" for attempt in attempts]
        raise SourceUnreachableError(
            "\n".join([f"no source has the model {self.name!r} now:", *lines]), hint=self._hint()
        )

    def _hint(self) -> str:
        if self.record is None:
            return f"if {self.name} is a folder, check its path; else check the hub id"
        if self.offline:
            return f"run once with a network: moonshine-tune models fetch {self.name}"
        if self.record.in_wheel:
            return "connect to a package index or the hub, or give a local folder as the model"
        return (
            "connect to the network, give a local folder as the model, or use tiny, "
            "which comes from the package index"
        )

    def from_cache(self) -> ResolvedModel:
        if self.record is None:
            raise SourceUnreachableError("only models of the catalog are kept there")
        reasons = []
        pattern = f"{self.name}-{'[0-9a-f]' * _HASH_DIGITS}"
        for folder in sorted((self.cache / "checkpoints").glob(pattern)):
            entry, damage = _read_entry(folder)
            if entry is not None:
                return self._cached(folder, entry)
            reasons.append(f"{folder.name}: {damage}")
        raise SourceUnreachableError("; ".join(reasons) or "nothing kept there yet")

    def _cached(self, folder: Path, entry: dict[str, Any]) -> ResolvedModel:
        origin = entry["source"]
        runtime: Path | None = Path(entry["runtime_dir"])
        if origin == "wheel":
            assets = cached_wheel_assets(self.cache)
            if assets is None and not self.offline:
                assets = self._wheel_again()
            runtime = assets.runtime_dir if assets else None
        elif runtime and (
            not is_runtime_folder(runtime) or _runtime_hash(runtime) != entry["runtime_sha256"]
        ):
            runtime = None
        without = "" if runtime else "; its runtime folder is gone or altered, so export needs one"
        return self._resolved(
            folder, runtime, "cache", f"rebuilt earlier from the {origin}{without}",
            f"sha256:{entry['runtime_sha256']}",
        )  # fmt: skip

    def _wheel_again(self) -> Any:
        try:
            return fetch_wheel_assets(self.cache, self.progress)
        except TuneError as error:
            self.progress.say(f"the runtime folder of {self.name} is missing: {error.message}")
            return None

    def from_hub(self) -> ResolvedModel:
        ids = self.record.hub_ids if self.record else (self.name,)
        got = fetch_from_hub(ids, offline=self.offline, progress=self.progress)
        family = _family_of(got.folder)
        if self.record and family != self.record.family:
            raise SourceUnreachableError(f"{got.repo} holds a {family} model")
        return ResolvedModel(
            self.name, family, got.folder, None, "hub", f"{got.repo} has the original weights",
            got.revision, (), self.record,
        )  # fmt: skip

    def from_store(self) -> ResolvedModel:
        record = self.record
        if record is None or record.store is None:
            raise SourceUnreachableError("Moonshine's store does not carry this model")
        if self.offline:
            raise SourceUnreachableError("the network is not to be used (--offline)")
        runtime = fetch_from_store(record.store, self.cache / "store", self.progress)
        return self._rebuilt(runtime, "store", "rebuilt from Moonshine's runtime files")

    def from_wheel(self) -> ResolvedModel:
        if self.record is None or not self.record.in_wheel:
            raise SourceUnreachableError("the wheel carries tiny only")
        assets = cached_wheel_assets(self.cache)
        if assets is None:
            if self.offline:
                raise SourceUnreachableError(
                    "not unpacked yet, and the network is not to be used (--offline)"
                )
            assets = fetch_wheel_assets(self.cache, self.progress)
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
        return ResolvedModel(
            self.name, _family_of(folder), folder, runtime, source, reason, revision, (),
            self.record,
        )  # fmt: skip


def rebuild_once(
    runtime: Path, name: str, *, source: str, cache: Path, progress: Progress
) -> tuple[Path, str]:
    """The cached checkpoint of a v1 runtime folder, rebuilt where it is missing or damaged.

    Returns its folder and the hash of the runtime files. Processes that ask at once wait for one.
    """
    # Here and not above: a ready checkpoint can be used where onnxruntime is missing.
    from moonshine_tune.runtime.rebuild import rebuild_checkpoint

    digest = _runtime_hash(runtime)
    label = re.sub(r"[^\w.-]+", "-", name).strip("-.") or "model"
    home = cache / "checkpoints"
    folder = home / f"{label}-{digest[:_HASH_DIGITS]}"
    with disk_errors(cache), FileLock(make_cache_folder(home) / ".rebuild.lock"):
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
            _write_entry(scratch, name, source, runtime, digest)
            stage.advance(1)
    return folder, digest


def _runtime_hash(runtime: Path) -> str:
    """One hash over the names and contents of a runtime folder's files."""
    total = hashlib.sha256()
    for name in read_layout(runtime).files:
        total.update(f"{name} {sha256_of(runtime / name)}\n".encode())
    return total.hexdigest()


def _write_entry(folder: Path, name: str, source: str, runtime: Path, digest: str) -> None:
    write_json_atomic(
        folder / _RECORD,
        {
            "model": name,
            "source": source,
            "runtime_dir": str(runtime.absolute()),
            "runtime_sha256": digest,
            "files": {path.name: sha256_of(path) for path in sorted(folder.iterdir())},
        },
    )


def _read_entry(folder: Path) -> tuple[dict[str, Any] | None, str]:
    """The record of a cached checkpoint whose files are whole; or None and what is wrong."""
    try:
        entry = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        files = dict(entry["files"])
        for key in ("model", "source", "runtime_dir", "runtime_sha256"):
            str(entry[key])
    except (OSError, ValueError, KeyError, TypeError):
        return None, f"no readable {_RECORD}"
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
        weights = sorted(folder.glob("*.safetensors"))
        if not weights:
            raise RequestError(
                "no safetensors weights in this folder",
                where=folder,
                hint="save the model with save_pretrained(folder, safe_serialization=True); "
                "other formats would have to be unpickled and are not read",
            )
        total = hashlib.sha256("".join(sha256_of(path) for path in weights).encode())
        runtime = folder if is_runtime_folder(folder) else None
        return ResolvedModel(
            name, family, folder, runtime, "folder", "a local save_pretrained folder",
            f"sha256:{total.hexdigest()}", (Attempt("folder", True, "a local folder"),), None,
        )  # fmt: skip
    if is_runtime_folder(folder):
        # A prefix of its own: a folder that happens to be called "tiny" is not the catalog's tiny.
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
    try:
        kind = json.loads(path.read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise RequestError("not a readable model config", where=path) from error
    if kind not in _MODEL_TYPES:
        raise RequestError(
            f"a {kind!r} model, not a Moonshine one",
            where=path,
            hint=f"known are {' and '.join(map(repr, _MODEL_TYPES))}",
        )
    return _MODEL_TYPES[kind]
