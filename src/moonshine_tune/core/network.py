"""Asking once, quickly, whether a server can be reached; and showing how a download grows."""

import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from moonshine_tune.core.progress import Progress

_PROBE_S = 3.0
# A stuck name look-up ignores the socket's timeout, so the thread is given up on after this.
_GIVE_UP_S = 4.0
_answers: dict[str, str | None] = {}
_MB = 1_000_000


def why_unreachable(url: str) -> str | None:
    """Why `url`'s server does not answer, or None where it does. At most 4 s, once per process."""
    if url not in _answers:
        found: list[str | None] = []
        asking = threading.Thread(target=lambda: found.append(_ask(url)), daemon=True)
        asking.start()
        asking.join(_GIVE_UP_S)
        host = urlsplit(url).hostname
        _answers[url] = found[0] if found else f"{host} did not answer within {_GIVE_UP_S:.0f} s"
    return _answers[url]


def forget_answers() -> None:
    """Ask again at the next `why_unreachable`: the network may have come back."""
    _answers.clear()


def _ask(url: str) -> str | None:
    host = urlsplit(url).hostname
    request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "moonshine-tune"})
    try:
        with urllib.request.urlopen(request, timeout=_PROBE_S):
            return None
    except urllib.error.HTTPError:
        # Any answer, even a refusal of HEAD, shows that the server is there.
        return None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return f"{host} cannot be reached ({reason})"


@contextmanager
def growth_shown(folder: Path, name: str, total_mb: int, progress: Progress) -> Iterator[None]:
    """Show how much `folder` grows during the block, against an expected `total_mb`.

    Watching the folder from outside works for every downloader, whatever it tells about itself.
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
            # The downloader renames and removes while this looks.
            continue
    return total // _MB
