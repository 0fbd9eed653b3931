"""I6: what one service told has reached who listens, and nobody heard what was never told."""

from collections.abc import Iterator
from typing import NamedTuple
from uuid import UUID

from deploy.local.audit.snapshot import Check, Finding, Snapshots
from services.chassis.bus import STREAM_DAYS


class Edge(NamedTuple):
    """A kind of fact, on its way from one database to another."""

    sender: str
    subject: str
    listener: str
    durable: str


# Not orders__product: a cache that misses it is only old for a while.
EDGES = (
    Edge("payments", "payments.points.grant_changed", "wallet", "wallet__grant"),
    Edge("payments", "payments.checkout.changed", "orders", "orders__checkout"),
    Edge("payments", "payments.payment.changed", "orders", "orders__payment"),
    Edge("payments", "payments.refund.changed", "orders", "orders__refund"),
    Edge("wallet", "wallet.hold.overdue", "orders", "orders__hold"),
)


class FactsArrive:
    """I6: outbox ⊆ stream ⊆ inbox, and back. A fact that was sent minutes ago is no longer on its way."""

    proves = ("I6",)

    def __call__(self, databases: Snapshots) -> Iterator[Finding]:
        for edge in EDGES:
            heard: set[UUID] = {
                row["message_id"] for row in databases.rows(edge.listener, _HEARD.format(edge.durable))
            }
            told = {row["id"]: row for row in databases.rows(edge.sender, _TOLD.format(edge.subject))}
            for fact_id, fact in told.items():
                if fact["is_late"] and fact_id not in heard:
                    found = f"{edge.subject} of {fact['created_at']} is unknown to {edge.durable}"
                    yield Finding("I6", "a fact has not arrived", f"fact {fact_id}", found)
            for fact_id in heard - told.keys():
                found = f"{edge.durable} handled it, {edge.sender} knows nothing of it"
                yield Finding("I6", "a fact was heard that nobody told", f"fact {fact_id}", found)


class StreamsAreFilled:
    """I6: a stream that the broker lost has again what was in it."""

    proves = ("I6",)

    def __call__(self, databases: Snapshots) -> Iterator[Finding]:
        for database in databases.connections:
            for row in databases.rows(database, _LOST):
                found = (
                    f"lost at {row['stream_lost_at']}, filled from the outbox as far as {row['refill_after']}"
                )
                yield Finding("I6", "a lost stream is not filled yet", f"stream of {database}", found)


_HEARD = "SELECT message_id FROM inbox WHERE consumer = '{}'"
_TOLD = f"""
    SELECT id, created_at, sent_at < now() - interval '2 minutes'
        AND created_at > now() - interval '{STREAM_DAYS} days' AS is_late
    FROM outbox WHERE subject = '{{}}'"""
_LOST = "SELECT stream_lost_at, refill_after FROM relay WHERE refill_after IS NOT NULL"

CHECKS: tuple[Check, ...] = (FactsArrive(), StreamsAreFilled())
