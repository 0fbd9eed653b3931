"""What Stripe has made since a time, object by object: events it forgets after 30 days, objects never.

Each sweep reads one kind of object by when it was created, the newest first, a page at a time. Of a page only
what is not as it is known here is looked at, by the same path as an event. How far a sweep came is kept with
the run, so that one that stopped goes on from there.

What is final at first may change later: a refund fails, an invoice is paid, a lost dispute is won. So once a
day, and whenever an operator asks, the sweeps reach back as far as that happens.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from services.chassis.db import Database
from services.payments import queries, rules, sales
from services.payments.commands import reconciliations
from services.payments.looks import Looker
from services.payments.stripe_client import Stripe
from services.payments.stripe_objects import Charge, Dispute, Invoice, Refund

Look = tuple[str, Callable[[str], Awaitable[Any]]]


@dataclass(frozen=True, slots=True)
class Sweep:
    """One kind of object: what lists it, when one was made, and which looks a page of it asks for."""

    kind: str
    # How far the second look reaches: what is older does not change any more.
    second_look: timedelta
    listing: Callable[[datetime, datetime | None], AsyncIterator[Any]]
    looks: Callable[[Sequence[Any]], Awaitable[list[Look]]]


class Sweeps:
    """Knows what to compare of each kind."""

    def __init__(self, *, database: Database, stripe: Stripe, looker: Looker) -> None:
        self._database = database
        self._stripe = stripe
        self._looker = looker

    def all(self) -> tuple[Sweep, ...]:
        """Payments first, since money comes back of what is known."""
        return (
            self._sweep("charges", timedelta(0), self._charges),
            self._sweep("invoices", timedelta(days=90), self._invoices),
            self._sweep("refunds", timedelta(days=90), self._refunds),
            # Banks take months.
            self._sweep("disputes", timedelta(days=180), self._disputes),
        )

    def _sweep(
        self, kind: str, second_look: timedelta, looks: Callable[[Sequence[Any]], Awaitable[list[Look]]]
    ) -> Sweep:
        return Sweep(
            kind, second_look, lambda since, until: self._stripe.list_created(kind, since, until), looks
        )

    async def _charges(self, page: Sequence[Charge]) -> list[Look]:
        """Paid ones that bear our metadata and are not known; and those of which more, or less, came back."""
        paid = {
            charge.payment_intent_id: charge
            for charge in page
            if charge.payment_intent_id and charge.status == "succeeded" and charge.is_captured
        }
        async with self._database.worker() as connection:
            known = await reconciliations.amounts_of(connection, list(paid))
        looks: list[Look] = []
        for intent_id, charge in paid.items():
            if intent_id not in known:
                if rules.bears_our_metadata(charge.metadata):
                    looks.append((intent_id, self._looker.payment))
                continue
            refunded, dispute = known[intent_id]
            if refunded != charge.amount_refunded:
                looks.append((intent_id, self._looker.refunds))
            if charge.is_disputed and dispute == "none":
                looks.append((intent_id, self._looker.disputes))
        return looks

    async def _invoices(self, page: Sequence[Invoice]) -> list[Look]:
        """Paid ones of our subscriptions that neither gave points nor wait for an operator."""
        paid = {
            invoice.id: invoice
            for invoice in page
            if invoice.status == "paid" and invoice.subscription_id and not sales.gives_nothing(invoice)
        }
        async with self._database.worker() as connection:
            unknown = await queries.unknown_invoices(connection, list(paid))
            ours = await reconciliations.our_subscriptions(
                connection, [paid[each].subscription_id or "" for each in unknown]
            )
        return [
            (invoice_id, self._looker.invoice)
            for invoice_id in unknown
            if paid[invoice_id].subscription_id in ours
            or rules.bears_our_metadata(paid[invoice_id].subscription_metadata)
        ]

    async def _refunds(self, page: Sequence[Refund]) -> list[Look]:
        return await self._changed(
            {each.id: (each.payment_intent_id, each.status) for each in page},
            reconciliations.refund_statuses,
            self._looker.refunds,
        )

    async def _disputes(self, page: Sequence[Dispute]) -> list[Look]:
        return await self._changed(
            {each.id: (each.payment_intent_id, each.status) for each in page},
            reconciliations.dispute_statuses,
            self._looker.disputes,
        )

    async def _changed(
        self,
        listed: dict[str, tuple[str | None, str]],
        read: Callable[..., Awaitable[dict[str, str]]],
        look: Callable[[str], Awaitable[Any]],
    ) -> list[Look]:
        """The payments of what is in another state here; of payments that are not ours nothing."""
        async with self._database.worker() as connection:
            known = await read(connection, list(listed))
            changed = {
                intent_id
                for object_id, (intent_id, status) in listed.items()
                if intent_id is not None and known.get(object_id) != status
            }
            ours = await reconciliations.amounts_of(connection, list(changed))
        return [(intent_id, look) for intent_id in sorted(changed & ours.keys())]
