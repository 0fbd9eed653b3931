"""payments at its border: a real gRPC server whose sessions end as a test says."""

import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from protos.payments.v1 import payments_pb2 as pb
from services.chassis.errors import Rejected
from services.chassis.grpc_server import abort

SESSION_SECONDS = 45 * 60


class PaymentsDouble:
    """Idempotent by order, like payments. An order that it never saw is expired (a tombstone)."""

    def __init__(self) -> None:
        self.sessions: dict[str, pb.Checkout] = {}
        self.created: Counter[str] = Counter()
        self.emails: dict[str, str] = {}
        # Every call fails with UNAVAILABLE while this is set.
        self.away = False
        self.refunds: dict[str, pb.Refund] = {}
        self.refund_calls: Counter[str] = Counter()
        # What the next new refunds are born as; a reason here refuses them.
        self.refund_status = pb.REFUND_STATUS_SUCCEEDED
        self.refusal: str | None = None

    async def create_order_checkout(
        self, request: pb.CreateOrderCheckoutRequest, context: Any
    ) -> pb.CreateOrderCheckoutResponse:
        await self._answer_or_not(context)
        self.created[request.order_id] += 1
        self.emails[request.order_id] = request.email
        if request.order_id not in self.sessions:
            self.sessions[request.order_id] = _open_session(request)
        return pb.CreateOrderCheckoutResponse(checkout=self.sessions[request.order_id])

    async def expire_order_checkout(
        self, request: pb.ExpireOrderCheckoutRequest, context: Any
    ) -> pb.ExpireOrderCheckoutResponse:
        await self._answer_or_not(context)
        session = self.sessions.setdefault(request.order_id, pb.Checkout(order_id=request.order_id))
        if session.status in (pb.CHECKOUT_STATUS_UNSPECIFIED, pb.CHECKOUT_STATUS_OPEN):
            session.status = pb.CHECKOUT_STATUS_EXPIRED
        return pb.ExpireOrderCheckoutResponse(checkout=session)

    async def create_refund(self, request: pb.CreateRefundRequest, context: Any) -> pb.CreateRefundResponse:
        await self._answer_or_not(context)
        self.refund_calls[request.refund_id] += 1
        if self.refusal is not None:
            await abort(context, Rejected(self.refusal, "refused"))
        if request.refund_id not in self.refunds:
            self.refunds[request.refund_id] = pb.Refund(
                id=request.refund_id,
                order_id=request.order_id,
                amount_cents=request.amount_cents,
                status=self.refund_status,
            )
        return pb.CreateRefundResponse(refund=self.refunds[request.refund_id])

    def pay(self, order_id: str, status: "pb.CheckoutStatus.ValueType" = pb.CHECKOUT_STATUS_PAID) -> bool:
        """The customer pays at Stripe; False when the session has ended."""
        session = self.sessions[order_id]
        if session.status != pb.CHECKOUT_STATUS_OPEN:
            return False
        session.status = status
        session.payment_intent_id = f"pi_{order_id}"
        return True

    async def _answer_or_not(self, context: Any) -> None:
        if self.away:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "away")


def _open_session(request: pb.CreateOrderCheckoutRequest) -> pb.Checkout:
    session = pb.Checkout(
        order_id=request.order_id,
        status=pb.CHECKOUT_STATUS_OPEN,
        amount_cents=sum(line.unit_price_cents * line.quantity for line in request.lines),
        currency=request.currency,
        session_id=f"cs_{request.order_id}",
        url=f"https://stripe.test/pay/{request.order_id}",
    )
    session.expires_at.FromSeconds(int(time.time()) + SESSION_SECONDS)
    return session


@asynccontextmanager
async def running_payments() -> AsyncIterator[tuple[PaymentsDouble, str]]:
    """The double and its address."""
    server, double = grpc.aio.server(), PaymentsDouble()
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "CreateOrderCheckout": grpc.unary_unary_rpc_method_handler(
            double.create_order_checkout,
            pb.CreateOrderCheckoutRequest.FromString,
            pb.CreateOrderCheckoutResponse.SerializeToString,
        ),
        "ExpireOrderCheckout": grpc.unary_unary_rpc_method_handler(
            double.expire_order_checkout,
            pb.ExpireOrderCheckoutRequest.FromString,
            pb.ExpireOrderCheckoutResponse.SerializeToString,
        ),
        "CreateRefund": grpc.unary_unary_rpc_method_handler(
            double.create_refund,
            pb.CreateRefundRequest.FromString,
            pb.CreateRefundResponse.SerializeToString,
        ),
    }
    name = pb.DESCRIPTOR.services_by_name["PaymentsService"].full_name
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(name, handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield double, f"127.0.0.1:{port}"
    await server.stop(None)
