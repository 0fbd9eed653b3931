"""What says that a database, a broker or a service is away for a while, as opposed to a defect of ours."""

import psycopg
from nats.errors import Error as NatsError
from psycopg import errors as pg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

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


# The decorator of every background loop of a service.
lasting = going_on(is_outage)
