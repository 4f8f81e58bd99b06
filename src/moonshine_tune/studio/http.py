"""What the routes share: a request's values are read and checked, and errors become answers."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from moonshine_tune.core.bounded_files import utf8_text
from moonshine_tune.core.errors import MachineError, RequestError, TuneError
from moonshine_tune.core.json_text import JsonError, parse_json
from moonshine_tune.core.machine_errors import machine_error
from moonshine_tune.core.text import first_line
from moonshine_tune.studio.labeling import NotFoundError
from moonshine_tune.studio.security import too_large


def route(method: str, path: str, answer: Callable[[Request], Awaitable[Any]]) -> Route:
    """A route whose answer is a response, or a value that becomes JSON."""

    async def respond(request: Request) -> Response:
        result = await answer(request)
        return result if isinstance(result, Response) else JSONResponse(result)

    return Route(path, respond, methods=[method])


async def json_body(request: Request) -> dict[str, Any]:
    """The JSON object of a request.

    Raises:
        RequestError: it is no JSON object.
    """
    body = await request.body()
    try:
        value = parse_json(utf8_text(body) or "{}")
    except JsonError as error:
        raise RequestError(str(error)) from error
    if not isinstance(value, dict):
        raise RequestError("not a JSON object")
    return value


def text_field(body: dict[str, Any], name: str) -> str:
    """A text of a JSON object, empty where it is not there."""
    value = body.get(name, "")
    if not isinstance(value, str):
        raise RequestError(f"{name} is a text")
    return value


def flag_field(body: dict[str, Any], name: str) -> bool:
    """A boolean of a JSON object."""
    value = body[name]
    if not isinstance(value, bool):
        raise RequestError(f"{name} is true or false")
    return value


def number_query(request: Request, name: str, default: int, highest: int) -> int:
    """A whole number of the query, `highest` where it is larger."""
    text = request.query_params.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) < 12):
        raise RequestError(f"{name}={text[:40]!r} is not a number")
    return min(int(text), highest)


def ranged(request: Request, data: bytes, kind: str) -> Response:
    """Bytes, or the range of them that the browser asks for."""
    headers = {"accept-ranges": "bytes"}
    wanted = request.headers.get("range", "")
    first, dash, last = wanted.removeprefix("bytes=").partition("-")
    if not wanted.startswith("bytes=") or not dash or "," in wanted:
        return Response(data, media_type=kind, headers=headers)
    try:
        begin = int(first) if first else max(len(data) - int(last), 0)
        end = min(int(last), len(data) - 1) if first and last else len(data) - 1
    except ValueError:
        return Response(data, media_type=kind, headers=headers)
    if not 0 <= begin <= end:
        return Response(status_code=416, headers={"content-range": f"bytes */{len(data)}"})
    headers["content-range"] = f"bytes {begin}-{end}/{len(data)}"
    return Response(data[begin : end + 1], 206, media_type=kind, headers=headers)


def _error(status: int, message: str, following: str = "") -> Response:
    return JSONResponse({"error": {"message": message, "next": following}}, status)


async def _http_error(request: Request, error: Exception) -> Response:
    del request
    status = error.status_code if isinstance(error, HTTPException) else 500
    following = too_large(1)[1] if status == 413 else ""
    detail = error.detail if isinstance(error, HTTPException) else str(error)
    return _error(status, detail, following)


async def _tune_error(request: Request, error: Exception) -> Response:
    del request
    if isinstance(error, NotFoundError):
        status = 404
    else:
        status = 503 if isinstance(error, MachineError) else 400
    hint = error.hint if isinstance(error, TuneError) else None
    return _error(status, str(error), hint or "")


async def _other_error(request: Request, error: Exception) -> Response:
    if isinstance(error, ClientDisconnect):
        return Response(status_code=400)
    known = machine_error(error)
    if known is not None:
        return await _tune_error(request, known)
    return _error(
        500, f"unexpected {type(error).__name__}: {first_line(error)}",
        "report what the terminal of the studio shows",
    )  # fmt: skip


EXCEPTION_HANDLERS: Mapping[Any, Callable[[Request, Exception], Awaitable[Response]]] = {
    HTTPException: _http_error,
    TuneError: _tune_error,
    OSError: _other_error,
    Exception: _other_error,
}
