"""What runs keep in the cache for later runs: its size, and its removal.

Models, replay audio and fingerprints stay: they may have been fetched, and they are small beside
encoder states.
"""

from contextlib import suppress
from pathlib import Path

from moonshine_tune.core.files import disk_errors
from moonshine_tune.core.hardware import cache_root

# Folders of the cache whose content is computed again where it is missing.
_KINDS = ("encoder-states", "replay-texts", "base-transcripts", "base-losses", "parity-texts",
          "piece-hypotheses", "pseudo-labels", "aliases")  # fmt: skip


def cached_results() -> dict[str, int]:
    """Bytes by kind of result, of the kinds that there are."""
    sizes = {kind: sum(map(_size, _files(kind))) for kind in _KINDS}
    return {kind: size for kind, size in sizes.items() if size}


def remove_cached_results(*, dry_run: bool) -> dict[str, int]:
    """Remove them; returns the bytes by kind. A run that reads its states goes on with them.

    Raises:
        MachineError: a file cannot be removed.
    """
    removed = cached_results()
    for kind in () if dry_run else removed:
        with disk_errors(cache_root() / kind):
            for path in _files(kind):
                path.unlink(missing_ok=True)
    return removed


def _files(kind: str) -> list[Path]:
    """Locks stay: a run that waits for one would go on beside its owner."""
    paths = (cache_root() / kind).rglob("*")
    return [path for path in paths if path.name != ".lock" and path.is_file()]


def _size(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_size
    return 0
