"""Moonshine's own store of runtime models, through moonshine-voice's downloader."""

from pathlib import Path

from moonshine_tune.core.errors import SourceUnreachableError
from moonshine_tune.core.network import why_unreachable
from moonshine_tune.core.progress import Progress, advance_to

STORE_URL = "https://download.moonshine.ai/"
_PARTS = 200


def fetch_from_store(language: str, architecture: str, cache: Path, progress: Progress) -> Path:
    """The runtime folder of a model, downloaded below `cache` and checked by moonshine-voice.

    Args:
        language, architecture: the model's name in the store: language code and `ModelArch`.

    Raises:
        SourceUnreachableError: the store or moonshine-voice is unavailable.
    """
    unreachable = why_unreachable(STORE_URL)
    if unreachable:
        raise SourceUnreachableError(unreachable)
    try:
        from moonshine_voice import download
        from moonshine_voice.moonshine_api import ModelArch

        info = download.find_model_info(language, ModelArch[architecture])
        with progress.stage(f"download {language} {architecture}", _PARTS) as stage:
            folder, _arch = download.download_model_from_info(
                info, cache_root=cache, on_progress=advance_to(stage, _PARTS)
            )
    except Exception as error:
        # This call uses a native library, an HTTP client and the disk. Each has its own
        # exceptions, and any of them means that this source is unavailable.
        raise SourceUnreachableError(
            f"moonshine-voice could not download it ({type(error).__name__}: {error})"
        ) from error
    return Path(folder)
