"""In front of everything, as plain ASGI: in which trace a request runs, how long its answer took, and the
headers that every answer carries."""

import asyncio
import re
import time
from http import HTTPStatus

from opentelemetry.trace import Span, SpanKind
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway import metrics
from gateway.problems import STARTED_IN_SCOPE, broke_off, problem
from services.chassis import logs, tracing
from services.chassis.http_protocol import ABORT_IN_SCOPE

log = logs.get(__name__)

TRACE_HEADER = "X-Trace-Id"
PROBES = frozenset({"/healthz", "/readyz"})
# A client may call its method what it likes.
_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"})
# No path of ours holds one. Routing takes "/api/checkout\n" for "/api/checkout" (`$` matches before a last
# line break), and what bounds a request by its path does not.
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Gate:
    """See the module."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["path"] in PROBES:
            # Every few seconds, for ever, and nothing to be learned from it.
            await self._app(scope, receive, _Answer(scope, send).send)
            return
        # The server gives each request a task of its own. A stranger's trace is linked, and decides nothing.
        with tracing.continued(
            None,
            _method(scope),
            kind=SpanKind.SERVER,
            attributes=_asked(scope),
            causes=[_traceparent(scope)],
        ) as span:
            if _CONTROL.search(scope["path"]):
                # Before anybody counts requests, hence not worth a line either.
                answer = _Answer(scope, send, is_logged=False)
                await problem(scope, "route_not_found")(scope, receive, answer.send)
                return
            await self._answered(scope, receive, _Answer(scope, send))
            _name(span, scope)

    async def _answered(self, scope: Scope, receive: Receive, answer: "_Answer") -> None:
        try:
            await self._app(scope, receive, answer.send)
        except Exception as error:
            if (cause := broke_off(scope, error)) is None:
                raise
            log.info("http.cut", method=_method(scope), route=_route(scope), error=type(cause).__name__)
            if abort := scope.get(ABORT_IN_SCOPE):
                abort()
                # The server hears of it in the next turn of the loop, and then misses no end of the answer.
                await asyncio.sleep(0)


class _Answer:
    """The way out: notes that an answer has begun and how long that took, and adds the headers that each one
    carries."""

    def __init__(self, scope: Scope, send: Send, *, is_logged: bool = True) -> None:
        self._scope = scope
        self._send = send
        self._is_logged = is_logged
        self._began = time.perf_counter()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._scope[STARTED_IN_SCOPE] = True
            status: int = message["status"]
            tracing.annotate({"http.response.status_code": status})
            if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                tracing.fail(str(status))
            self._observe(status)
            headers = MutableHeaders(raw=message["headers"])
            headers.setdefault("Cache-Control", "no-store")
            headers.append(TRACE_HEADER, tracing.trace_id() or "")
            message["headers"] = headers.raw
        await self._send(message)

    def _observe(self, status: int) -> None:
        method, route = _method(self._scope), _route(self._scope) or "none"
        seconds = time.perf_counter() - self._began
        metrics.ANSWER_SECONDS.labels(method, route, status).observe(seconds)
        if self._is_logged and _is_worth_a_line(method, status):
            log.info(
                "http.answered", method=method, route=route, status=status, milliseconds=round(seconds * 1000)
            )


def _is_worth_a_line(method: str, status: int) -> bool:
    """What changes something, and what went wrong: a trace id leads here. Whoever asks too often shall not
    fill the disk."""
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return False
    return method != "GET" or status >= HTTPStatus.BAD_REQUEST


def _method(scope: Scope) -> str:
    method: str = scope["method"]
    return method if method in _METHODS else "other"


def _route(scope: Scope) -> str | None:
    """Routing leaves the route in the scope; its pattern bounds what is told, as the path would not."""
    return getattr(scope.get("route"), "path", None)


def _asked(scope: Scope) -> tracing.Attributes:
    """OpenTelemetry's conventions for HTTP servers; not the path, which may hold anything, and of a download
    is its key: the route says enough."""
    method = _method(scope)
    return {
        "http.request.method": "_OTHER" if method == "other" else method,
        "url.scheme": scope["scheme"],
        "network.protocol.version": scope["http_version"],
    }


def _name(span: Span, scope: Scope) -> None:
    if route := _route(scope):
        span.update_name(f"{_method(scope)} {route}")
        span.set_attribute("http.route", route)


def _traceparent(scope: Scope) -> str | None:
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == b"traceparent"), None)
