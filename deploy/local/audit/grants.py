"""I4: points that were paid for, from the payment to what wallet was told of it and to what it knows."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from uuid import UUID

from deploy.local.audit.snapshot import Check, Finding, Row, Snapshots
from protos.events.v1 import events_pb2
from services.payments.rules import net_points


@dataclass(frozen=True, slots=True)
class Told:
    """The newest fact about a source."""

    message_id: UUID
    event: events_pb2.PointsGrantChanged
    # No longer on its way by any measure: a message that failed comes again within a minute.
    is_late: bool


class PaidPoints:
    """Each sale's net was told, and wallet knows what it was told, and nothing else.

    A fact that is unsent or on its way is no finding; one that was handled, or sent long ago, and left no
    trace is. wallet is read first: what is seen there has been told by then.
    """

    proves = ("I4",)

    def __call__(self, databases: Snapshots) -> Iterator[Finding]:
        grants = {row["source_id"]: row for row in databases.rows("wallet", _GRANTS)}
        told = _newest(databases.rows("payments", _TOLD))
        sales = databases.rows("payments", _SALES)
        yield from _untold(sales, told)
        yield from _unpaid(sales, told)
        yield from _given_away(databases.rows("payments", _PARKED), told)
        yield from _made_up(grants, told)
        yield from _unheard(databases, grants, told)


def _newest(rows: list[Row]) -> Mapping[str, Told]:
    newest: dict[str, Told] = {}
    for row in rows:
        event = events_pb2.PointsGrantChanged.FromString(row["payload"])
        known = newest.get(event.source_id)
        if known is None or known.event.version < event.version:
            newest[event.source_id] = Told(row["id"], event, row["is_late"])
    return newest


def _untold(sales: list[Row], told: Mapping[str, Told]) -> Iterator[Finding]:
    for sale in sales:
        event = told[sale["source_id"]].event if sale["source_id"] in told else None
        net = net_points(sale["points"], sale["paid_cents"], sale["taken_back_cents"])
        if event is None or event.net_points != net:
            found = _fact(event) if event else "nothing was told"
            where = f"sale {sale['source_id']}"
            yield Finding("I4", f"wallet was not told of a net of {net} points", where, found)


def _given_away(parked: list[Row], told: Mapping[str, Told]) -> Iterator[Finding]:
    by_intent = {each.event.payment_intent_id: each.event for each in told.values()}
    for payment in parked:
        intent = payment["payment_intent_id"]
        event = by_intent.get(intent)
        if event is not None:
            yield Finding("I4", "a payment in quarantine has given points", f"payment {intent}", _fact(event))


def _unpaid(sales: list[Row], told: Mapping[str, Told]) -> Iterator[Finding]:
    known = {sale["source_id"] for sale in sales}
    for source, each in told.items():
        # Of one that was taken back, or never given, nothing is left to be paid.
        if source not in known and each.event.net_points:
            what = "wallet was told of points that nobody paid"
            yield Finding("I4", what, f"grant {source}", _fact(each.event))


def _made_up(grants: Mapping[str, Row], told: Mapping[str, Told]) -> Iterator[Finding]:
    for source, grant in grants.items():
        where = f"grant {source}"
        if source not in told or grant["version"] > told[source].event.version:
            yield Finding("I4", "wallet knows of points that payments never told of", where, str(grant))
            continue
        event = told[source].event
        same = (grant["net_points"], str(grant["user_id"])) == (event.net_points, event.user_id)
        if grant["version"] == event.version and not same:
            yield Finding("I4", "wallet knows of other points than it was told", where, str(grant))


def _unheard(databases: Snapshots, grants: Mapping[str, Row], told: Mapping[str, Told]) -> Iterator[Finding]:
    behind = {
        source: each
        for source, each in told.items()
        if source not in grants or grants[source]["version"] < each.event.version
    }
    if not behind:
        return
    handled = {row["message_id"] for row in databases.rows("wallet", _HANDLED)}
    for source, each in behind.items():
        if each.is_late or each.message_id in handled:
            what = "points that were told of have not arrived"
            yield Finding("I4", what, f"grant {source}", _fact(each.event))


def _fact(event: events_pb2.PointsGrantChanged) -> str:
    return f"version {event.version} told of {event.net_points} points"


_GRANTS = "SELECT source_id, user_id, version, net_points FROM grants"
_HANDLED = "SELECT message_id FROM inbox WHERE consumer = 'wallet__grant'"
_TOLD = """
    SELECT id, payload, sent_at IS NOT NULL AND sent_at < now() - interval '2 minutes' AS is_late
    FROM outbox WHERE subject = 'payments.points.grant_changed'"""
# A sale has 0 to n payments: an invoice may be paid in parts, or outside of Stripe.
_SALES = """
    SELECT i.id AS source_id, coalesce(i.points, s.points) AS points,
        coalesce(i.billed_cents, i.amount_paid_cents) AS paid_cents,
        coalesce(sum(least(p.amount_cents, p.refunded_cents + p.disputed_cents)), 0)::bigint
            AS taken_back_cents
    FROM invoices i LEFT JOIN subscriptions s ON s.id = i.subscription_id
        LEFT JOIN payments p ON p.invoice_id = i.id
    GROUP BY i.id, s.points
    UNION ALL
    SELECT grant_source, points, amount_cents, least(amount_cents, refunded_cents + disputed_cents)
    FROM payments p WHERE standing = 'fulfilled' AND points > 0
        AND NOT EXISTS (SELECT FROM invoices i WHERE i.id = p.invoice_id)
    UNION ALL
    -- Promotion codes paid for it.
    SELECT id::text, points, 0, 0
    FROM checkouts WHERE status = 'paid' AND points > 0 AND discount_cents = amount_cents"""
_PARKED = "SELECT payment_intent_id FROM payments WHERE standing = 'quarantined'"

CHECKS: tuple[Check, ...] = (PaidPoints(),)
