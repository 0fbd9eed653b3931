"""The strings that tests pull at refunds, disputes and the balance: /_control/, as in control.py."""

import time
from collections.abc import Callable
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from deploy.local.stripe_sandbox import balance, disputes, refunds
from deploy.local.stripe_sandbox.control import bad
from deploy.local.stripe_sandbox.sandbox import Sandbox
from deploy.local.stripe_sandbox.store import Object


class RefundBirths(BaseModel):
    """How the next refunds are born: `failed` succeeds first, and comes back at once."""

    model_config = ConfigDict(extra="forbid")

    status: Literal["succeeded", "pending", "requires_action", "failed"]
    count: int = Field(default=1, ge=1, le=10_000)
    payment_intent: str | None = None


class RefundMove(BaseModel):
    """Where a refund goes."""

    model_config = ConfigDict(extra="forbid")

    status: str
    failure_reason: str | None = None


class DisputeMove(BaseModel):
    """Where a dispute goes; `reinstated` is what comes back of a lost one, in the balance's currency."""

    model_config = ConfigDict(extra="forbid")

    status: str
    reinstated: int | None = Field(default=None, ge=1)


class NewDispute(BaseModel):
    model_config = ConfigDict(extra="forbid")

    payment_intent: str
    amount: int | None = Field(default=None, ge=1)
    # The bank's own, when it is not the charge's; then what was taken of the balance has to be said too.
    currency: str | None = Field(default=None, pattern="^[a-z]{3}$")
    settled_amount: int | None = Field(default=None, ge=1)
    reason: str = "fraudulent"
    status: Literal["needs_response", "warning_needs_response"] = "needs_response"

    @model_validator(mode="after")
    def _check_currency(self) -> Self:
        if self.currency and not self.settled_amount:
            raise ValueError("settled_amount: what is that in the currency of the balance?")
        return self


class MoneyControl:
    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._store = sandbox.store

    async def bear_refunds(self, request: Request) -> Response:
        try:
            births = RefundBirths.model_validate_json(await request.body())
        except ValidationError as error:
            return bad(str(error))
        with self._store.transaction():
            refunds.bear(self._store, **births.model_dump())
        return JSONResponse(births.model_dump(), status_code=201)

    async def move_refund(self, request: Request) -> Response:
        return await self._move(request, refunds.KIND, RefundMove, refunds.move, refunds.NotMovable)

    async def move_dispute(self, request: Request) -> Response:
        return await self._move(request, disputes.KIND, DisputeMove, disputes.move, disputes.NotMovable)

    async def _move(
        self,
        request: Request,
        kind: str,
        wanted: type[BaseModel],
        move: Callable[..., Object],
        not_movable: type[Exception],
    ) -> Response:
        found = self._store.find(kind, request.path_params["id"])
        if found is None:
            return bad(f"no such {kind}", status=404)
        try:
            where = wanted.model_validate_json(await request.body()).model_dump()
            with self._store.transaction():
                moved = move(self._store, found.body, now=int(time.time()), **where)
        except (ValidationError, not_movable) as error:
            return bad(str(error))
        self._sandbox.sender.wake()
        return JSONResponse(moved)

    async def begin_dispute(self, request: Request) -> Response:
        """The cardholder complains at the bank."""
        try:
            wanted = NewDispute.model_validate_json(await request.body())
        except ValidationError as error:
            return bad(str(error))
        intent = self._store.find("payment_intent", wanted.payment_intent)
        charge = self._store.find("charge", intent.body["latest_charge"] or "") if intent else None
        if charge is None or not charge.body["paid"]:
            return bad("no such payment", status=404)
        with self._store.transaction():
            how = wanted.model_dump(exclude={"payment_intent"})
            dispute = disputes.begin(self._store, charge.body, **how, now=int(time.time()))
        self._sandbox.sender.wake()
        return JSONResponse(dispute, status_code=201)

    async def settle_in(self, request: Request) -> Response:
        try:
            settlement = balance.Settlement.model_validate_json(await request.body())
        except ValidationError as error:
            return bad(str(error))
        with self._store.transaction():
            balance.settle_in(self._store, settlement)
        return JSONResponse(settlement.model_dump())


def routes(sandbox: Sandbox) -> list[Route]:
    control = MoneyControl(sandbox)
    return [
        Route("/_control/refunds", control.bear_refunds, methods=["POST"]),
        Route("/_control/refunds/{id}", control.move_refund, methods=["POST"]),
        Route("/_control/disputes", control.begin_dispute, methods=["POST"]),
        Route("/_control/disputes/{id}", control.move_dispute, methods=["POST"]),
        Route("/_control/settlement", control.settle_in, methods=["POST"]),
    ]
