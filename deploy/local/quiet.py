"""Whether everything that was started has come to its end: sagas, events, mails, webhooks."""

from collections.abc import Mapping

from pydantic import SecretStr

from services.chassis.connections import WORKER, connect_now

# What is still on its way, by database. A card order that waits for its customer is at rest, and so is a mail
# whose answer from the mail server does not come.
_OPEN = {
    "wallet": "SELECT count(*) FROM outbox WHERE sent_at IS NULL",
    "orders": """
        SELECT (SELECT count(*) FROM outbox WHERE sent_at IS NULL)
            + (SELECT count(*) FROM mails
                WHERE sent_at IS NULL AND refused_at IS NULL
                    AND coalesce(handed_at, now()) > now() - interval '3 s')
            + (SELECT count(*) FROM saga_runs WHERE status IN ('running', 'undoing')
                AND NOT (step = 'await_payment' AND lease_until IS NULL))""",
    "payments": """
        SELECT (SELECT count(*) FROM outbox WHERE sent_at IS NULL)
            + (SELECT count(*) FROM stripe_events WHERE status = 'received')
            + (SELECT count(*) FROM checkouts WHERE status = 'creating')
            + (SELECT count(*) FROM refunds WHERE status = 'creating')""",
}


def open_work(database_urls: Mapping[str, str]) -> dict[str, int]:
    """How much is on its way in each database; all zero when the shop is quiet."""
    return {name: _count(database_urls[name], query) for name, query in _OPEN.items()}


def is_quiet(database_urls: Mapping[str, str]) -> bool:
    return not any(open_work(database_urls).values())


def _count(url: str, query: str) -> int:
    with connect_now(SecretStr(url), WORKER, name="quiet") as connection:
        row = connection.execute(query.encode()).fetchone()
    return int(row[0]) if row else 0
