"""How many requests are worked on at once, and how long each may take.

Overload is refused early: a lane runs so many requests, lets a few more wait for a moment, and answers the
rest 503 at once, so that a slow service never fills the gateway with requests nobody waits for any more.

A place is for work, and waiting for somebody's wire is none: a body is read before its request gets a place,
and an answer is written after the place was given back. Only files and streams keep theirs to the end.
"""

import asyncio
from contextlib import AsyncExitStack

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway import metrics
from gateway.admission import ADDRESS_IN_SCOPE, CALLER_IN_SCOPE
from gateway.following import FOLLOW_SECONDS
from gateway.lanes import LaneName, lane_of
from gateway.problems import ProblemError, problem
from gateway.schemas import MAX_BODY_BYTES
from gateway.settings import GatewaySettings
from services.chassis import logs
from services.chassis.bodies import MIB, Bodies, BodyTooLarge, BodyTooSlow, TooManyBodies, has_body
from services.chassis.client_address import source_of

log = logs.get(__name__)

DEADLINE_SECONDS = 8.0
# What a large file over a thin line may take.
DOWNLOAD_SECONDS = 600.0
MAX_WEBHOOK_BYTES = 512 * 1024
# The calls behind take up to 6.5 s of the 8.
_MAX_WAIT_SECONDS = 1.0
# Stripe waits longer than a customer, and a burst of its events is worth a queue.
_WEBHOOK_DEADLINE_SECONDS = 15.0
_MAX_WEBHOOK_WAIT_SECONDS = 9.0


class Lane:
    """A number of places, a queue of bounded length and patience before them, and a deadline for all."""

    def __init__(
        self, name: LaneName, *, running: int, waiting: int, patience_seconds: float, deadline_seconds: float
    ) -> None:
        self.deadline_seconds = deadline_seconds
        self.keeps_places = name in ("streams", "downloads")
        self._running = metrics.RUNNING.labels(name)
        self._refused = metrics.REFUSED.labels(name)
        self._timeouts = metrics.TIMEOUTS.labels(name)
        self._places = asyncio.Semaphore(running)
        self._may_wait = waiting
        self._patience_seconds = patience_seconds

    async def enter(self) -> bool:
        """True with a place, which `leave` gives back; False when there is none to be had."""
        has_place = await self._enter()
        (self._running if has_place else self._refused).inc()
        return has_place

    async def _enter(self) -> bool:
        if not self._places.locked():
            return await self._places.acquire()
        if not self._may_wait:
            return False
        self._may_wait -= 1
        try:
            async with asyncio.timeout(self._patience_seconds):
                return await self._places.acquire()
        except TimeoutError:
            return False
        finally:
            self._may_wait += 1

    def leave(self) -> None:
        self._running.dec()
        self._places.release()

    def count_timeout(self) -> None:
        self._timeouts.inc()


def _lanes(settings: GatewaySettings, deadline_seconds: float) -> dict[LaneName, Lane]:
    return {
        "customers": Lane(
            "customers",
            running=settings.max_running_requests,
            waiting=settings.max_waiting_requests,
            patience_seconds=_MAX_WAIT_SECONDS,
            deadline_seconds=deadline_seconds,
        ),
        "webhooks": Lane(
            "webhooks",
            running=settings.max_running_webhooks,
            waiting=settings.max_waiting_webhooks,
            patience_seconds=_MAX_WEBHOOK_WAIT_SECONDS,
            deadline_seconds=_WEBHOOK_DEADLINE_SECONDS,
        ),
        # For whoever follows something: no place is worth waiting for, it is kept for minutes.
        "streams": Lane(
            "streams",
            running=settings.max_streams,
            waiting=0,
            patience_seconds=0,
            deadline_seconds=FOLLOW_SECONDS,
        ),
        "downloads": Lane(
            "downloads",
            running=settings.max_running_downloads,
            waiting=0,
            patience_seconds=0,
            deadline_seconds=DOWNLOAD_SECONDS,
        ),
    }


class LoadShedding:
    """See the module. Stands behind admission.py, which knows who asks."""

    def __init__(
        self, app: ASGIApp, settings: GatewaySettings, *, deadline_seconds: float = DEADLINE_SECONDS
    ) -> None:
        self._app = app
        self._lanes = _lanes(settings, deadline_seconds)
        under_way = settings.max_bodies_mib * MIB
        self._bodies = Bodies(
            max_bytes=MAX_BODY_BYTES, seconds=settings.body_seconds, max_bytes_under_way=under_way
        )
        self._webhook_bodies = Bodies(
            max_bytes=MAX_WEBHOOK_BYTES, seconds=settings.webhook_body_seconds, max_bytes_under_way=under_way
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/api/"):
            await self._app(scope, receive, send)
            return
        name = lane_of(scope["path"])
        is_stranger = isinstance(scope.get(CALLER_IN_SCOPE), ProblemError)
        if not has_body(scope):
            await self._within_bounds(scope, receive, send, self._lanes[name])
        elif is_stranger and name != "webhooks":
            # Never read: the answer is 401, whatever it holds. Only webhooks come from strangers.
            await self._within_bounds(scope, _refusing, send, self._lanes[name])
        else:
            await self._with_body(scope, receive, send, name)

    async def _with_body(self, scope: Scope, receive: Receive, send: Send, name: LaneName) -> None:
        bodies = self._webhook_bodies if name == "webhooks" else self._bodies
        source = source_of(scope.get(ADDRESS_IN_SCOPE, ""))
        async with AsyncExitStack() as stack:
            try:
                body = await stack.enter_async_context(bodies.reading(scope, receive, source))
            except BodyTooLarge:
                # Told where it would be read, so that whoever may not ask at all hears that first.
                receive = _refusing
            except BodyTooSlow:
                await problem(scope, "request_timeout", headers={"Connection": "close"})(scope, receive, send)
                return
            except TooManyBodies:
                metrics.REFUSED.labels(name).inc()
                await problem(scope, "overloaded", headers={"Connection": "close"})(scope, receive, send)
                return
            except ClientDisconnect:
                log.info("http.gone", lane=name)
                return
            else:
                receive = _replaying(body, receive)
            await self._within_bounds(scope, receive, send, self._lanes[name])

    async def _within_bounds(self, scope: Scope, receive: Receive, send: Send, lane: Lane) -> None:
        has_started = has_place = False

        def leave() -> None:
            nonlocal has_place
            if has_place:
                has_place = False
                lane.leave()

        async def send_outside(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                if not lane.keeps_places:
                    leave()
                    deadline.reschedule(None)
            await send(message)

        try:
            async with asyncio.timeout(lane.deadline_seconds) as deadline:
                has_place = await lane.enter()
                if not has_place:
                    return await problem(scope, "overloaded")(scope, receive, send_outside)
                try:
                    return await self._app(scope, receive, send_outside)
                finally:
                    leave()
        except TimeoutError:
            if has_started or not deadline.expired():
                raise
            lane.count_timeout()
            return await problem(scope, "outcome_unknown")(scope, receive, send)


def _replaying(body: bytes, receive: Receive) -> Receive:
    """The body that was read, whole, then whatever happens to the connection."""
    is_told = False

    async def replaying() -> Message:
        nonlocal is_told
        if is_told:
            return await receive()
        is_told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replaying


async def _refusing() -> Message:
    raise HTTPException(413)
