"""The strings that tests pull at subscriptions and their invoices: /_control/, as in control.py."""

import time
from collections.abc import Callable
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from deploy.local.stripe_sandbox import clocks, invoices, subscriptions
from deploy.local.stripe_sandbox.control import bad
from deploy.local.stripe_sandbox.objects import subscription as objects
from deploy.local.stripe_sandbox.sandbox import Sandbox
from deploy.local.stripe_sandbox.store import Object

_MAX_AMOUNT = 99_999_999


class Clock(BaseModel):
    """Customers that Checkout makes from now on live on this test clock; none: in real time."""

    model_config = ConfigDict(extra="forbid")

    id: str | None


class NextPayment(BaseModel):
    """What becomes of a subscription's payments from now on."""

    model_config = ConfigDict(extra="forbid")

    outcome: Literal["fail", "succeed"]


class NewInvoice(BaseModel):
    """What is billed, and how it is paid; a usual renewal says nothing."""

    model_config = ConfigDict(extra="forbid")

    billing_reason: Literal["manual", "subscription_create", "subscription_cycle", "subscription_update"] = (
        "subscription_cycle"
    )
    proration: int = Field(default=0, ge=-_MAX_AMOUNT, le=_MAX_AMOUNT)
    tax: int = Field(default=0, ge=0, le=_MAX_AMOUNT)
    balance: int = Field(default=0, ge=0, le=_MAX_AMOUNT)
    by: Literal["card", "charge", "out_of_band"] = "card"
    parts: list[int] = []

    def terms(self) -> invoices.Terms:
        return invoices.Terms(
            reason=self.billing_reason,
            proration=self.proration,
            tax=self.tax,
            balance=self.balance,
            by=self.by,
            parts=tuple(self.parts),
        )


class NewItem(BaseModel):
    """What is changed in the dashboard: a second item, or the first one's price or interval from the next
    period on."""

    model_config = ConfigDict(extra="forbid")

    add_unit_amount: int | None = Field(default=None, ge=1, le=_MAX_AMOUNT)
    unit_amount: int | None = Field(default=None, ge=0, le=_MAX_AMOUNT)
    interval: Literal["day", "week", "month", "year"] | None = None

    @model_validator(mode="after")
    def _check_change(self) -> Self:
        if self == NewItem.model_construct():
            raise ValueError("nothing is changed")
        return self


class NewCreditNote(BaseModel):
    model_config = ConfigDict(extra="forbid")

    amount: int = Field(ge=1, le=_MAX_AMOUNT)
    how: Literal["refund", "balance", "outside"] = "refund"


class BillingControl:
    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._store = sandbox.store

    async def set_clock(self, request: Request) -> Response:
        try:
            clock = Clock.model_validate_json(await request.body())
        except ValidationError as error:
            return bad(str(error))
        if clock.id and self._store.find(clocks.KIND, clock.id) is None:
            return bad("no such test clock", status=404)
        with self._store.transaction():
            self._store.set_switch(subscriptions.CLOCK, clock.id or "")
        return JSONResponse(clock.model_dump())

    async def script_payments(self, request: Request) -> Response:
        subscription_id = request.path_params["id"]
        if self._store.find(subscriptions.KIND, subscription_id) is None:
            return bad("no such subscription", status=404)
        try:
            outcome = NextPayment.model_validate_json(await request.body()).outcome
        except ValidationError as error:
            return bad(str(error))
        with self._store.transaction():
            self._store.set_switch(f"next_payment:{subscription_id}", outcome)
        return JSONResponse({"outcome": outcome})

    async def renew(self, request: Request) -> Response:
        """The subscription's period ends now, whatever the time is."""
        return await self._bill(
            request, lambda now, theirs, terms: subscriptions.renew(self._store, theirs, now=now, terms=terms)
        )

    async def invoice(self, request: Request) -> Response:
        """Something is billed in the middle of a period."""

        def bill(now: int, theirs: Object, terms: invoices.Terms) -> Object:
            return subscriptions.bill_now(self._store, theirs, theirs, now=now, terms=terms)

        return await self._bill(request, bill)

    async def _bill(
        self, request: Request, bill: Callable[[int, Object, invoices.Terms], Object]
    ) -> Response:
        found = self._store.find(subscriptions.KIND, request.path_params["id"])
        if found is None or found.body["ended_at"]:
            return bad("no such subscription", status=404)
        try:
            terms = NewInvoice.model_validate_json(await request.body() or "{}").terms()
        except ValidationError as error:
            return bad(str(error))
        with self._store.transaction():
            billed = bill(int(time.time()), found.body, terms)
        self._sandbox.sender.wake()
        return JSONResponse(billed)

    async def change_items(self, request: Request) -> Response:
        found = self._store.find(subscriptions.KIND, request.path_params["id"])
        if found is None or found.body["ended_at"]:
            return bad("no such subscription", status=404)
        try:
            wanted = NewItem.model_validate_json(await request.body())
        except ValidationError as error:
            return bad(str(error))
        now, changed = int(time.time()), found.body
        if wanted.unit_amount is not None or wanted.interval:
            changed = objects.with_price(changed, unit_amount=wanted.unit_amount, interval=wanted.interval)
        if wanted.add_unit_amount:
            changed = objects.with_item(changed, unit_amount=wanted.add_unit_amount, now=now)
        with self._store.transaction():
            self._store.update(changed)
            subscriptions.tell_of_change(self._store, changed, previous=found.body, now=now)
        self._sandbox.sender.wake()
        return JSONResponse(changed)

    async def credit(self, request: Request) -> Response:
        """A credit note for an invoice."""
        found = self._store.find(invoices.KIND, request.path_params["id"])
        if found is None:
            return bad("no such invoice", status=404)
        try:
            wanted = NewCreditNote.model_validate_json(await request.body())
        except ValidationError as error:
            return bad(str(error))
        if wanted.amount > found.body["amount_due"]:
            return bad("no more than the invoice")
        with self._store.transaction():
            how, now = wanted.model_dump(), int(time.time())
            note = invoices.credit(self._store, found.body, **how, now=now)
        self._sandbox.sender.wake()
        return JSONResponse(note, status_code=201)


def routes(sandbox: Sandbox) -> list[Route]:
    control = BillingControl(sandbox)
    return [
        Route("/_control/test_clock", control.set_clock, methods=["POST"]),
        Route("/_control/subscriptions/{id}/next_payment", control.script_payments, methods=["POST"]),
        Route("/_control/subscriptions/{id}/renew", control.renew, methods=["POST"]),
        Route("/_control/subscriptions/{id}/invoice", control.invoice, methods=["POST"]),
        Route("/_control/subscriptions/{id}/items", control.change_items, methods=["POST"]),
        Route("/_control/invoices/{id}/credit_note", control.credit, methods=["POST"]),
    ]
