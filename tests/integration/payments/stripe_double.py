"""A Stripe whose every answer a test can script: Checkout Sessions over real HTTP, in Stripe's wire format.

The sandbox (deploy/local/stripe_sandbox) plays the customer's part; this one plays the accidents, one
call at a time: the effect without the answer, the answer after the webhook, failures stored under a key.
"""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from services.payments.stripe_client import API_VERSION

Fields = dict[str, Any]
# The sandbox plays the same one, so that one database serves the tests of both.
ACCOUNT = "acct_scripted"


class StripeDouble:
    """`accidents` are used up in order, one for each creation; everything else answers as Stripe does."""

    def __init__(self) -> None:
        self.url = ""
        self.sessions: dict[str, Fields] = {}
        # (idempotency key, status of the answer) of every call that creates.
        self.creations: list[tuple[str, int]] = []
        self.accidents: list[str] = []
        self.before_answer: Callable[[Fields], None] | None = None
        # Other objects than sessions, by their id; and what is refused, by a part of its address.
        self.objects: dict[str, Fields] = {}
        self.account_id = ACCOUNT
        # What /v1/account is refused with, once a test says so.
        self.account_refusal = 0
        self.refusals: dict[str, tuple[int, str, str]] = {}
        # Each address of an object that was asked for, how many at once, and how long one takes.
        self.looks: list[str] = []
        self.most_looks_at_once = 0
        self.look_seconds = 0.0
        self._looking = 0
        self._stored: dict[str, tuple[bytes, int, Fields]] = {}

    def of(self, checkout_id: str) -> list[Fields]:
        return [s for s in self.sessions.values() if s["client_reference_id"] == checkout_id]

    def forget_keys(self) -> None:
        self._stored.clear()

    def forget_parameters(self, checkout_id: str) -> None:
        """As if the calls so far had been made by a release that sent other parameters."""
        for key, (_, status, answer) in self._stored.items():
            if checkout_id in key:
                self._stored[key] = (b"", status, answer)

    def duplicate(self, session_id: str) -> Fields:
        """A second session for the same checkout."""
        session = dict(self.sessions[session_id]) | {"id": f"{session_id}_twin"}
        self.sessions[session["id"]] = session
        return session

    def complete(self, session_id: str, *, paid: bool = True, **change: Any) -> Fields:
        """The customer went through the hosted page."""
        session = self.sessions[session_id]
        session |= {
            "status": "complete",
            "payment_status": "paid" if paid else "unpaid",
            "payment_intent": f"pi_{session_id}",
            "url": None,
        }
        session |= change
        return session

    async def create(self, request: Request) -> Response:
        key, body = request.headers["idempotency-key"], await request.body()
        accident = self.accidents.pop(0) if self.accidents else ""
        if accident in _WITHOUT_EFFECT:
            return self._answer(key, *_WITHOUT_EFFECT[accident])
        if key in self._stored:
            stored_body, status, stored = self._stored[key]
            if stored_body != body:
                return self._answer(key, 400, _error("idempotency_error", "other parameters"))
            return self._answer(key, status, stored, replayed=True)
        if accident == "stored_500":
            return self._store(key, body, 500, _error("api_error", "sorry"))
        session = self._new_session(dict(parse_qsl(body.decode(), keep_blank_values=True)))
        if self.before_answer:
            await asyncio.to_thread(self.before_answer, session)
        if accident == "effect_then_stored_500":
            return self._store(key, body, 500, _error("api_error", "sorry"))
        answer = self._store(key, body, 200, session)
        if accident == "effect_then_timeout":
            await asyncio.sleep(6)
        return answer

    def _store(self, key: str, body: bytes, status: int, answer: Fields) -> Response:
        self._stored[key] = (body, status, dict(answer))
        return self._answer(key, status, answer)

    def _answer(self, key: str, status: int, answer: Fields, *, replayed: bool = False) -> Response:
        self.creations.append((key, status))
        headers = {"Idempotent-Replayed": "true"} if replayed else None
        return JSONResponse(answer, status_code=status, headers=headers)

    def _new_session(self, form: dict[str, str]) -> Fields:
        if int(form["expires_at"]) < time.time() + 1800:
            raise AssertionError("Stripe refuses sessions of less than 30 minutes")
        number = len(self.sessions) + 1
        prices = [name for name in form if name.endswith("[unit_amount]")]
        session: Fields = {
            "id": f"cs_test_{number}_{time.time_ns()}",
            "object": "checkout.session",
            "mode": form["mode"],
            "status": "open",
            "payment_status": "unpaid",
            "amount_total": sum(
                int(form[name]) * int(form[f"line_items[{index}][quantity]"])
                for index, name in enumerate(prices)
            ),
            "currency": form["line_items[0][price_data][currency]"],
            "url": f"https://checkout.test/{number}",
            "payment_intent": None,
            "client_reference_id": form["client_reference_id"],
            "customer_email": form.get("customer_email"),
            "success_url": form["success_url"],
            "expires_at": int(form["expires_at"]),
            "created": int(time.time()),
            "metadata": _nested(form, "metadata"),
            "payment_intent_metadata": _nested(form, "payment_intent_data[metadata]"),
        }
        self.sessions[session["id"]] = session
        return session

    async def retrieve(self, request: Request) -> Response:
        """A session or any other object, unless the test refuses to show it."""
        path, object_id = request.url.path, request.path_params["id"]
        self.looks.append(path)
        self._looking += 1
        self.most_looks_at_once = max(self.most_looks_at_once, self._looking)
        await asyncio.sleep(self.look_seconds)
        self._looking -= 1
        for part, (status, code, message) in self.refusals.items():
            if part in path:
                refusal = _error("invalid_request_error", message, code or None)
                return JSONResponse(refusal, status_code=status, headers={"Request-Id": "req_refused"})
        found = self.sessions.get(object_id) or self.objects.get(object_id) or self._find_intent(object_id)
        if found is None:
            return _missing(object_id)
        return JSONResponse(found)

    def _find_intent(self, intent_id: str) -> Fields | None:
        """The payment of a completed session: under way, unless a test said otherwise."""
        paid = (each for each in self.sessions.values() if each["payment_intent"] == intent_id)
        return next(map(self.intent_of_session, paid), None)

    def intent_of_session(self, session: Fields) -> Fields:
        is_paid = session["payment_status"] == "paid"
        return {
            "id": session["payment_intent"],
            "object": "payment_intent",
            "amount_received": session["amount_total"] if is_paid else 0,
            "currency": session["currency"],
            "status": "succeeded" if is_paid else session.get("intent_status", "processing"),
            "metadata": session["payment_intent_metadata"],
        }

    async def expire(self, request: Request) -> Response:
        session = self.sessions.get(request.path_params["id"])
        if session is None:
            return _missing(request.path_params["id"])
        if session["status"] != "open":
            return JSONResponse(_error("invalid_request_error", "not open"), status_code=400)
        session |= {"status": "expired", "url": None}
        return JSONResponse(session)

    async def list_of_payment(self, request: Request) -> Response:
        """The refunds or disputes of a payment intent."""
        intent_id, kind = request.query_params["payment_intent"], request.url.path.rpartition("/")[2]
        if self._is_unknown(intent_id):
            return _missing(intent_id)
        data = [
            each
            for each in self.objects.values()
            if f"{each['object']}s" == kind and each.get("payment_intent") == intent_id
        ]
        return JSONResponse({"object": "list", "url": "/v1/x", "data": data, "has_more": False})

    async def account(self, _: Request) -> Response:
        if self.account_refusal:
            refusal = _error("invalid_request_error", "not with this key")
            return JSONResponse(refusal, status_code=self.account_refusal)
        return JSONResponse({"id": self.account_id, "object": "account"})

    def _is_unknown(self, intent_id: str) -> bool:
        named = (each.get("payment_intent") for each in self.objects.values())
        return self._find_intent(intent_id) is None and intent_id not in named

    async def refund(self, request: Request) -> Response:
        """Of payments that the account does not know; the sandbox gives money back."""
        form = dict(parse_qsl((await request.body()).decode()))
        return _missing(form["payment_intent"])

    async def no_events(self, _: Request) -> Response:
        """What reconciliation compares is the sandbox's business."""
        return JSONResponse({"object": "list", "url": "/v1/events", "data": [], "has_more": False})

    async def list(self, request: Request) -> Response:
        """Newest first, three to a page, so that every listing of a test is paged."""
        since = int(request.query_params.get("created[gte]", 0))
        intent = request.query_params.get("payment_intent")
        found = [s for s in reversed(self.sessions.values()) if s["created"] >= since]
        found = [s for s in found if not intent or s["payment_intent"] == intent]
        after = request.query_params.get("starting_after")
        start = next((i + 1 for i, s in enumerate(found) if s["id"] == after), 0)
        page = found[start : start + 3]
        return JSONResponse(
            {"object": "list", "url": "/v1/x", "data": page, "has_more": len(found) > start + 3}
        )


