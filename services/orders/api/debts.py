"""Money that customers are owed, as operators see it and decide about it."""

from collections.abc import Mapping

from google.protobuf.timestamp_pb2 import Timestamp

from protos.orders.v1 import orders_pb2 as pb
from services.chassis import cursor
from services.chassis.db import Database
from services.chassis.errors import Invalid
from services.chassis.fields import as_text, as_uuid
from services.orders.api.messages import as_order
from services.orders.commands import debts
from services.orders.commands.debts import DebtDecision, Decision
from services.orders.queries import refunds

_LONGEST_REFERENCE = 200
_DECISIONS: Mapping[int, Decision] = {
    pb.DEBT_DECISION_SETTLED_OUTSIDE: Decision.SETTLED_OUTSIDE,
    pb.DEBT_DECISION_WRITTEN_OFF: Decision.WRITTEN_OFF,
}


async def list_debts(database: Database, request: pb.ListDebtsRequest) -> pb.ListDebtsResponse:
    limit, after = cursor.page_size(request.limit), cursor.decode_id(request.cursor)
    async with database.worker() as connection:
        found = await refunds.list_debts(connection, limit=limit + 1, after=after)
    items, following = cursor.page(found, limit=limit, message=_as_debt, key=lambda debt: (debt.order_id,))
    return pb.ListDebtsResponse(items=items, next_cursor=following)


async def decide_debt(
    database: Database, request: pb.DecideDebtRequest, *, actor: str, reason: str
) -> pb.DecideDebtResponse:
    decision = _DECISIONS.get(request.decision)
    if decision is None:
        raise Invalid("INVALID_FIELD", "decision must be SETTLED_OUTSIDE or WRITTEN_OFF", field="decision")
    is_settled = decision is Decision.SETTLED_OUTSIDE
    wanted = DebtDecision(
        id=as_uuid(request.decision_id, field="decision_id"),
        order_id=as_uuid(request.order_id, field="order_id"),
        decision=decision,
        amount_cents=request.amount_cents,
        reference=as_text(
            request.reference, field="reference", longest=_LONGEST_REFERENCE, shortest=1 if is_settled else 0
        ),
        actor=actor,
        reason=reason,
    )
    async with database.worker() as connection:
        order = await debts.decide_debt(connection, wanted)
    return pb.DecideDebtResponse(order=as_order(order))


def _as_debt(debt: refunds.Debt) -> pb.Debt:
    ordered_at, changed_at = Timestamp(), Timestamp()
    ordered_at.FromDatetime(debt.created_at)
    changed_at.FromDatetime(debt.updated_at)
    return pb.Debt(
        order_id=str(debt.order_id),
        user_id=str(debt.user_id),
        owed_cents=debt.owed_cents,
        promised_cents=debt.promised_cents,
        currency=debt.currency,
        ordered_at=ordered_at,
        changed_at=changed_at,
    )
