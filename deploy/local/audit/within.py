"""The invariants of each database by itself, which the services also look after as they run."""

from deploy.local.audit.snapshot import Check, SqlCheck
from services.orders.invariants import INVARIANTS as OF_ORDERS
from services.payments.invariants import INVARIANTS as OF_PAYMENTS
from services.wallet.invariants import INVARIANTS as OF_WALLET

CHECKS: tuple[Check, ...] = tuple(
    SqlCheck(database, invariant)
    for database, invariants in {"wallet": OF_WALLET, "orders": OF_ORDERS, "payments": OF_PAYMENTS}.items()
    for invariant in invariants
)
