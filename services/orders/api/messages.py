"""Rows to protobuf messages."""

from google.protobuf.timestamp_pb2 import Timestamp

from protos.orders.v1 import orders_pb2
from services.orders.queries.carts import Cart
from services.orders.queries.catalog import Product
from services.orders.queries.orders import Order
from services.orders.rules import SHOP_CURRENCY, Method, Status

_STATUSES = {
    Status.PENDING: orders_pb2.ORDER_STATUS_PENDING,
    Status.PROCESSING: orders_pb2.ORDER_STATUS_PROCESSING,
    Status.COMPLETED: orders_pb2.ORDER_STATUS_COMPLETED,
    Status.FAILED: orders_pb2.ORDER_STATUS_FAILED,
    Status.CANCELLED: orders_pb2.ORDER_STATUS_CANCELLED,
    Status.REFUNDED: orders_pb2.ORDER_STATUS_REFUNDED,
}
_METHODS = {
    Method.STRIPE: orders_pb2.PAYMENT_METHOD_STRIPE,
    Method.POINTS: orders_pb2.PAYMENT_METHOD_POINTS,
}


def as_product(product: Product) -> orders_pb2.Product:
    return orders_pb2.Product(
        id=str(product.id),
        title=product.title,
        description=product.description,
        type=product.type,
        price_cents=product.price_cents,
        price_points=product.price_points,
        currency=product.currency,
        available=product.available,
        active=product.active,
    )


def as_cart(cart: Cart) -> orders_pb2.Cart:
    for_points = all(item.price_points for item in cart.items)
    return orders_pb2.Cart(
        version=cart.version,
        items=[
            orders_pb2.CartItem(
                product_id=str(item.product_id),
                quantity=item.quantity,
                title=item.title,
                price_cents=item.price_cents,
                price_points=item.price_points,
                price_changed=item.price_changed,
                available=item.is_available,
            )
            for item in cart.items
        ],
        total_cents=sum(item.price_cents * item.quantity for item in cart.items),
        total_points=sum(item.price_points * item.quantity for item in cart.items) if for_points else 0,
        currency=cart.items[0].currency if cart.items else SHOP_CURRENCY,
    )


def as_order(order: Order) -> orders_pb2.Order:
    created_at = Timestamp()
    created_at.FromDatetime(order.created_at)
    message = orders_pb2.Order(
        id=str(order.id),
        status=_STATUSES[order.status],
        payment_method=_METHODS[order.payment_method],
        total_cents=order.total_cents,
        total_points=order.total_points,
        currency=order.currency,
        failure_reason=order.failure_reason or "",
        items=[
            orders_pb2.OrderItem(
                product_id=str(line.product_id),
                title=line.title,
                price_cents=line.price_cents,
                price_points=line.price_points,
                quantity=line.quantity,
                refunded_quantity=line.refunded_quantity,
                refunded_cents=line.refunded_cents,
                refunded_points=line.refunded_points,
            )
            for line in order.lines
        ],
        created_at=created_at,
        refunded_cents=order.refunded_cents,
        refunded_points=order.refunded_points,
        dispute=order.dispute,
        disputed_cents=order.money.disputed,
        lost_cents=order.money.lost,
        owed_cents=order.owed_cents,
        tracking_info=order.tracking_info or {},
        version=order.version,
    )
    if order.fulfilled_at is not None:
        message.fulfilled_at.FromDatetime(order.fulfilled_at)
    if order.status is Status.PENDING:
        message.session_id = order.stripe_session_id or ""
        message.url = order.stripe_session_url or ""
    return message
