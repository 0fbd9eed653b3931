"""The strings that tests pull: /_control/, JSON, no key. The sandbox listens on loopback."""

import time
from collections.abc import Callable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from deploy.local.stripe_sandbox import (
    checkout,
    clocks,
    disputes,
    idempotency,
    refunds,
    subscriptions,
)
from deploy.local.stripe_sandbox.errors import Refusal
from deploy.local.stripe_sandbox.events import MODE, TROUBLE, Origin, Trouble, release, trouble_of
from deploy.local.stripe_sandbox.faults import Fault
from deploy.local.stripe_sandbox.sandbox import Sandbox
from deploy.local.stripe_sandbox.store import Object

_MAX_COPIES = 500


class Delivery(Trouble):
    """`hold` keeps new events until they are flushed, `drop` never sends them (they can still be listed).
    Events that were emitted before go on as they were."""

    mode: Literal["deliver", "hold", "drop"]


class RefundBirths(BaseModel):
    """How the next refunds are born: `failed` succeeds first, and comes back at once."""

    model_config = ConfigDict(extra="forbid")

    status: Literal["succeeded", "pending", "requires_action", "failed"]
    count: int = Field(default=1, ge=1, le=10_000)


class Move(BaseModel):
    """Where a refund or a dispute goes."""

    model_config = ConfigDict(extra="forbid")

    status: str


class NewPayment(BaseModel):
    """A payment that belongs to no session."""

    model_config = ConfigDict(extra="forbid")

    amount: int = Field(ge=1, le=99_999_999)
    currency: str = Field(default="usd", pattern="^[a-z]{3}$")
    metadata: dict[str, str] = {}


class DelayedPayment(BaseModel):
    """What became of a bank debit."""

    model_config = ConfigDict(extra="forbid")

    outcome: Literal["succeeded", "failed"]


class NewDispute(BaseModel):
    model_config = ConfigDict(extra="forbid")

    payment_intent: str
    amount: int | None = Field(default=None, ge=1)
    reason: str = "fraudulent"
    status: Literal["needs_response", "warning_needs_response"] = "needs_response"


class Clock(BaseModel):
    """Customers that Checkout makes from now on live on this test clock; none: in real time."""

    model_config = ConfigDict(extra="forbid")

    id: str | None


class NextPayment(BaseModel):
    """What becomes of a subscription's payments from now on."""

    model_config = ConfigDict(extra="forbid")

    outcome: Literal["fail", "succeed"]


