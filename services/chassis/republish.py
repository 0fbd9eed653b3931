"""Publishes again what the outbox holds: `python -m services.<name> republish --since TIME`.

For a broker that has lost its streams. Facts since TIME become unsent again, and the relay of a running
service publishes them in their order. A consumer that has seen one knows its id, in its inbox, and does
nothing; one that has not takes it as it would have then, since every fact may come late. Nothing needs to
stand still meanwhile, and a run that was broken off may be repeated.
"""

import argparse
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import psycopg

from services.chassis import logs
from services.chassis.connections import WORKER, connect_now
from services.chassis.settings import RepublishSettings, load

log = logs.get(__name__)

_BATCH = 1000
# By id, as these begin with the time and are the key; what is still unsent goes out anyway.
_UNSEND = """
    UPDATE outbox SET sent_at = NULL WHERE id IN (
        SELECT id FROM outbox WHERE id > %s AND sent_at IS NOT NULL ORDER BY id LIMIT %s)
    RETURNING id"""


def run(service: str, arguments: Sequence[str]) -> None:
    """The command; exits 2 for arguments that it does not know."""
    parser = argparse.ArgumentParser(prog=f"python -m services.{service} republish")
    parser.add_argument("--since", type=_moment, required=True, help="an ISO time")
    since: datetime = parser.parse_args(arguments).since
    settings = load(RepublishSettings)
    logs.configure(service, settings.log_level)
    with connect_now(
        settings.database_worker_url,
        WORKER,
        name=f"{service}-republish",
        pooling=settings.database_pooling,
        autocommit=True,
    ) as connection:
        log.info("republish.done", since=since.isoformat(), facts=republish(connection, since))


def republish(connection: psycopg.Connection, since: datetime) -> int:
    """How many facts will be published once more."""
    last = UUID(int=int(since.timestamp() * 1000) << 80)
    total = 0
    # In ascending order, so that what the relay has sent again meanwhile is behind us.
    while unsent := connection.execute(_UNSEND, (last, _BATCH)).fetchall():
        last = max(fact_id for (fact_id,) in unsent)
        total += len(unsent)
    return total


def _moment(text: str) -> datetime:
    wrong = argparse.ArgumentTypeError(f"{text!r} is not an ISO time with its offset, or with Z")
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise wrong from None
    if moment.tzinfo is None:
        raise wrong
    return moment
