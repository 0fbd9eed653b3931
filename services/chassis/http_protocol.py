"""HTTP/1.1 on one connection, bounded before anything is parsed or answered: how long a head may be and take,
how long an answer may wait for its reader, and how many connections one address holds.

uvicorn's own protocol over httptools (llhttp), with limits. Measured in one run, CPU at the server for a page
of 20 products and for a checkout's body, as a multiple of httptools: h11 1.7 and 1.8, granian 1.0 and 1.3,
hypercorn 2.3 and 2.4. h11 alone has a limit on heads, and none of them all of these, so that the cheapest
parser with the limits around it is what we serve on. What uvicorn lacks:

- a limit on heads (431), trailers and chunk extensions: bytes are counted, and fed in slices, so that one
  connection never makes the parser keep much more than the limit (llhttp has none);
- the body of a request that offers an upgrade that we do not take (Java's HttpClient: h2c). httptools takes
  it for the other protocol's (MagicStack/httptools#124);
- time for a head (408), for what follows an answer, and for whoever does not read what was asked for;
- a bound on requests that are sent before their predecessors are answered.
"""

import asyncio
import json
from http import HTTPStatus
from typing import Any, cast

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from services.chassis import metrics
from services.chassis.at_once import AtOnce
from services.chassis.client_address import is_trusted, source_of
from services.chassis.wire_limits import WireLimits

# Fed to the parser at once. Heads fit, most bodies too.
_SLICE_BYTES = 32 * 1024
# Requests that wait on a connection for the answers before theirs.
_MAX_PIPELINED = 16
# For the rest of a body after its answer, and for the last bytes of an answer after the end.
_LINGER_SECONDS = 5.0
# Where a request finds what cuts its connection.
ABORT_IN_SCOPE = "aishop.abort"

# What is refused before there is a request: the codes of docs/errors.md and their titles.
REFUSALS: dict[int, tuple[str, str]] = {
    400: ("malformed_request", "This is not HTTP"),
    408: ("request_timeout", "The request took too long to arrive"),
    429: ("too_many_connections", "Too many connections from one address"),
    431: ("head_too_large", "The head of the request is too large"),
}
_NOT_READ = "answer_not_read"
for _why in (*(code for code, _ in REFUSALS.values()), _NOT_READ):
    metrics.CONNECTIONS_REFUSED.labels(_why)


class _Refused(Exception):
    """Raised within a callback of the parser, to stop it."""


