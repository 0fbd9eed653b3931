"""Points that an operator gives or takes."""

from typing import Annotated
from uuid import UUID, uuid5

from fastapi import APIRouter, Request, Response
from pydantic import Field

from gateway import idempotency
from gateway.backends import WALLET_SECONDS
from gateway.openapi import BODY, KEYED, operator_problems
from gateway.problems import ProblemError
from gateway.routes.points import Profile, Transaction, as_profile, as_transaction
from gateway.routing import OperatorRoute, backends_of, customer_of
from gateway.schemas import INT64_MAX, ApiModel, Reason, StrictBody, UuidText
from protos.wallet.v1 import wallet_pb2
from services.chassis.errors import Conflict
from services.chassis.grpc_client import call

router = APIRouter(route_class=OperatorRoute, tags=["operators"])

# Fixed for ever: with it, an operator's key is the same adjustment at every gateway.
_ADJUSTMENTS = UUID("5ad8f4b0-8f2e-4c0f-9f53-3c1f5f1d7f06")


class Adjustment(StrictBody):
    """`points` is signed and not 0; `reason` is shown in the customer's ledger."""

    user_id: UuidText
    points: Annotated[int, Field(strict=True, ge=-INT64_MAX, le=INT64_MAX)]
    reason: Reason


class Adjusted(ApiModel):
    """The line of the ledger, and the customer's points now."""

    transaction: Transaction
    profile: Profile


@router.post(
    "/api/admin/points/adjustments",
    status_code=201,
    operation_id="adjustPoints",
    openapi_extra={"parameters": [idempotency.PARAMETER]},
    responses=operator_problems(*BODY, *KEYED),
)
async def adjust_points(request: Request, response: Response, body: Adjustment) -> Adjusted:
    """Gives points, which settle debt first, or takes them: what is not free becomes debt."""
    operator, key = customer_of(request), idempotency.key_of(request)
    adjustment = wallet_pb2.AdjustPointsRequest(
        user_id=body.user_id,
        adjustment_id=str(uuid5(_ADJUSTMENTS, f"{operator.user_id}:{key}")),
        points=body.points,
        reason=body.reason,
        actor=operator.user_id,
    )
    try:
        answer = await call(
            backends_of(request).wallet.AdjustPoints, adjustment, timeout_seconds=WALLET_SECONDS
        )
    except Conflict as error:
        if error.reason == "ADJUSTMENT_MISMATCH":
            raise ProblemError("idempotency_key_reused") from error
        raise
    response.headers[idempotency.HEADER] = key
    return Adjusted(transaction=as_transaction(answer.transaction), profile=as_profile(answer.profile))
