"""The calls that orders makes: wallet for points, payments for cards. Every one is safe to repeat."""

from collections.abc import Sequence
from uuid import UUID

from protos.payments.v1 import payments_pb2, payments_pb2_grpc
from protos.wallet.v1 import wallet_pb2, wallet_pb2_grpc
from services.chassis.grpc_client import call, channel
from services.chassis.transport import LOOPBACK, Transport
from services.orders.commands.runs import Run
from services.orders.queries.orders import Order

_WALLET_SECONDS = 2.0
_PAYMENTS_SECONDS = 5.5


class Remote:
    """Channels to both services; they connect when first used."""

    def __init__(self, *, wallet_target: str, payments_target: str, transport: Transport = LOOPBACK) -> None:
        self._channels = [channel(target, transport) for target in (wallet_target, payments_target)]
        self._wallet = wallet_pb2_grpc.WalletServiceStub(self._channels[0])
        self._payments = payments_pb2_grpc.PaymentsServiceStub(self._channels[1])

    async def close(self) -> None:
        for each in self._channels:
            await each.close()

    async def reserve_points(self, *, user_id: UUID, order_id: UUID, points: int) -> None:
        """Raises Rejected INSUFFICIENT_POINTS {needed, available} or Conflict HOLD_RELEASED."""
        request = wallet_pb2.ReservePointsRequest(user_id=str(user_id), order_id=str(order_id), points=points)
        await call(self._wallet.ReservePoints, request, timeout_seconds=_WALLET_SECONDS)

    async def capture_points(self, runs: Sequence[Run]) -> list[bool]:
        """Captures the holds of up to 100 orders, each in its own trace; False where there is none to
        capture."""
        request = wallet_pb2.CapturePointsRequest(
            captures=[
                wallet_pb2.CapturePointsRequest.Capture(
                    user_id=str(run.user_id),
                    order_id=str(run.order_id),
                    description="Images",
                    traceparent=run.traceparent or "",
                )
                for run in runs
            ]
        )
        response = await call(self._wallet.CapturePoints, request, timeout_seconds=_WALLET_SECONDS)
        captured = wallet_pb2.CAPTURE_OUTCOME_CAPTURED
        return [result.outcome == captured for result in response.results]

    async def release_points(self, *, user_id: UUID, order_id: UUID) -> bool:
        """Releases the hold of an order; False when its points were captured before."""
        request = wallet_pb2.ReleasePointsRequest(user_id=str(user_id), order_id=str(order_id))
        response = await call(self._wallet.ReleasePoints, request, timeout_seconds=_WALLET_SECONDS)
        return bool(response.status == wallet_pb2.HOLD_STATUS_RELEASED)

    async def create_checkout(self, order: Order, *, email: str) -> payments_pb2.Checkout:
        """Opens the order's Stripe session, or finds the one that an earlier call opened."""
        request = payments_pb2.CreateOrderCheckoutRequest(
            user_id=str(order.user_id),
            email=email,
            order_id=str(order.id),
            currency=order.currency,
            lines=[
                payments_pb2.OrderLine(
                    title=line.title, unit_price_cents=line.price_cents, quantity=line.quantity
                )
                for line in order.lines
            ],
        )
        response: payments_pb2.CreateOrderCheckoutResponse = await call(
            self._payments.CreateOrderCheckout, request, timeout_seconds=_PAYMENTS_SECONDS
        )
        return response.checkout

    async def expire_checkout(self, *, user_id: UUID, order_id: UUID) -> payments_pb2.Checkout:
        """Ends the order's session for good and says what became of it: expired, paid, processing."""
        request = payments_pb2.ExpireOrderCheckoutRequest(user_id=str(user_id), order_id=str(order_id))
        response: payments_pb2.ExpireOrderCheckoutResponse = await call(
            self._payments.ExpireOrderCheckout, request, timeout_seconds=_PAYMENTS_SECONDS
        )
        return response.checkout

    async def refund_points(
        self, *, user_id: UUID, order_id: UUID, refund_id: UUID, points: int, reason: str
    ) -> None:
        """Gives spent points back, once per refund_id."""
        request = wallet_pb2.RefundOrderPointsRequest(
            user_id=str(user_id),
            order_id=str(order_id),
            refund_id=str(refund_id),
            points=points,
            reason=reason,
        )
        await call(self._wallet.RefundOrderPoints, request, timeout_seconds=_WALLET_SECONDS)

    async def refund_money(
        self, *, order_id: UUID, refund_id: UUID, amount_cents: int, reason: str
    ) -> payments_pb2.Refund:
        """Gives money of the order's payment back, once per refund_id; the answer may still be under way."""
        request = payments_pb2.CreateRefundRequest(
            order_id=str(order_id), refund_id=str(refund_id), amount_cents=amount_cents, reason=reason
        )
        response: payments_pb2.CreateRefundResponse = await call(
            self._payments.CreateRefund, request, timeout_seconds=_PAYMENTS_SECONDS
        )
        return response.refund
