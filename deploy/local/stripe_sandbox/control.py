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
    idempotency,
)
from deploy.local.stripe_sandbox.errors import Refusal
from deploy.local.stripe_sandbox.events import (
    MODE,
    TROUBLE,
    VERSIONS,
    Origin,
    Trouble,
    Versions,
    events_about,
    forget_events,
    release,
    trouble_of,
)
from deploy.local.stripe_sandbox.faults import Fault
from deploy.local.stripe_sandbox.sandbox import Sandbox
from deploy.local.stripe_sandbox.store import Object

_MAX_COPIES = 500


class Delivery(Trouble):
    """`hold` keeps new events until they are flushed, `drop` never sends them (they can still be listed).
    Events that were emitted before go on as they were."""

    mode: Literal["deliver", "hold", "drop"]


class Forgotten(BaseModel):
    """The ids of objects that there are no more, or whose events there are no more."""

    model_config = ConfigDict(extra="forbid")

    about: list[str] = []


class NewPayment(BaseModel):
    """A payment that belongs to no session."""

    model_config = ConfigDict(extra="forbid")

    amount: int = Field(ge=1, le=99_999_999)
    currency: str = Field(default="usd", pattern="^[a-z]{3}$")
    metadata: dict[str, str] = {}


class DelayedPayment(BaseModel):
    """What became of a bank debit; a canceled one tells by its payment intent alone."""

    model_config = ConfigDict(extra="forbid")

    outcome: Literal["succeeded", "failed", "canceled"]


class Control:
    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._store = sandbox.store

    async def add_fault(self, request: Request) -> Response:
        try:
            fault = Fault.model_validate_json(await request.body())
        except ValidationError as error:
            return bad(str(error))
        self._sandbox.faults.add(fault)
        return JSONResponse(fault.model_dump(), status_code=201)

    async def take_back_fault(self, request: Request) -> Response:
        """The other faults stay."""
        fault_id = request.path_params["id"]
        if not self._sandbox.faults.remove(fault_id):
            return bad(f"no such fault: {fault_id}", status=404)
        return JSONResponse({"id": fault_id})

    async def clear_faults(self, _: Request) -> Response:
        self._sandbox.faults.clear()
        return JSONResponse({"faults": 0})

    async def set_delivery(self, request: Request) -> Response:
        try:
            delivery = Delivery.model_validate_json(await request.body())
        except ValidationError as error:
            return bad(str(error))
        with self._store.transaction():
            self._store.set_switch(MODE, delivery.mode)
            self._store.set_switch(TROUBLE, delivery.model_dump_json(exclude={"mode"}))
        return JSONResponse(delivery.model_dump())

    async def set_versions(self, request: Request) -> Response:
        try:
            versions = Versions.model_validate_json(await request.body())
        except ValidationError as error:
            return bad(str(error))
        with self._store.transaction():
            self._store.set_switch(VERSIONS, versions.model_dump_json())
        return JSONResponse(versions.model_dump())

    async def flush(self, _: Request) -> Response:
        """Sends what is held; the mode stays."""
        with self._store.transaction():
            released = release(self._store)
        self._sandbox.sender.wake()
        return JSONResponse({"released": released})

    async def list_events(self, request: Request) -> Response:
        """What was told about an object, or about what names it as its payment, the oldest first."""
        told = events_about(self._store, request.query_params.get("about", ""))
        return JSONResponse({"events": [{"id": event_id, "type": kind} for event_id, kind in told]})

    async def deliver(self, request: Request) -> Response:
        """So many copies of an event at the same time; answers with their statuses."""
        copies = request.query_params.get("copies", "1")
        if not copies.isdecimal() or not 1 <= int(copies[:9]) <= _MAX_COPIES:
            return bad(f"copies: 1 to {_MAX_COPIES}")
        event_id = request.path_params["id"]
        if self._store.find("event", event_id) is None:
            return bad(f"no such event: {event_id}", status=404)
        statuses = await self._sandbox.sender.send(event_id, copies=int(copies))
        return JSONResponse({"statuses": statuses})

    async def forget_keys(self, _: Request) -> Response:
        """As Stripe does after a day."""
        with self._store.transaction():
            forgotten = idempotency.forget_all(self._store)
        return JSONResponse({"forgotten": forgotten})

    async def forget_events(self, request: Request) -> Response:
        """As Stripe does after 30 days; what is on its way to the endpoint is not sent either. Of all
        objects, or of those that the body names, and of what names them as its payment."""
        try:
            about = Forgotten.model_validate_json(await request.body() or "{}").about
        except ValidationError as error:
            return bad(str(error))
        with self._store.transaction():
            return JSONResponse({"forgotten": forget_events(self._store, about)})

    async def forget_objects(self, request: Request) -> Response:
        """As Stripe does when an account's test data are deleted."""
        try:
            about = Forgotten.model_validate_json(await request.body()).about
        except ValidationError as error:
            return bad(str(error))
        with self._store.transaction():
            return JSONResponse({"forgotten": sum(self._store.delete(each) for each in about)})

    async def expire_now(self, request: Request) -> Response:
        """The session's time is over now."""
        now = int(time.time())
        found = self._store.find(checkout.KIND, request.path_params["id"])
        if found is None:
            return bad("no such session", status=404)
        try:
            with self._store.transaction():
                session = found.body | {"expires_at": min(found.body["expires_at"], now)}
                ended = checkout.expire(self._store, session, now=now, origin=Origin())
        except Refusal as refusal:
            return bad(str(refusal))
        self._sandbox.sender.wake()
        return JSONResponse(ended)

    async def pay_bare(self, request: Request) -> Response:
        try:
            wanted = NewPayment.model_validate_json(await request.body())
        except ValidationError as error:
            return bad(str(error))
        with self._store.transaction():
            intent = checkout.pay_bare(self._store, **wanted.model_dump(), now=int(time.time()))
        self._sandbox.sender.wake()
        return JSONResponse(intent, status_code=201)

    async def pay_later(self, request: Request) -> Response:
        """By bank debit: the session is complete, the money on its way."""
        found = self._store.find(checkout.KIND, request.path_params["id"])
        if found is not None and found.body["mode"] == "subscription":
            return bad("a subscription is paid by card")
        return self._act_on_session(request, checkout.pay_later)

    async def end_delayed(self, request: Request) -> Response:
        try:
            outcome = DelayedPayment.model_validate_json(await request.body()).outcome
        except ValidationError as error:
            return bad(str(error))
        if outcome == "canceled":
            return self._act_on_session(request, checkout.cancel_delayed)
        return self._act_on_session(request, checkout.end_delayed, succeeded=outcome == "succeeded")

    def _act_on_session(self, request: Request, act: Callable[..., Object], **how: Any) -> Response:
        session_id = request.path_params["id"]
        if self._store.find(checkout.KIND, session_id) is None:
            return bad("no such session", status=404)
        try:
            with self._store.transaction():
                session = act(self._store, session_id, now=int(time.time()), **how)
        except checkout.NotOpen as error:
            return bad(f"the session is {error.session['status']}", status=409)
        self._sandbox.sender.wake()
        return JSONResponse(session)

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


