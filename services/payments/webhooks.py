"""Stripe's way in: verify the raw body, keep it, answer; events.py does the rest.

The answer is 200 once the event is committed (again for one that is known), 400 for what Stripe did not
sign and for what is no event, 408 for a body that does not come in time, 413 for more than 512 KiB, 429 for
more than one source may send, or have under way, 503 when it could not be kept: Stripe then delivers again.
Signatures are checked over the bytes as they came (docs.stripe.com/webhooks, "Verify manually"): the official
helper raises on hostile input and takes timestamps of the future.

Failpoint: payments.event.received (after the commit, before the answer).
"""

import asyncio
import hashlib
import hmac
import json
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import psycopg
from opentelemetry.trace import SpanKind
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from services.chassis import failpoints, logs, tracing
from services.chassis.at_once import AtOnce
from services.chassis.bodies import Bodies, BodyTooLarge, BodyTooSlow, TooManyBodies
from services.chassis.client_address import Network, address_of, source_of
from services.chassis.crypto import Keyring
from services.chassis.db import Database
from services.chassis.rates import LocalBuckets, Rate, Try
from services.payments import metrics
from services.payments.commands import events
from services.payments.commands.events import Envelope
from services.payments.events import READERS, event_label, payload_place

log = logs.get(__name__)

PATH = "/api/webhooks/stripe"
MAX_BODY_BYTES = 512 * 1024
TOLERANCE_SECONDS = 300
_MAX_SIGNATURES = 16
_MAX_ID_LENGTH = 255
# Year 2242; keeps a hostile number out of the database's range checks.
_MAX_CREATED = 1 << 33
_AT_ONCE = 2
_MAX_RUNNING = 1000


class BadWebhook(Exception):
    """Not signed by Stripe for us."""


class NotAnEvent(Exception):
    """Signed, and nothing that we could keep as an event."""


class WrongMode(Exception):
    """A test event for a live shop, or the other way round: it may never change anything."""


def verify(body: bytes, header: str | None, *, secrets: Sequence[str], now: float) -> None:
    """Raises BadWebhook unless one of `secrets` signed the body within five minutes of `now` (Unix
    seconds), before or after."""
    timestamp, signatures = _signature_parts(header or "")
    if abs(now - int(timestamp)) > TOLERANCE_SECONDS:
        raise BadWebhook("timestamp")
    signed = timestamp.encode() + b"." + body
    expected = [hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest() for secret in secrets]
    # No early end: how long it takes says nothing about which pair came close.
    matches = [hmac.compare_digest(ours, theirs) for ours in expected for theirs in signatures]
    if not any(matches):
        raise BadWebhook("signature")


def _signature_parts(header: str) -> tuple[str, list[str]]:
    if not header.isascii():
        raise BadWebhook("header")
    pairs = [part.strip().partition("=") for part in header.split(",")]
    timestamps = [value for name, _, value in pairs if name == "t"]
    signatures = [value for name, _, value in pairs if name == "v1"]
    if len(timestamps) != 1 or not 1 <= len(signatures) <= _MAX_SIGNATURES:
        raise BadWebhook("header")
    if not timestamps[0].isdecimal() or len(timestamps[0]) > 12:
        raise BadWebhook("header")
    return timestamps[0], signatures


