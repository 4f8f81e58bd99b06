"""Whether a server is reachable, and progress of a download."""

import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from moonshine_tune.core.progress import Progress

_PROBE_S = 3.0
# A stuck name look-up ignores the socket's timeout, so the thread is abandoned after this.
_GIVE_UP_S = 4.0
_results: dict[str, str | None] = {}
_MB = 1_000_000


def why_unreachable(url: str) -> str | None:
    """Why the server of `url` does not answer; None if it does.

    Takes at most 4 s, and each address is tried once per process.
    """
    if url not in _results:
        result: list[str | None] = []
        probe = threading.Thread(target=lambda: result.append(_probe(url)), daemon=True)
        probe.start()
        probe.join(_GIVE_UP_S)
        host = urlsplit(url).hostname
        _results[url] = result[0] if result else f"{host} did not answer within {_GIVE_UP_S:.0f} s"
    return _results[url]


def forget_answers() -> None:
    """Make the next `why_unreachable` try again: the network may be back."""
    _results.clear()


def _probe(url: str) -> str | None:
    host = urlsplit(url).hostname
    request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "moonshine-tune"})
    try:
        with urllib.request.urlopen(request, timeout=_PROBE_S):
            return None
    except urllib.error.HTTPError:
        # Any answer, even a refusal of HEAD, shows that the server is up.
        return None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return f"{host} cannot be reached ({reason})"


@contextmanager
def download_progress(folder: Path, name: str, total_mb: int, progress: Progress) -> Iterator[None]:
    """Show how much `folder` grows during the block, out of an expected `total_mb`.

    Measuring the folder works for every downloader, whether it reports progress or not.
    """
    before, stop = _size_mb(folder), threading.Event()
    with progress.stage(name, max(total_mb, 1)) as stage:

        def watch() -> None:
            shown = 0
            while not stop.wait(0.5):
                now = min(_size_mb(folder) - before, total_mb)
                if now > shown:
                    stage.advance(now - shown, "MB")
                    shown = now

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            stop.set()
            watcher.join(2.0)


def _size_mb(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            if path.is_file() and not path.is_symlink():
                total += path.stat().st_size
        except OSError:
            # The downloader renames and removes files meanwhile.
            continue
    return total // _MB