def _missing(object_id: str) -> Response:
    missing = _error("invalid_request_error", f"No such object: '{object_id}'", "resource_missing")
    return JSONResponse(missing, status_code=404, headers={"Request-Id": "req_missing"})


def _nested(form: dict[str, str], name: str) -> dict[str, str]:
    return {key[len(name) + 1 : -1]: value for key, value in form.items() if key.startswith(f"{name}[")}


def _error(kind: str, message: str, code: str | None = None) -> Fields:
    return {"error": {"type": kind, "message": message, "code": code}}


_KINDS = ("payment_intents", "charges", "refunds", "disputes", "invoices", "subscriptions")
_WITHOUT_EFFECT = {
    "409": (409, _error("idempotency_error", "in progress", "idempotency_key_in_use")),
    "429": (429, _error("invalid_request_error", "slow down", "rate_limit")),
    "400": (400, _error("invalid_request_error", "no", "amount_too_small")),
    "email": (400, _error("invalid_request_error", "Invalid email address: x", "email_invalid")),
    "401": (401, _error("invalid_request_error", "Invalid API Key")),
    "503": (503, _error("api_error", "sorry")),
}


@contextmanager
def running_double() -> Iterator[StripeDouble]:
    double = StripeDouble()
    app = Starlette(
        routes=[
            Route("/v1/refunds", double.refund, methods=["POST"]),
            Route("/v1/subscriptions/{id}", double.retrieve, methods=["POST"]),
            Route("/v1/account", double.account, methods=["GET"]),
            Route("/v1/checkout/sessions", double.create, methods=["POST"]),
            Route("/v1/checkout/sessions", double.list, methods=["GET"]),
            Route("/v1/checkout/sessions/{id}", double.retrieve, methods=["GET"]),
            *(Route(f"/v1/{kind}/{{id}}", double.retrieve, methods=["GET"]) for kind in _KINDS),
            *(
                Route(f"/v1/{kind}", double.list_of_payment, methods=["GET"])
                for kind in ("refunds", "disputes")
            ),
            Route("/v1/events", double.no_events, methods=["GET"]),
            Route("/v1/checkout/sessions/{id}/expire", double.expire, methods=["POST"]),
        ]
    )
    listener = socket.create_server(("127.0.0.1", 0))
    double.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        yield double
    finally:
        server.should_exit = True
        thread.join(10)


def event_body(
    event_id: str, event_type: str, session: Fields, *, api_version: str | None = API_VERSION
) -> bytes:
    """An event about a session or another object, as Stripe sends it."""
    event = {
        "id": event_id,
        "object": "event",
        "api_version": api_version,
        "type": event_type,
        "created": int(time.time()),
        "livemode": False,
        "data": {"object": session},
    }
    return json.dumps(event).encode()