class Control:
    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._store = sandbox.store

    async def add_fault(self, request: Request) -> Response:
        try:
            fault = Fault.model_validate_json(await request.body())
        except ValidationError as error:
            return _bad(str(error))
        self._sandbox.faults.add(fault)
        return JSONResponse(fault.model_dump(), status_code=201)

    async def clear_faults(self, _: Request) -> Response:
        self._sandbox.faults.clear()
        return JSONResponse({"faults": 0})

    async def set_delivery(self, request: Request) -> Response:
        try:
            delivery = Delivery.model_validate_json(await request.body())
        except ValidationError as error:
            return _bad(str(error))
        with self._store.transaction():
            self._store.set_switch(MODE, delivery.mode)
            self._store.set_switch(TROUBLE, delivery.model_dump_json(exclude={"mode"}))
        return JSONResponse(delivery.model_dump())

    async def flush(self, _: Request) -> Response:
        """Sends what is held; the mode stays."""
        with self._store.transaction():
            released = release(self._store)
        self._sandbox.sender.wake()
        return JSONResponse({"released": released})

    async def deliver(self, request: Request) -> Response:
        """So many copies of an event at the same time; answers with their statuses."""
        copies = request.query_params.get("copies", "1")
        if not copies.isdecimal() or not 1 <= int(copies[:9]) <= _MAX_COPIES:
            return _bad(f"copies: 1 to {_MAX_COPIES}")
        event_id = request.path_params["id"]
        if self._store.find("event", event_id) is None:
            return _bad(f"no such event: {event_id}", status=404)
        statuses = await self._sandbox.sender.send(event_id, copies=int(copies))
        return JSONResponse({"statuses": statuses})

    async def forget_keys(self, _: Request) -> Response:
        """As Stripe does after a day."""
        with self._store.transaction():
            forgotten = idempotency.forget_all(self._store)
        return JSONResponse({"forgotten": forgotten})

    async def forget_events(self, _: Request) -> Response:
        """As Stripe does after 30 days; what is on its way to the endpoint is not sent either."""
        with self._store.transaction():
            self._store.execute("DELETE FROM deliveries")
            forgotten = self._store.execute("DELETE FROM objects WHERE kind = 'event'").rowcount
        return JSONResponse({"forgotten": forgotten})

    async def expire_now(self, request: Request) -> Response:
        """The session's time is over now."""
        now = int(time.time())
        found = self._store.find(checkout.KIND, request.path_params["id"])
        if found is None:
            return _bad("no such session", status=404)
        try:
            with self._store.transaction():
                session = found.body | {"expires_at": min(found.body["expires_at"], now)}
                ended = checkout.expire(self._store, session, now=now, origin=Origin())
        except Refusal as refusal:
            return _bad(str(refusal))
        self._sandbox.sender.wake()
        return JSONResponse(ended)

    async def pay_bare(self, request: Request) -> Response:
        try:
            wanted = NewPayment.model_validate_json(await request.body())
        except ValidationError as error:
            return _bad(str(error))
        with self._store.transaction():
            intent = checkout.pay_bare(self._store, **wanted.model_dump(), now=int(time.time()))
        self._sandbox.sender.wake()
        return JSONResponse(intent, status_code=201)

    async def pay_later(self, request: Request) -> Response:
        """By bank debit: the session is complete, the money on its way."""
        found = self._store.find(checkout.KIND, request.path_params["id"])
        if found is not None and found.body["mode"] == "subscription":
            return _bad("a subscription is paid by card")
        return self._act_on_session(request, checkout.pay_later)

    async def end_delayed(self, request: Request) -> Response:
        try:
            outcome = DelayedPayment.model_validate_json(await request.body()).outcome
        except ValidationError as error:
            return _bad(str(error))
        return self._act_on_session(request, checkout.end_delayed, succeeded=outcome == "succeeded")

    def _act_on_session(self, request: Request, act: Callable[..., Object], **how: Any) -> Response:
        session_id = request.path_params["id"]
        if self._store.find(checkout.KIND, session_id) is None:
            return _bad("no such session", status=404)
        try:
            with self._store.transaction():
                session = act(self._store, session_id, now=int(time.time()), **how)
        except checkout.NotOpen as error:
            return _bad(f"the session is {error.session['status']}", status=409)
        self._sandbox.sender.wake()
        return JSONResponse(session)

    async def bear_refunds(self, request: Request) -> Response:
        try:
            births = RefundBirths.model_validate_json(await request.body())
        except ValidationError as error:
            return _bad(str(error))
        with self._store.transaction():
            refunds.bear(self._store, births.status, births.count)
        return JSONResponse(births.model_dump(), status_code=201)

    async def move_refund(self, request: Request) -> Response:
        return await self._move(request, refunds.KIND, refunds.move, refunds.NotMovable)

    async def move_dispute(self, request: Request) -> Response:
        return await self._move(request, disputes.KIND, disputes.move, disputes.NotMovable)

    async def _move(
        self,
        request: Request,
        kind: str,
        move: Callable[..., Object],
        not_movable: type[Exception],
    ) -> Response:
        found = self._store.find(kind, request.path_params["id"])
        if found is None:
            return _bad(f"no such {kind}", status=404)
        try:
            status = Move.model_validate_json(await request.body()).status
            with self._store.transaction():
                moved = move(self._store, found.body, status, now=int(time.time()))
        except (ValidationError, not_movable) as error:
            return _bad(str(error))
        self._sandbox.sender.wake()
        return JSONResponse(moved)

    async def begin_dispute(self, request: Request) -> Response:
        """The cardholder complains at the bank."""
        try:
            wanted = NewDispute.model_validate_json(await request.body())
        except ValidationError as error:
            return _bad(str(error))
        intent = self._store.find("payment_intent", wanted.payment_intent)
        charge = self._store.find("charge", intent.body["latest_charge"] or "") if intent else None
        if charge is None or not charge.body["paid"]:
            return _bad("no such payment", status=404)
        with self._store.transaction():
            dispute = disputes.begin(
                self._store,
                charge.body,
                amount=wanted.amount,
                reason=wanted.reason,
                status=wanted.status,
                now=int(time.time()),
            )
        self._sandbox.sender.wake()
        return JSONResponse(dispute, status_code=201)

    async def set_clock(self, request: Request) -> Response:
        try:
            clock = Clock.model_validate_json(await request.body())
        except ValidationError as error:
            return _bad(str(error))
        if clock.id and self._store.find(clocks.KIND, clock.id) is None:
            return _bad("no such test clock", status=404)
        with self._store.transaction():
            self._store.set_switch(subscriptions.CLOCK, clock.id or "")
        return JSONResponse(clock.model_dump())

    async def script_payments(self, request: Request) -> Response:
        subscription_id = request.path_params["id"]
        if self._store.find(subscriptions.KIND, subscription_id) is None:
            return _bad("no such subscription", status=404)
        try:
            outcome = NextPayment.model_validate_json(await request.body()).outcome
        except ValidationError as error:
            return _bad(str(error))
        with self._store.transaction():
            self._store.set_switch(f"next_payment:{subscription_id}", outcome)
        return JSONResponse({"outcome": outcome})

    async def renew(self, request: Request) -> Response:
        """The subscription's period ends now, whatever the time is."""
        found = self._store.find(subscriptions.KIND, request.path_params["id"])
        if found is None or found.body["ended_at"]:
            return _bad("no such subscription", status=404)
        with self._store.transaction():
            renewed = subscriptions.renew(self._store, found.body, now=int(time.time()))
        self._sandbox.sender.wake()
        return JSONResponse(renewed)

    async def state(self, _: Request) -> Response:
        states = dict.fromkeys(("pending", "held", "dropped", "delivered"), 0)
        rows = self._store.execute("SELECT state, count(*) FROM deliveries GROUP BY state").fetchall()
        return JSONResponse(
            {
                "sessions": self._store.count(checkout.KIND),
                "payment_intents": self._store.count("payment_intent"),
                "charges": self._store.count("charge"),
                "events": self._store.count("event"),
                "deliveries": states | {str(state): int(count) for state, count in rows},
                "taken": self._sandbox.sender.taken,
                "faults": self._sandbox.faults.left(),
                "fired": dict(self._sandbox.faults.fired),
                "webhooks": self._store.switch(MODE, "deliver"),
                "trouble": trouble_of(self._store).model_dump(),
            }
        )


