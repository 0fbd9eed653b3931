"""In front of every route, as plain ASGI: how many requests at once, how long, how large, in which trace, and
the headers of every answer.

Overload is refused early: a lane runs so many requests, lets a few more wait for a moment, and answers the
rest 503 at once, so that a slow service never fills the gateway with requests nobody waits for any more.
"""

import asyncio
import re
import time
from http import HTTPStatus

from opentelemetry.trace import SpanKind
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway import metrics
from gateway.following import FOLLOW_SECONDS
from gateway.problems import problem
from gateway.schemas import MAX_BODY_BYTES
from gateway.settings import GatewaySettings
from services.chassis import logs, tracing

log = logs.get(__name__)

WEBHOOK_PATH = "/api/webhooks/stripe"
DOWNLOADS_PATH = "/api/downloads/"
_STREAM_PATH = re.compile("/api/(?:orders|checkouts)/[^/]+/events")
DEADLINE_SECONDS = 8.0
_MAX_WEBHOOK_BYTES = 512 * 1024
# The calls behind take up to 6.5 s of the 8.
_MAX_WAIT_SECONDS = 1.0
# Stripe waits longer than a customer, and a burst of its events is worth a queue.
_WEBHOOK_DEADLINE_SECONDS = 15.0
_MAX_WEBHOOK_WAIT_SECONDS = 9.0
# What a large file over a thin line may take.
DOWNLOAD_SECONDS = 600.0
TRACE_HEADER = "X-Trace-Id"
# A client may call its method what it likes.
_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"})


class Lane:
    """A number of places, a queue of bounded length and patience before them, and a deadline for all."""

    def __init__(
        self, name: str, *, running: int, waiting: int, patience_seconds: float, deadline_seconds: float
    ) -> None:
        self.deadline_seconds = deadline_seconds
        self._running = metrics.RUNNING.labels(name)
        self._refused = metrics.REFUSED.labels(name)
        self._timeouts = metrics.TIMEOUTS.labels(name)
        self._places = asyncio.Semaphore(running)
        self._may_wait = waiting
        self._patience_seconds = patience_seconds

    async def enter(self) -> bool:
        """True with a place, which `leave` gives back; False when there is none to be had."""
        has_place = await self._enter()
        (self._running if has_place else self._refused).inc()
        return has_place

    async def _enter(self) -> bool:
        if not self._places.locked():
            return await self._places.acquire()
        if not self._may_wait:
            return False
        self._may_wait -= 1
        try:
            async with asyncio.timeout(self._patience_seconds):
                return await self._places.acquire()
        except TimeoutError:
            return False
        finally:
            self._may_wait += 1

    def leave(self) -> None:
        self._running.dec()
        self._places.release()

    def count_timeout(self) -> None:
        self._timeouts.inc()


