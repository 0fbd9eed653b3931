"""The question that a hold asks when it is due: what became of your order?

States of an open hold: not due → asked (event in the outbox, due_at moved on) → asked again → captured or
released by a command of orders. wallet itself never releases.
"""

from services.chassis import failpoints, logs
from services.chassis.db import Database
from services.chassis.relay import Relay
from services.wallet.commands.holds import OVERDUE_BATCH, ask_about_overdue

log = logs.get(__name__)

TICK_SECONDS = 1.0


class OverdueHolds:
    """Asks in batches; any number of replicas may, each row is asked about by one (SKIP LOCKED)."""

    def __init__(self, *, database: Database, relay: Relay, ask_again_seconds: int) -> None:
        self._database = database
        self._relay = relay
        self._ask_again_seconds = ask_again_seconds

    async def ask(self) -> bool:
        """One batch; True when there may be more."""
        async with self._database.worker() as connection:
            asked = await ask_about_overdue(connection, ask_again_seconds=self._ask_again_seconds)
            failpoints.hit("wallet.overdue.writing")
        if asked:
            failpoints.hit("wallet.overdue.committed")
            log.warning("holds.overdue", asked=asked)
            self._relay.wake()
        return asked == OVERDUE_BATCH
