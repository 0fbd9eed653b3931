"""What says that a database, a broker or a service is away for a while, as opposed to a defect of ours."""

import psycopg
from nats.errors import Error as NatsError
from psycopg import errors as pg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from structlog.typing import FilteringBoundLogger

from services.chassis.errors import Unavailable
from services.chassis.tasks import going_on

# Besides lost connections, restarts, locks and statements that waited too long, deadlocks and serialization
# failures are OperationalErrors. A node that has just been demoted refuses to write, and a transaction that
# idled was ended by the server: Postgres files those two elsewhere.
_AWAY = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    pg.ReadOnlySqlTransaction,
    pg.IdleInTransactionSessionTimeout,
    PoolTimeout,
    NatsError,
    OSError,
    Unavailable,
)


def is_outage(error: BaseException) -> bool:
    """Whether it passes when the other side is back: a warning, and tried again. Of several at once, all."""
    if isinstance(error, BaseExceptionGroup):
        return all(is_outage(each) for each in error.exceptions)
    if isinstance(error, DBAPIError) and error.orig is not None:
        return is_outage(error.orig)
    return isinstance(error, _AWAY)


class Outage:
    """What is away for hours is told when it goes and when it comes back, not at each try: `gone` and `back`
    are the names of these two events."""

    def __init__(self, log: FilteringBoundLogger, *, gone: str, back: str, **fields: str) -> None:
        self._log = log
        self._gone = gone
        self._back = back
        self._fields = fields
        self._told: str | None = None

    def tell(self, error: BaseException, *, is_expected: bool = False) -> None:
        """Of each failed try: a line for the first, and for each that fails otherwise than the one before."""
        # A timeout has no text, and what the broker said is in the text of its errors only.
        told = f"{type(error).__name__}: {error}"
        if told != self._told:
            report = self._log.info if is_expected else self._log.warning
            report(self._gone, error=told, **self._fields)
        self._told = told

    def end(self) -> None:
        """Of each try that worked."""
        if self._told is not None:
            self._log.info(self._back, **self._fields)
        self._told = None


# The decorator of every background loop of a service.
lasting = going_on(is_outage)