def _bad(message: str, *, status: int = 400) -> Response:
    return JSONResponse({"error": message}, status_code=status)


def routes(sandbox: Sandbox) -> list[Route]:
    control = Control(sandbox)
    return [
        Route("/_control/faults", control.add_fault, methods=["POST"]),
        Route("/_control/faults", control.clear_faults, methods=["DELETE"]),
        Route("/_control/webhooks", control.set_delivery, methods=["POST"]),
        Route("/_control/webhooks/flush", control.flush, methods=["POST"]),
        Route("/_control/events/{id}/deliver", control.deliver, methods=["POST"]),
        Route("/_control/forget_idempotency_keys", control.forget_keys, methods=["POST"]),
        Route("/_control/forget_events", control.forget_events, methods=["POST"]),
        Route("/_control/sessions/{id}/expire_now", control.expire_now, methods=["POST"]),
        Route("/_control/payments", control.pay_bare, methods=["POST"]),
        Route("/_control/sessions/{id}/pay_later", control.pay_later, methods=["POST"]),
        Route("/_control/sessions/{id}/delayed_payment", control.end_delayed, methods=["POST"]),
        Route("/_control/refunds", control.bear_refunds, methods=["POST"]),
        Route("/_control/refunds/{id}", control.move_refund, methods=["POST"]),
        Route("/_control/disputes", control.begin_dispute, methods=["POST"]),
        Route("/_control/disputes/{id}", control.move_dispute, methods=["POST"]),
        Route("/_control/test_clock", control.set_clock, methods=["POST"]),
        Route("/_control/subscriptions/{id}/next_payment", control.script_payments, methods=["POST"]),
        Route("/_control/subscriptions/{id}/renew", control.renew, methods=["POST"]),
        Route("/_control/state", control.state, methods=["GET"]),
    ]