def read_envelope(body: bytes, *, livemode: bool) -> Envelope:
    """What is kept beside a verified event; NotAnEvent when it is none (thin events are none), WrongMode
    when it is of the other mode than our key."""
    try:
        event = json.loads(body.decode("utf-8"), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise NotAnEvent("json") from error
    if not isinstance(event, dict) or event.get("object") != "event":
        raise NotAnEvent("object")
    if event.get("livemode", livemode) is not livemode:
        raise WrongMode
    return envelope_of(event)


def _no_number(name: str) -> None:
    """NaN and Infinity, which are no JSON: whoever is shown the payload could not read it."""
    raise ValueError(name)


def envelope_of(event: dict[str, Any]) -> Envelope:
    """Id, type, time and subject of an event, as it came by webhook or from a listing."""
    created = event.get("created")
    if type(created) is not int or not 0 <= created < _MAX_CREATED:
        raise NotAnEvent("created")
    return Envelope(
        id=_label(event.get("id")),
        type=_label(event.get("type")),
        created=created,
        # The owner of a connected account may write our metadata on payments of his own.
        is_ours=event.get("type") in READERS and event.get("account") is None,
        **_subject(event),
    )


def _subject(event: dict[str, Any]) -> dict[str, str | None]:
    """What to find the event by; nothing is refused for it."""
    data = event.get("data")
    subject = data.get("object") if isinstance(data, dict) else None
    if not isinstance(subject, dict):
        return {}
    is_intent = subject.get("object") == "payment_intent"
    named = {"object_id": "id", "payment_intent_id": "id" if is_intent else "payment_intent"}
    return {column: _label_or_none(subject.get(field)) for column, field in named.items()}


def _label_or_none(value: Any) -> str | None:
    try:
        return _label(value)
    except NotAnEvent:
        return None


def _label(value: Any) -> str:
    """Visible ASCII: Postgres takes no NUL, and logs no line breaks."""
    if isinstance(value, str) and 1 <= len(value) <= _MAX_ID_LENGTH and all("!" <= c <= "~" for c in value):
        return value
    raise NotAnEvent("label")


class Receiver:
    """Keeps events; `wake` tells the worker that there is one."""

    def __init__(
        self,
        *,
        database: Database,
        keyring: Keyring,
        secrets: Sequence[str],
        livemode: bool,
        wake: Callable[[], None],
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._secrets = secrets
        self._livemode = livemode
        self._wake = wake
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._running = 0

    async def receive(self, body: bytes, signature: str | None) -> Response:
        """The answer to a delivery that has come whole: until then it takes no place."""
        if self._running >= _MAX_RUNNING:
            metrics.count_webhook("overloaded")
            return problem(503, "overloaded", "Overloaded")
        self._running += 1
        try:
            return await self._receive(body, signature)
        finally:
            self._running -= 1

    async def _receive(self, body: bytes, signature: str | None) -> Response:
        try:
            verify(body, signature, secrets=self._secrets, now=time.time())
            envelope = read_envelope(body, livemode=self._livemode)
        except BadWebhook as error:
            log.warning("webhook.refused", why=str(error))
            metrics.count_webhook("refused")
            return problem(400, "invalid_signature", "Invalid signature")
        except NotAnEvent as error:
            log.warning("webhook.not_an_event", why=str(error))
            metrics.count_webhook("malformed")
            return problem(400, "invalid_event", "Invalid payload")
        except WrongMode:
            log.warning("webhook.wrong_mode", livemode_of_key=self._livemode)
            metrics.count_webhook("refused")
            return problem(400, "wrong_livemode", "Wrong mode")
        return await self._keep(envelope, body)

    async def _keep(self, envelope: Envelope, body: bytes) -> Response:
        sealed = self._keyring.seal(body, place=payload_place(envelope.id))
        try:
            # Few at once, so that a burst leaves connections to the workers.
            async with self._slots, self._database.worker_statement() as connection:
                is_new = await events.receive_event(connection, envelope, sealed_payload=sealed)
        except (DBAPIError, psycopg.Error, PoolTimeout, OSError) as error:
            log.error("webhook.not_kept", event_id=envelope.id, error=type(error).__name__)
            metrics.count_webhook("not_kept")
            return problem(503, "service_unavailable", "Try again")
        failpoints.hit("payments.event.received")
        metrics.count_webhook("received" if is_new else "known")
        if is_new:
            metrics.observe_delivery(envelope.created)
        if envelope.is_ours:
            self._wake()
        elif is_new:
            metrics.count_event(event_label(envelope.type), "not_ours")
        return JSONResponse({"received": True})


def problem(status: int, code: str, error: str, *, retry_after_seconds: int = 1) -> Response:
    """RFC 9457; `error` is what integrations of Stripe's own examples look for."""
    return JSONResponse(
        {"type": f"/docs/errors#{code}", "title": error, "status": status, "code": code, "error": error},
        status_code=status,
        media_type="application/problem+json",
        headers={"Retry-After": str(retry_after_seconds)} if status in (429, 503) else None,
    )


def _too_large() -> Response:
    metrics.count_webhook("malformed")
    return problem(413, "body_too_large", "The body is too large")


async def health(_: Request) -> Response:
    """GET /healthz"""
    return JSONResponse({"status": "ok"})


class Door:
    """The webhook port: bounds each source before, and while, its bodies are read."""

    def __init__(
        self,
        receiver: Receiver,
        *,
        rate: Rate | None,
        most_at_once: int,
        bodies: Bodies,
        trusted_proxies: Sequence[Network],
    ) -> None:
        self._receiver = receiver
        self._rate = rate
        # Counted by each replica for itself: this protects it, and Stripe delivers again.
        self._buckets = LocalBuckets()
        self._at_once = AtOnce(most_at_once)
        self._bodies = bodies
        self._trusted_proxies = trusted_proxies

    async def receive(self, request: Request) -> Response:
        """POST /api/webhooks/stripe"""
        with tracing.continued(
            None,
            f"POST {PATH}",
            kind=SpanKind.SERVER,
            attributes={"http.request.method": "POST", "http.route": PATH, "url.scheme": request.url.scheme},
            causes=[request.headers.get(tracing.HEADER)],
        ):
            answer = await self._answer(request)
            tracing.annotate({"http.response.status_code": answer.status_code})
            if answer.status_code >= 500:
                tracing.fail(str(answer.status_code))
            return answer

    async def _answer(self, request: Request) -> Response:
        source = source_of(address_of(request.scope, self._trusted_proxies))
        with self._at_once.one(source) as is_allowed:
            if refusal := self._refusal(source, is_allowed=is_allowed):
                return refusal
            return await self._read(request, source)

    async def relayed(self, body: bytes, signature: str, source: str) -> Response:
        """What came to the gateway, which says from where: each source has its own bounds here, too."""
        with self._at_once.one(source) as is_allowed:
            if refusal := self._refusal(source, is_allowed=is_allowed):
                return refusal
            if len(body) > MAX_BODY_BYTES:
                return _too_large()
            return await self._receiver.receive(body, signature or None)

    def _refusal(self, source: str, *, is_allowed: bool) -> Response | None:
        """Before anything of the body is read."""
        wait_seconds = self._buckets.take([Try(source, self._rate)]) if self._rate else 0.0
        if is_allowed and not wait_seconds:
            return None
        metrics.count_webhook("limited")
        code, error = (
            ("rate_limited", "Too many requests") if is_allowed else ("too_many_at_once", "Too many at once")
        )
        return problem(429, code, error, retry_after_seconds=max(1, math.ceil(wait_seconds)))

    async def _read(self, request: Request, source: str) -> Response:
        try:
            async with self._bodies.reading(request.scope, request.receive, source) as body:
                return await self._receiver.receive(body, request.headers.get("stripe-signature"))
        except BodyTooLarge:
            return _too_large()
        except BodyTooSlow:
            metrics.count_webhook("incomplete")
            return problem(408, "request_timeout", "The body took too long")
        except TooManyBodies:
            metrics.count_webhook("overloaded")
            return problem(503, "overloaded", "Overloaded")
        except ClientDisconnect:
            # Nobody is there to read it.
            metrics.count_webhook("incomplete")
            return problem(400, "malformed_request", "The body is cut off")


def create_app(door: Door) -> Starlette:
    """What the webhook port answers."""
    return Starlette(
        routes=[
            Route(PATH, door.receive, methods=["POST"]),
            Route("/healthz", health, methods=["GET"]),
        ]
    )
