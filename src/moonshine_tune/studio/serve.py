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
    """Tells when it listens, and ends what open pages wait for before it ends itself."""

    def __init__(
        self, config: uvicorn.Config, studio: Studio, on_ready: "Callable[[_Server], None]"
    ) -> None:
        super().__init__(config)
        self._studio, self._on_ready = studio, on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then tell."""
        await super().startup(sockets)
        if self.started:
            self._on_ready(self)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the streams and what waits for the model, then everything."""
        self._studio.events.close()
        self._studio.worker.close()
        await super().shutdown(sockets)


def serve(
    folder: Path,
    port: int,
    model: str | None,
    on_ready: Callable[[str], None],
    say: Callable[[str], None],
) -> None:
    """Serve a project until Ctrl-C or SIGTERM.

    Args:
        port: 0 takes the one of the last time, or a free one.
        on_ready: takes the address with its token.
        say: takes messages for people.

    Raises:
        RequestError: another studio holds the folder, or the port is taken.
    """
    token = secrets.token_urlsafe(24)
    with open_project(folder, model) as project:

        def tell(server: uvicorn.Server, actual: int) -> None:
            del server
            for remark in project.remarks:
                say(remark)
            on_ready(f"http://{_HOST}:{actual}/?token={token}")

        serve_project(Studio(project), port, token, tell, say)


def serve_project(
    studio: Studio,
    port: int,
    token: str,
    on_ready: Callable[[uvicorn.Server, int], None],
    say: Callable[[str], None],
) -> None:
    """Serve an open project, and end its jobs and its worker with the server.

    Args: as of `serve`.

    Raises:
        RequestError: the port is taken.
    """
    project = studio.project
    with _listener(port, project.record.port) as listener:
        actual = listener.getsockname()[1]
        project.update(port=actual, model=project.record.model)
        config = uvicorn.Config(
            make_app(studio, port=actual, token=token),
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_END_S,
        )
        server = _Server(config, studio, lambda server: on_ready(server, actual))
        try:
            server.run(sockets=[listener])
        finally:
            if studio.jobs.are_running:
                say("a job is running: it is asked to save and end, which may take a minute")
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
