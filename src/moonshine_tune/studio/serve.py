"""Holds the project folder, listens on 127.0.0.1, and serves until it is interrupted."""

import secrets
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import uvicorn

from moonshine_tune.core.errors import RequestError
from moonshine_tune.studio.project import open_project
from moonshine_tune.studio.server import Studio, make_app

_HOST = "127.0.0.1"
_END_S = 3


class _Server(uvicorn.Server):
    """Tells when it listens, and ends the streams of open pages before it ends itself."""

    def __init__(
        self, config: uvicorn.Config, studio: Studio, on_ready: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._studio, self._on_ready = studio, on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then tell."""
        await super().startup(sockets)
        if self.started:
            self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the streams, then everything."""
        self._studio.events.close()
        await super().shutdown(sockets)


def serve(
    folder: Path, port: int, model: str | None, on_ready: Callable[[str, list[str]], None]
) -> None:
    """Serve a project until Ctrl-C or SIGTERM.

    Args:
        port: 0 takes the one of the last time, or a free one.
        on_ready: takes the address with its token, and remarks on the folder.

    Raises:
        RequestError: another studio holds the folder, or the port is taken.
    """
    with open_project(folder, model) as project:
        listener = _listener(port, project.record.port)
        with listener:
            actual = listener.getsockname()[1]
            if actual != project.record.port or model is not None:
                project.update(port=actual, model=project.record.model)
            token = secrets.token_urlsafe(24)
            studio = Studio(project)
            config = uvicorn.Config(
                make_app(studio, port=actual, token=token),
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=_END_S,
                timeout_keep_alive=30,
            )
            address = f"http://{_HOST}:{actual}/?token={token}"
            server = _Server(config, studio, lambda: on_ready(address, project.remarks))
            try:
                server.run(sockets=[listener])
            finally:
                studio.close()


def _listener(wanted: int, before: int) -> socket.socket:
    """A socket on the port that is wanted, else on that of the last time, else on a free one."""
    if wanted:
        try:
            return _bound(wanted)
        except OSError as error:
            raise RequestError(
                f"port {wanted} cannot be used ({error.strerror})",
                hint="leave out --port: a free one is chosen",
            ) from error
    if before:
        with suppress(OSError):
            return _bound(before)
    return _bound(0)


def _bound(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((_HOST, port))
        listener.listen(128)
    except OSError:
        listener.close()
        raise
    return listener
