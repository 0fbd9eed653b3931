"""The strings that tests pull: /_control/, JSON, no key. The sandbox listens on loopback."""

import time
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from deploy.local.stripe_sandbox import checkout, idempotency
from deploy.local.stripe_sandbox.errors import Refusal
from deploy.local.stripe_sandbox.events import MODE, Origin
from deploy.local.stripe_sandbox.faults import Fault
from deploy.local.stripe_sandbox.sandbox import Sandbox

_MAX_COPIES = 500


class Delivery(BaseModel):
    """`hold` keeps new events until they are flushed, `drop` never sends them (they can still be listed).
    Events that were emitted before go on as they were."""

    model_config = ConfigDict(extra="forbid")

    mode: Literal["deliver", "hold", "drop"]


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
            mode = Delivery.model_validate_json(await request.body()).mode
        except ValidationError as error:
            return _bad(str(error))
        with self._store.transaction():
            self._store.set_switch(MODE, mode)
        return JSONResponse({"mode": mode})

    async def flush(self, _: Request) -> Response:
        """Sends what is held; the mode stays."""
        with self._store.transaction():
            released = self._store.execute(
                "UPDATE deliveries SET state = 'pending', due_at = ? WHERE state = 'held'", time.time()
            ).rowcount
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
                "faults": self._sandbox.faults.left(),
                "webhooks": self._store.switch(MODE, "deliver"),
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
        Route("/_control/sessions/{id}/expire_now", control.expire_now, methods=["POST"]),
        Route("/_control/state", control.state, methods=["GET"]),
    ]
