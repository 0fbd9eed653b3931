"""Who may call what of orders, by the name in the caller's certificate. No other service calls orders."""

from services.chassis.grpc_server import Callers

_FOR_CUSTOMERS = frozenset({"gateway"})
_FOR_OPERATORS = frozenset({"gateway"})

CALLERS: Callers = {
    "aishop.messaging.v1.DeadLetterService": {
        "ListDeadLetters": _FOR_OPERATORS,
        "DecideDeadLetter": _FOR_OPERATORS,
    },
    "aishop.orders.v1.CatalogService": {
        "ListProducts": _FOR_CUSTOMERS,
        "GetProduct": _FOR_CUSTOMERS,
    },
    "aishop.orders.v1.CatalogOperatorService": {
        "ListAllProducts": _FOR_OPERATORS,
        "InspectProduct": _FOR_OPERATORS,
        "CreateProduct": _FOR_OPERATORS,
        "ChangeProduct": _FOR_OPERATORS,
        "MoveStock": _FOR_OPERATORS,
        "ListStockMovements": _FOR_OPERATORS,
    },
    "aishop.orders.v1.CartService": {
        "GetCart": _FOR_CUSTOMERS,
        "MergeCart": _FOR_CUSTOMERS,
        "SetCartItem": _FOR_CUSTOMERS,
        "RemoveCartItem": _FOR_CUSTOMERS,
        "ClearCart": _FOR_CUSTOMERS,
    },
    "aishop.orders.v1.OrdersService": {
        "PlaceOrder": _FOR_CUSTOMERS,
        "GetOrder": _FOR_CUSTOMERS,
        "ListOrders": _FOR_CUSTOMERS,
        "CancelOrder": _FOR_CUSTOMERS,
        "WatchOrder": _FOR_CUSTOMERS,
        "ListDownloads": _FOR_CUSTOMERS,
        "ReissueDownload": _FOR_CUSTOMERS,
        "Download": _FOR_CUSTOMERS,
    },
    "aishop.orders.v1.OrdersOperatorService": {
        "FindOrders": _FOR_OPERATORS,
        "InspectOrder": _FOR_OPERATORS,
        "RefundOrder": _FOR_OPERATORS,
        "ListDebts": _FOR_OPERATORS,
        "DecideDebt": _FOR_OPERATORS,
        "ShipOrder": _FOR_OPERATORS,
        "ListSagas": _FOR_OPERATORS,
        "RetrySaga": _FOR_OPERATORS,
        "CompensateSaga": _FOR_OPERATORS,
        "ListMails": _FOR_OPERATORS,
        "ResolveMail": _FOR_OPERATORS,
        "GetTimeline": _FOR_OPERATORS,
        "GetAnalytics": _FOR_OPERATORS,
        "ListAuditLog": _FOR_OPERATORS,
    },
}
