"""Who may call what of wallet, by the name in the caller's certificate."""

from services.chassis.grpc_server import Callers

_FOR_CUSTOMERS = frozenset({"gateway"})
_FOR_OPERATORS = frozenset({"gateway"})
# Points move with an order, never at a customer's word.
_FOR_SAGAS = frozenset({"orders"})

CALLERS: Callers = {
    "aishop.messaging.v1.DeadLetterService": {
        "ListDeadLetters": _FOR_OPERATORS,
        "DecideDeadLetter": _FOR_OPERATORS,
    },
    "aishop.wallet.v1.WalletService": {
        "GetProfile": _FOR_CUSTOMERS,
        "ListTransactions": _FOR_CUSTOMERS,
        "ReservePoints": _FOR_SAGAS,
        "CapturePoints": _FOR_SAGAS,
        "ReleasePoints": _FOR_SAGAS,
        "RefundOrderPoints": _FOR_SAGAS,
        "AdjustPoints": _FOR_OPERATORS,
        "GetTimeline": _FOR_OPERATORS,
        "GetAnalytics": _FOR_OPERATORS,
        "ListAuditLog": _FOR_OPERATORS,
    },
}
