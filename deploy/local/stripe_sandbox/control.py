"""`/_control`: what a test does to this Stripe, and no customer could."""

import asyncio

from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from deploy.local.stripe_sandbox.faults import Fault, Faults
from deploy.local.stripe_sandbox.store import Store
from deploy.local.stripe_sandbox.till import KIND, Till
from deploy.local.stripe_sandbox.webhooks import Mode, Webhooks

_MAX_COPIES = 1000


class _WebhookMode(BaseModel):
    mode: Mode


class Control:
    def __init__(self, store: Store, till: Till, webhooks: Webhooks, faults: Faults) -> None:
        self._store = store
        self._till = till
        self._webhooks = webhooks
        self._faults = faults

    def routes(self) -> list[Route]:
        return [
            Route("/_control/faults", self._add_fault, methods=["POST"]),
            Route("/_control/faults", self._clear_faults, methods=["DELETE"]),
            Route("/_control/webhooks", self._set_webhooks, methods=["POST"]),
            Route("/_control/webhooks/flush", self._flush, methods=["POST"]),
            Route("/_control/events/{id}/deliver", self._deliver, methods=["POST"]),
            Route("/_control/forget_idempotency_keys", self._forget, methods=["POST"]),
            Route("/_control/sessions/{id}/expire_now", self._expire, methods=["POST"]),
            Route("/_control/state", self._state, methods=["GET"]),
        ]

    async def _add_fault(self, request: Request) -> Response:
        try:
            self._faults.add(Fault.model_validate_json(await request.body()))
        except ValidationError as error:
            return JSONResponse({"error": str(error)}, 422)
        return JSONResponse({}, 201)

    async def _clear_faults(self, _: Request) -> Response:
        self._faults.clear()
        return JSONResponse({})

    async def _set_webhooks(self, request: Request) -> Response:
        try:
            mode = _WebhookMode.model_validate_json(await request.body()).mode
        except ValidationError as error:
            return JSONResponse({"error": str(error)}, 422)
        self._webhooks.held = mode == "hold"
        self._till.deliver_webhooks = mode != "drop"
        self._webhooks.wake()
        return JSONResponse({"mode": mode})

    async def _flush(self, _: Request) -> Response:
        return JSONResponse({"due": self._webhooks.flush()})

    async def _deliver(self, request: Request) -> Response:
        """Many copies of one event at once; answers the status of each."""
        event = self._store.find("event", request.path_params["id"])
        if event is None:
            return JSONResponse({"error": "no such event"}, 404)
        copies = min(_MAX_COPIES, int(request.query_params.get("copies", "1")))
        statuses = await asyncio.gather(*(self._webhooks.deliver(event) for _ in range(copies)))
        return JSONResponse({"statuses": statuses})

    async def _forget(self, _: Request) -> Response:
        self._store.forget_answers()
        return JSONResponse({})

    async def _expire(self, request: Request) -> Response:
        return JSONResponse({"status": self._till.expire(request.path_params["id"])["status"]})

    async def _state(self, _: Request) -> Response:
        return JSONResponse(
            {
                "sessions": self._store.count(KIND),
                "payment_intents": self._store.count("payment_intent"),
                "charges": self._store.count("charge"),
                "events": self._store.count("event"),
                "undelivered": len(self._store.undelivered()),
            }
        )
