"""Is the process alive, and can it serve?"""

from typing import Literal

from fastapi import APIRouter, Request
from starlette.responses import Response

from gateway.openapi import only_problems
from gateway.problems import problem
from gateway.routing import PublicRoute, authenticator_of, backends_of
from gateway.schemas import ApiModel

router = APIRouter(route_class=PublicRoute, tags=["health"])


class Health(ApiModel):
    status: Literal["ok", "ready"]


@router.get("/healthz", operation_id="getHealth", responses=only_problems("internal_error"))
async def healthz() -> Health:
    """The process is alive."""
    return Health(status="ok")


@router.get(
    "/readyz",
    operation_id="getReadiness",
    response_model=Health,
    responses=only_problems("not_ready", "internal_error"),
)
async def readyz(request: Request) -> Health | Response:
    """Every service behind answers, and we are not about to stop."""
    if request.app.state.is_draining:
        return problem(request.scope, "not_ready", "shutting down", fields={"unavailable": ["gateway"]})
    if not authenticator_of(request).is_ready:
        return problem(
            request.scope, "not_ready", "no keys yet", fields={"unavailable": ["identity provider"]}
        )
    unavailable = await backends_of(request).unavailable()
    if unavailable:
        return problem(request.scope, "not_ready", fields={"unavailable": unavailable})
    return Health(status="ready")