def bad(message: str, *, status: int = 400) -> Response:
    return JSONResponse({"error": message}, status_code=status)


def routes(sandbox: Sandbox) -> list[Route]:
    control = Control(sandbox)
    return [
        Route("/_control/faults", control.add_fault, methods=["POST"]),
        Route("/_control/faults", control.clear_faults, methods=["DELETE"]),
        Route("/_control/faults/{id}", control.take_back_fault, methods=["DELETE"]),
        Route("/_control/webhooks", control.set_delivery, methods=["POST"]),
        Route("/_control/api_versions", control.set_versions, methods=["POST"]),
        Route("/_control/webhooks/flush", control.flush, methods=["POST"]),
        Route("/_control/events", control.list_events, methods=["GET"]),
        Route("/_control/events/{id}/deliver", control.deliver, methods=["POST"]),
        Route("/_control/forget_idempotency_keys", control.forget_keys, methods=["POST"]),
        Route("/_control/forget_events", control.forget_events, methods=["POST"]),
        Route("/_control/forget_objects", control.forget_objects, methods=["POST"]),
        Route("/_control/sessions/{id}/expire_now", control.expire_now, methods=["POST"]),
        Route("/_control/payments", control.pay_bare, methods=["POST"]),
        Route("/_control/sessions/{id}/pay_later", control.pay_later, methods=["POST"]),
        Route("/_control/sessions/{id}/delayed_payment", control.end_delayed, methods=["POST"]),
        Route("/_control/state", control.state, methods=["GET"]),
    ]
