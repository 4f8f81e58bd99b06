"""Listing, fetching and rebuilding models."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import complete_folder
from moonshine_tune.core.hardware import cache_root
from moonshine_tune.core.progress import Progress
from moonshine_tune.registry.catalog import MODELS, ModelRecord
from moonshine_tune.registry.hub import cached_on_hub_disk
from moonshine_tune.registry.resolve import Attempt, cached_model, resolve_model
from moonshine_tune.runtime.layout import is_runtime_folder

# What belongs to this program's cache and not into a copy: it names folders of this machine.
_CACHE_RECORD = "source.json"


@dataclass(frozen=True)
class ModelEntry:
    """One model of the catalog: what it is, where it can be had, whether it is here already.

    `cached` names the place that holds it: "cache", "hub" (the hub's local cache) or None.
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
    """A model that is now on this disk, where it came from and what was tried."""

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


@dataclass(frozen=True)
class RebuildResult:
    """A checkpoint made from a runtime folder."""

    checkpoint_dir: Path
    tensors: int
    parameters: int
    source_sha256: dict[str, str]


def list_models(cache: Path | None = None) -> tuple[ModelEntry, ...]:
    """Every model of the catalog; asks the disk, never the network."""
    return tuple(_entry(record, cache or cache_root()) for record in MODELS)


def _entry(record: ModelRecord, cache: Path) -> ModelEntry:
    place = None
    if cached_model(record.name, cache=cache) is not None:
        place = "cache"
    elif cached_on_hub_disk(record.hub_ids):
        place = "hub"
    return ModelEntry(
        record.name, record.family, record.language, record.parameters, record.licence, place,
        trainable_sources(record), record.hub_ids,
    )  # fmt: skip


def trainable_sources(record: ModelRecord) -> tuple[str, ...]:
    """The sources that can give a trainable checkpoint of this model."""
    ways = {
        "hub": bool(record.hub_ids),
        # It has runtime files, which are turned back into a checkpoint.
        "store": record.store is not None,
        "wheel": record.in_wheel,
    }
    return tuple(name for name, open_ in ways.items() if open_)


def fetch_model(
    name: str,
    *,
    progress: Progress,
    out: Path | None = None,
    source: str | None = None,
    offline: bool = False,
    cache: Path | None = None,
) -> FetchReport:
    """Bring a model onto this disk; with `out`, as a folder of its own.

    Args:
        source: "hub", "store" or "wheel": only that one is tried, and not the cache either.

    Raises:
        RequestError: unknown name, or `out` exists.
        SourceUnreachableError: no source has it.
    """
    begun = time.monotonic()
    _refuse_existing(out)
    found = resolve_model(
        name,
        cache=cache,
        offline=offline,
        sources=(source,) if source else None,
        progress=progress,
    )
    checkpoint = found.checkpoint_dir
    if out is not None:
        with complete_folder(out) as scratch:
            for path in sorted(checkpoint.iterdir()):
                if path.is_file() and path.name != _CACHE_RECORD:
                    shutil.copyfile(path, scratch / path.name)
        checkpoint = out
    return FetchReport(
        found.name, found.family, found.source, found.reason, found.revision, checkpoint,
        found.runtime_dir, found.attempts, found.record.licence if found.record else None,
        time.monotonic() - begun,
    )  # fmt: skip


def rebuild_model(runtime_dir: Path, out: Path) -> RebuildResult:
    """Turn a runtime folder into a trainable checkpoint at `out`, complete or absent.

    Raises:
        RequestError: not a runtime folder, or `out` exists.
    """
    _refuse_existing(out)
    if not runtime_dir.is_dir():
        raise RequestError("no such folder", where=runtime_dir)
    if not is_runtime_folder(runtime_dir):
        raise RequestError(
            "not a Moonshine runtime folder: encoder_model.ort is missing",
            where=runtime_dir,
            hint="the folder that `moonshine-tune models fetch tiny` names as runtime is one",
        )
    from moonshine_tune.runtime.rebuild import rebuild_checkpoint

    report = rebuild_checkpoint(runtime_dir, out)
    return RebuildResult(
        report.checkpoint_dir, report.tensors, report.parameters, report.source_sha256
    )


def _refuse_existing(out: Path | None) -> None:
    # Before the work, which may be a long download, and never over somebody's folder.
    if out is not None and out.exists():
        raise RequestError(
            "the folder exists already",
            where=out,
            hint="choose another folder with --out, or remove this one first",
        )
