"""Who may call what of payments, by the name in the caller's certificate."""

from services.chassis.grpc_server import Callers

_FOR_CUSTOMERS = frozenset({"gateway"})
_FOR_OPERATORS = frozenset({"gateway"})
# An order's money comes and goes with its saga, never at a customer's word.
_FOR_SAGAS = frozenset({"orders"})

CALLERS: Callers = {
    "aishop.payments.v1.PaymentsService": {
        "ListPackages": _FOR_CUSTOMERS,
        "CreatePointsCheckout": _FOR_CUSTOMERS,
        "CreateOrderCheckout": _FOR_SAGAS,
        "GetCheckout": _FOR_CUSTOMERS,
        "WatchCheckout": _FOR_CUSTOMERS,
        "ExpireOrderCheckout": _FOR_SAGAS,
        "ListPlans": _FOR_CUSTOMERS,
        "CreateSubscriptionCheckout": _FOR_CUSTOMERS,
        "ListSubscriptions": _FOR_CUSTOMERS,
        "GetSubscription": _FOR_CUSTOMERS,
        "CancelSubscription": _FOR_CUSTOMERS,
        "CreateRefund": _FOR_SAGAS,
        "GetRefund": _FOR_SAGAS,
        "ReceiveWebhook": _FOR_CUSTOMERS,
    },
    "aishop.payments.v1.PaymentsOperatorService": {
        "ListStripeEvents": _FOR_OPERATORS,
        "GetStripeEvent": _FOR_OPERATORS,
        "ReplayStripeEvents": _FOR_OPERATORS,
        "SetAsideStripeEvent": _FOR_OPERATORS,
        "ListQuarantine": _FOR_OPERATORS,
        "ResolveQuarantine": _FOR_OPERATORS,
        "StartReconciliation": _FOR_OPERATORS,
        "GetReconciliation": _FOR_OPERATORS,
        "GetTimeline": _FOR_OPERATORS,
        "GetAnalytics": _FOR_OPERATORS,
        "ListAuditLog": _FOR_OPERATORS,
    },
}