class BoundedProtocol(HttpToolsProtocol):
    """See the module."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        limits: WireLimits,
        connections: AtOnce,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits = limits
        self._connections = connections
        self._source: str | None = None
        # Within a head: from its first byte to its empty line.
        self._is_in_head = False
        self._is_in_body = False
        # Bytes that came since a head began, or since a body brought its last; none of them is an answer's.
        self._unread_bytes = 0
        # Of a head that our own hand writes, see _go_on_without_upgrade.
        self._is_resuming = False
        self._refusal: int | None = None
        # The request that is being answered; `cycle` is the one that came last.
        self._answering: RequestResponseCycle | None = None
        self._head_timer: asyncio.TimerHandle | None = None
        self._send_timer: asyncio.TimerHandle | None = None
        self._end_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        peer = self.client[0] if self.client else ""
        if not is_trusted(peer, self._limits.trusted):
            self._source = source_of(peer)
            if not self._connections.enter(self._source):
                self._refuse(HTTPStatus.TOO_MANY_REQUESTS)
                return
        self._head_timer = self.loop.call_later(self._limits.head_seconds, self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._give_up()
        if self._source is not None:
            self._connections.leave(self._source)
        self._unset_keepalive_if_required()
        for timer in (self._head_timer, self._send_timer, self._end_timer):
            if timer is not None:
                timer.cancel()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def _give_up(self) -> None:
        """Whoever handles a request has nobody to answer any more; those that wait are not begun."""
        self.pipeline.clear()
        if self._answering is not None and not self._answering.response_complete:
            self._answering.disconnected = True
            self._answering.message_event.set()

    def data_received(self, data: bytes) -> None:
        for start in range(0, len(data), _SLICE_BYTES):
            # Not after the end: whoever closed it has said why.
            if self.transport.is_closing():
                return
            self._feed(data[start : start + _SLICE_BYTES] if len(data) > _SLICE_BYTES else data)

    def _feed(self, data: bytes) -> None:
        self._unread_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._go_on_without_upgrade(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError:
            self._refuse(self._refusal or HTTPStatus.BAD_REQUEST)
            return
        is_within = self._is_in_head or self._is_in_body
        if is_within and self._unread_bytes > self._limits.head_bytes:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        elif self._is_in_head and self._head_timer is None:
            self._head_timer = self.loop.call_later(self._limits.head_seconds, self._head_is_late)

    def _go_on_without_upgrade(self, rest: bytes) -> None:
        """An upgrade that is offered may be ignored (RFC 9110, 7.8): what follows the head is its body, then
        the next request. The parser took it for the end of HTTP, hence another one, which is told the body's
        length by a head of our own."""
        names = {name: value for name, value in self.headers if name != b"connection"}
        framing = [
            name + b": " + names[name] + b"\r\n"
            for name in (b"content-length", b"transfer-encoding")
            if name in names
        ]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        if framing:
            self._is_resuming = True
            self.cycle.more_body = True
            self._feed(b"POST / HTTP/1.1\r\n" + b"".join(framing) + b"\r\n")
        if rest and not self.transport.is_closing():
            self._feed(rest)

    def on_message_begin(self) -> None:
        if self._is_resuming:
            return
        self._unset_keepalive_if_required()
        self._is_in_head = True
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        if not self._is_resuming:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        # Trailers come when the request is under way, and nobody reads them.
        if self._is_in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._is_resuming:
            self._is_resuming, self._is_in_body = False, True
            return
        # An upper bound, with what else came along: only then it is worth adding up.
        if self._unread_bytes > self._limits.head_bytes and self._head_bytes() > self._limits.head_bytes:
            self._stop_parsing(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        if len(self.pipeline) >= _MAX_PIPELINED:
            self._stop_parsing(HTTPStatus.TOO_MANY_REQUESTS)
        self._unread_bytes = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        super().on_headers_complete()
        # Not before: it refuses URLs, and until then `cycle` is the request before, if there was one.
        self._is_in_head, self._is_in_body = False, True
        cast(dict[str, Any], self.cycle.scope)[ABORT_IN_SCOPE] = self.transport.abort

    def _head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def on_body(self, body: bytes) -> None:
        self._unread_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._is_in_body = False
        self._unread_bytes = 0
        super().on_message_complete()
        if self.cycle.response_complete and not self.transport.is_closing():
            self._close_when_idle_for(self.timeout_keep_alive)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.timeout_keep_alive_task is not None and self._is_in_body:
            # The rest of a body that nobody wants any more may come, for a moment.
            self._close_when_idle_for(_LINGER_SECONDS)
        if self.transport.is_closing() and self._end_timer is None:
            # "Connection: close": what is left to write is too little for pause_writing to have a word.
            self._end_timer = self.loop.call_later(self._limits.send_seconds, self.transport.abort)

    def _close_when_idle_for(self, seconds: float) -> None:
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def timeout_keep_alive_handler(self) -> None:
        self._end()

    def _head_is_late(self) -> None:
        self._head_timer = None
        # Whoever never said a word hears none.
        if self._is_in_head:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT)
        else:
            self._end()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._send_timer = self.loop.call_later(self._limits.send_seconds, self._is_not_read)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None

    def _is_not_read(self) -> None:
        metrics.CONNECTIONS_REFUSED.labels(_NOT_READ).inc()
        self.transport.abort()

    def _stop_parsing(self, status: int) -> None:
        self._refusal = status
        raise _Refused

    def _refuse(self, status: int) -> None:
        """Says why, where it cannot be taken for another request's answer, and ends."""
        code, title = REFUSALS[status]
        metrics.CONNECTIONS_REFUSED.labels(code).inc()
        is_about_the_last = self._is_in_body and not self.cycle.response_started and not self.pipeline
        if is_about_the_last or self.cycle is None or self.cycle.response_complete:
            self.transport.write(_problem(status, code, title))
        self._give_up()
        self._end()

    def _end(self) -> None:
        """Closes, and does not wait for ever until what was written has been read."""
        if not self.transport.is_closing():
            self.transport.close()
            self._end_timer = self.loop.call_later(_LINGER_SECONDS, self.transport.abort)


def _problem(status: int, code: str, title: str) -> bytes:
    """RFC 9457, as the gateway's own."""
    body = json.dumps({"type": f"/docs/errors#{code}", "title": title, "status": status, "code": code})
    retry = b"retry-after: 1\r\n" if status == HTTPStatus.TOO_MANY_REQUESTS else b""
    return (
        STATUS_LINE[status]
        + b"content-type: application/problem+json\r\ncache-control: no-store\r\n"
        + retry
        + b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        + body.encode()
    )
