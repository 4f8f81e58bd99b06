"""Who may talk to the server: the page that this process opened, and nobody else.

A page of another site can send requests to 127.0.0.1, and a name of another site can be made to
point there. So a request needs the token, the right `Host`, and the right `Origin`; and it may not
be larger than its route takes.
"""

import secrets
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

TAKE_BYTES = 50_000_000
"""Two minutes of two channels at 48 kHz in floats; a prompt takes seconds."""
UPLOAD_BYTES = 1_000_000_000
"""A day of speech as MP3."""
JSON_BYTES = 4_000_000
"""Eighty thousand prompts."""

# What the page may do: load its own files, and ask its own server.
_POLICY = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; " \
    "object-src 'none'"  # fmt: skip
REPORT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; img-src data:; media-src data:; font-src data:"
)
"""The report is one file with everything inside: it gets no access to this server."""

_HEADERS = {
    "x-content-type-options": "nosniff",
    # The token is in one address; a page of another site never gets it.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
    "permissions-policy": "microphone=(self)",
    "content-security-policy": _POLICY,
}
_SAFE = ("GET", "HEAD")


class Guard:
    """Middleware that refuses a request before any route sees it.

    Args:
        port: of the server; `Host` and `Origin` must name it.
        token: what the address of the page has, and then its cookie.
        limit_of: bytes that a request may have, by method and path.
    """

    def __init__(
        self, app: ASGIApp, *, port: int, token: str, limit_of: Callable[[str, str], int]
    ) -> None:
        self._app, self._token, self._limit_of = app, token, limit_of
        self._hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}
        self._cookie = f"moonshine-studio-{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with an error, set the cookie, or pass the request on."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        limit = self._limit_of(request.method, request.url.path)
        answer = self._answer(request, limit)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *(
                        (name.encode(), value.encode())
                        for name, value in _HEADERS.items()
                        if name.encode() not in present
                    ),
                ]
            await send(message)

        if answer is not None:
            await answer(scope, receive, send_with_headers)
        else:
            await self._app(scope, _bounded(receive, limit), send_with_headers)

    def _answer(self, request: Request, limit: int) -> Response | None:
        """The answer to a request that is not passed on."""
        hosts = request.headers.getlist("host")
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            return _refused(421, "this server answers to 127.0.0.1 and localhost alone")
        if not self._is_own_origin(request):
            return _refused(403, "this request comes from another page")
        if self._is_first_visit(request):
            return self._welcome(request)
        if not self._has_token(request):
            return _refused(403, "the token is missing", "open the address that the terminal shows")
        if request.method not in _SAFE and not self._may_change(request):
            return _refused(403, "this request does not say which page it comes from")
        stated = request.headers.get("content-length", "0")
        if not stated.isdecimal() or int(stated[:20]) > limit:
            return _refused(413, *too_large(limit))
        return None

    def _is_own_origin(self, request: Request) -> bool:
        """Whether a request that names its origin names this one."""
        origins = request.headers.getlist("origin")
        own = f"http://{request.headers['host'].lower()}"
        if any(origin.lower() != own for origin in origins):
            return False
        # A page of another port is of the same site: its requests carry the cookie.
        site = request.headers.get("sec-fetch-site", "none")
        return site in ("same-origin", "none") or self._is_first_visit(request)

    def _may_change(self, request: Request) -> bool:
        # A program that has the token in a header is no page.
        return "origin" in request.headers or "authorization" in request.headers

    def _is_first_visit(self, request: Request) -> bool:
        query = parse_qs(request.url.query)
        return (
            request.method == "GET" and request.url.path == "/" and "token" in query
            and "origin" not in request.headers
            and self._is_token(query["token"][0])
        )  # fmt: skip

    def _welcome(self, request: Request) -> Response:
        """The cookie instead of the token in the address."""
        answer: Response
        if request.headers.get("sec-fetch-site") == "cross-site":
            # A strict cookie does not follow a redirect that began at another site.
            answer = HTMLResponse('<meta http-equiv="refresh" content="0; url=/">')
        else:
            answer = RedirectResponse("/", status_code=303)
        answer.set_cookie(self._cookie, self._token, httponly=True, samesite="strict", path="/")
        return answer

    def _has_token(self, request: Request) -> bool:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._is_token(token.strip()):
            return True
        try:
            cookies = SimpleCookie(request.headers.get("cookie", ""))
        except CookieError:
            return False
        cookie = cookies.get(self._cookie)
        return cookie is not None and self._is_token(cookie.value)

    def _is_token(self, token: str) -> bool:
        return secrets.compare_digest(token.encode(), self._token.encode())


def too_large(limit: int) -> tuple[str, str]:
    """Message and next step of a request that is too large."""
    size = f"{limit // 1_000_000:,} MB" if limit >= 1_000_000 else f"{limit:,} bytes"
    return (
        f"larger than {size}, the most that this request may have",
        "cut the recording, or import it on the command line: "
        "moonshine-tune data import FOLDER --no-text --cut --out F.jsonl",
    )


def _bounded(receive: Receive, limit: int) -> Receive:
    """The body of a request, which fails where it gets larger than it may be."""
    received = 0

    async def receive_bounded() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > limit:
            raise HTTPException(413, too_large(limit)[0])
        return message

    return receive_bounded


def _refused(status: int, message: str, following: str = "") -> Response:
    content = {"error": {"message": message, "next": following}}
    return JSONResponse(content, status, headers={"connection": "close"})