class Gate:
    """Bounds what the app is asked; see the module."""

    def __init__(
        self, app: ASGIApp, settings: GatewaySettings, *, deadline_seconds: float = DEADLINE_SECONDS
    ) -> None:
        self._app = app
        self._customers = Lane(
            "customers",
            running=settings.max_running_requests,
            waiting=settings.max_waiting_requests,
            patience_seconds=_MAX_WAIT_SECONDS,
            deadline_seconds=deadline_seconds,
        )
        self._webhooks = Lane(
            "webhooks",
            running=settings.max_running_webhooks,
            waiting=settings.max_waiting_webhooks,
            patience_seconds=_MAX_WEBHOOK_WAIT_SECONDS,
            deadline_seconds=_WEBHOOK_DEADLINE_SECONDS,
        )
        # For whoever follows something: no place is worth waiting for, it is kept for minutes.
        self._streams = Lane(
            "streams",
            running=settings.max_streams,
            waiting=0,
            patience_seconds=0,
            deadline_seconds=FOLLOW_SECONDS,
        )

        self._downloads = Lane(
            "downloads",
            running=settings.max_running_downloads,
            waiting=0,
            patience_seconds=0,
            deadline_seconds=DOWNLOAD_SECONDS,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # The server gives each request a task of its own.
        with tracing.continued(_traceparent(scope), scope["method"], kind=SpanKind.SERVER) as span:
            await self._traced(scope, receive, _Answer(scope, send))
            if route := scope.get("route"):
                span.update_name(f"{scope['method']} {route.path}")

    async def _traced(self, scope: Scope, receive: Receive, answer: "_Answer") -> None:
        path = scope["path"]
        is_webhook = path == WEBHOOK_PATH
        if scope["method"] in ("POST", "PUT", "PATCH"):
            receive = _limited(scope, receive, _MAX_WEBHOOK_BYTES if is_webhook else MAX_BODY_BYTES)
        if not path.startswith("/api/"):
            return await self._app(scope, receive, answer.send)
        return await self._within_bounds(scope, receive, answer, self._lane_of(path))

    def _lane_of(self, path: str) -> Lane:
        if path == WEBHOOK_PATH:
            return self._webhooks
        if path.startswith(DOWNLOADS_PATH):
            return self._downloads
        return self._streams if _STREAM_PATH.fullmatch(path) else self._customers

    async def _within_bounds(self, scope: Scope, receive: Receive, answer: "_Answer", lane: Lane) -> None:
        try:
            async with asyncio.timeout(lane.deadline_seconds) as deadline:
                if not await lane.enter():
                    return await problem(scope, "overloaded")(scope, receive, answer.send)
                try:
                    return await self._app(scope, receive, answer.send)
                finally:
                    lane.leave()
        except TimeoutError:
            if answer.has_started or not deadline.expired():
                raise
            lane.count_timeout()
            return await problem(scope, "outcome_unknown")(scope, receive, answer.send)


class _Answer:
    """The way out: knows whether an answer has begun and how long that took, and adds the headers that each
    one carries."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope = scope
        self._send = send
        self._began = time.perf_counter()
        self.has_started = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.has_started = True
            if message["status"] >= HTTPStatus.INTERNAL_SERVER_ERROR:
                tracing.fail(str(message["status"]))
            self._observe(message["status"])
            headers = MutableHeaders(raw=message["headers"])
            headers.setdefault("Cache-Control", "no-store")
            headers.append(TRACE_HEADER, tracing.trace_id() or "")
            message["headers"] = headers.raw
        await self._send(message)

    def _observe(self, status: int) -> None:
        # Routing leaves the route in the scope; its pattern bounds the label, as the path would not.
        route = getattr(self._scope.get("route"), "path", "none")
        method = self._scope["method"] if self._scope["method"] in _METHODS else "other"
        seconds = time.perf_counter() - self._began
        metrics.ANSWER_SECONDS.labels(method, route, status).observe(seconds)
        if _is_worth_a_line(method, status):
            log.info(
                "http.answered", method=method, route=route, status=status, milliseconds=round(seconds * 1000)
            )


def _is_worth_a_line(method: str, status: int) -> bool:
    """What changes something, and what went wrong: a trace id leads here. Whoever asks too often shall not
    fill the disk."""
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return False
    return method != "GET" or status >= HTTPStatus.BAD_REQUEST


def _limited(scope: Scope, receive: Receive, limit_bytes: int) -> Receive:
    """Fails with 413 where the body is read, so that whoever may not ask at all hears that first.

    Counts what arrives as well: a chunked body declares no length. Starlette's own limiter would replace
    any answer to an oversize request, a 401 too, by its plain text.
    """
    received = 0

    async def limited() -> Message:
        nonlocal received
        if received == 0 and _declared_bytes(scope) > limit_bytes:
            raise HTTPException(413)
        message = await receive()
        received += len(message.get("body", b""))
        if received > limit_bytes:
            raise HTTPException(413)
        return message

    return limited


def _traceparent(scope: Scope) -> str | None:
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == b"traceparent"), None)


def _declared_bytes(scope: Scope) -> int:
    """Content-Length; uvicorn has refused one that is no number."""
    return next((int(value) for name, value in scope["headers"] if name == b"content-length"), 0)
