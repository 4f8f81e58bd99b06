"""Changes of jobs, clips and the project, sent to every open page."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

# A page that does not read falls behind: it gets the newest, and asks for the rest.
_MAX_WAITING = 500
_KEEP_ALIVE_S = 10.0


class Events:
    """Takes changes from any thread, and hands them to the pages that listen."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._queues: set[asyncio.Queue[str]] = set()
        self._is_closed = False

    def publish(self, change: dict[str, Any]) -> None:
        """Send a change to every page; without a page it is lost."""
        loop = self._loop
        if loop is not None and self._queues and not loop.is_closed():
            loop.call_soon_threadsafe(self._put, json.dumps(change))

    def close(self) -> None:
        """End every stream, so that the server can end."""
        self._is_closed = True
        for queue in self._queues:
            queue.put_nowait("")

    async def stream(self) -> AsyncIterator[str]:
        """Server-sent events, until the page is closed."""
        self._loop = asyncio.get_running_loop()
        queue: asyncio.Queue[str] = asyncio.Queue()
        self._queues.add(queue)
        try:
            yield ": connected\n\n"
            while not self._is_closed:
                try:
                    change = await asyncio.wait_for(queue.get(), _KEEP_ALIVE_S)
                except TimeoutError:
                    yield ": \n\n"
                    continue
                if change:
                    yield f"data: {change}\n\n"
        finally:
            self._queues.discard(queue)

    def _put(self, change: str) -> None:
        for queue in self._queues:
            while queue.qsize() >= _MAX_WAITING:
                queue.get_nowait()
            queue.put_nowait(change)
