"""Comparing with Stripe what we know, and doing what a lost webhook would have done, by the same path.

A run (docs/payments.md) reads Stripe's events since its `since`, keeps those that never arrived in
`stripe_events`, where the event worker handles them, and asks about what is not at its end here: open
checkouts, refunds under way, open disputes, periods that are over. A run that stops midway begins anew: all
that it does can be done twice. Nothing is ever taken back because an object at Stripe still looks open.
"""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from services.chassis import logs, tracing
from services.chassis.crypto import Keyring
from services.chassis.db import Database
from services.payments import metrics, rules
from services.payments.commands import events, reconciliations
from services.payments.commands.reconciliations import EVENTS_LOOK_BACK, SCHEDULE, Reconciliation
from services.payments.commands.settlement import settle
from services.payments.errors import StripeRefused
from services.payments.events import READERS, payload_place
from services.payments.findings import Finding, SessionFound
from services.payments.looks import Findings, Looker
from services.payments.stripe_client import CALL_SECONDS, MAX_EVENT_TYPES, Stripe
from services.payments.stripe_objects import Fields, Malformed
from services.payments.sweeps import Sweep, Sweeps
from services.payments.traces import trace_of
from services.payments.webhooks import envelope_of

log = logs.get(__name__)

TICK_SECONDS = 1.0
# Page by page through what Stripe has of weeks.
LONGEST_SECONDS = 3600.0
# A webhook that young is on its way, not lost; who asks for a run wants it at once.
_IN_FLIGHT = timedelta(seconds=60)
_UNDELIVERED_LOOK_BACK = timedelta(days=1)
_CLOCK_SKEW = timedelta(minutes=5)
_CHUNK = 100
_AT_ONCE = 4
_SETTLE_SECONDS = 30.0
_POLL_SECONDS = 0.1
_LONGEST_BACKOFF_SECONDS = 300.0
# Where the parts of a run end, in percent of its way.
_EVENTS_END, _OBJECTS_END = 60, 90
# What is kept of a sweep that has nothing left to read.
_TO_THE_END = 0

_Listed = TypeVar("_Listed")


class Reconciler:
    """Runs comparisons, by schedule and for operators."""

    def __init__(
        self,
        *,
        database: Database,
        stripe: Stripe,
        keyring: Keyring,
        looker: Looker,
        every_seconds: int,
        wake_events: Callable[[], None],
        after_commit: Callable[[], None],
    ) -> None:
        self._database = database
        self._stripe = stripe
        self._keyring = keyring
        self._looker = looker
        self._sweeps = Sweeps(database=database, stripe=stripe, looker=looker)
        self._every_seconds = every_seconds
        self._wake_events = wake_events
        self._after_commit = after_commit
        metrics.expect_drift(_DRIFT_KINDS)

    async def run_due(self) -> bool:
        """Runs one comparison that is due or asked for; True when there may be more."""
        async with self._database.worker() as connection:
            await reconciliations.schedule_run(connection, every_seconds=self._every_seconds)
        async with self._database.worker() as connection:
            claimed = await reconciliations.claim_run(connection)
        if claimed is None:
            return False
        try:
            await _Run(self, claimed).go()
        except Exception as error:  # noqa: BLE001 - kept on the row, and begun anew
            log.warning("reconciliation.stopped", run_id=str(claimed.id), error=repr(error))
            delay = rules.backoff_seconds(claimed.tries, longest=_LONGEST_BACKOFF_SECONDS)
            async with self._database.worker() as connection:
                await reconciliations.postpone_run(
                    connection, claimed, error=type(error).__name__, delay_seconds=delay
                )
        return True

    async def missing_of(self, chunk: Sequence[Fields]) -> list[Fields]:
        async with self._database.worker() as connection:
            missing = await reconciliations.missing_among(connection, [event["id"] for event in chunk])
        return [event for event in chunk if event["id"] in missing]

    async def keep_event(self, event: Fields) -> bool:
        """As the webhook would have; False when it came meanwhile."""
        envelope = envelope_of(dict(event))
        # The client reads decimals out of texts; they go back as texts.
        body = json.dumps(event, default=str).encode()
        sealed = self._keyring.seal(body, place=payload_place(envelope.id))
        async with self._database.worker_statement() as connection:
            is_new = await events.receive_event(connection, envelope, sealed_payload=sealed)
        if envelope.is_ours:
            self._wake_events()
        return is_new

    async def settle(self, findings: Sequence[Finding]) -> list[str]:
        """What changed, by kind."""
        findings = await self._looker.ours_among(findings)
        changes: list[str] = []
        async with self._database.worker() as connection:
            with tracing.continued(
                await trace_of(connection, findings),
                "reconcile",
                attributes={"aishop.findings": len(findings)},
            ):
                for finding in findings:
                    outcome = await settle(connection, finding)
                    changes += [_drift_kind(effect.kind, effect.change) for effect in outcome.effects]
        self._after_commit()
        return changes


_DRIFT_KINDS = (
    *(f"event: {type_}" for type_ in READERS),
    *(f"checkout: {before} -> {after}" for before, afters in rules.TRANSITIONS.items() for after in afters),
    *("payment", "grant", "invoice", "subscription", "refund", "dispute", "quarantine"),
)


def _drift_kind(kind: str, change: str) -> str:
    """Few kinds: a change of a checkout by its states, of anything else by what it is."""
    return f"{kind}: {change}" if kind == "checkout" else kind


class _Run:
    """One comparison on its way."""

    def __init__(self, owner: Reconciler, run: Reconciliation) -> None:
        self._owner = owner
        self._run = run
        self._counts = Counter(events_missing=run.events_missing, objects_changed=run.objects_changed)
        self._drift = Counter(run.drift)
        self._swept = dict(run.swept)
        self._percent = 0
        self._kept: list[str] = []

    async def go(self) -> None:
        # Stripe has forgotten what is older: the sweeps find what came of it.
        since = max(self._run.since, self._run.read_at - EVENTS_LOOK_BACK)
        await self._compare_events(since, undelivered=False)
        late = self._run.read_at - _UNDELIVERED_LOOK_BACK
        if late < self._run.since:
            await self._compare_events(late, undelivered=True)
        await self._compare_objects()
        await self._until_handled()
        for sweep in self._owner._sweeps.all():
            await self._sweep(sweep)
        await self._keep(100, is_done=True)
        metrics.count_drift(self._drift)
        report = log.warning if self._drift else log.info
        report("reconciliation.done", run_id=str(self._run.id), drift=dict(self._drift), **self._counts)

    async def _compare_events(self, since: datetime, *, undelivered: bool) -> None:
        """Newest first, so that what a customer waits for comes first; in portions of as many types as Stripe
        takes at once."""
        for types in portions(tuple(READERS)):
            listed = self._owner._stripe.list_events(
                types, since=since, undelivered=undelivered, page_seconds=CALL_SECONDS
            )
            async for chunk in _chunks(listed):
                self._counts["events_seen"] += len(chunk)
                for event in await self._owner.missing_of(chunk):
                    if not self._is_in_flight(event) and await self._owner.keep_event(event):
                        self._kept.append(event["id"])
                        self._counts["events_missing"] += 1
                        self._drift[f"event: {event['type']}"] += 1
                await self._keep(self._percent_at(chunk[-1]))

    def _is_in_flight(self, event: Fields) -> bool:
        return self._is_young(datetime.fromtimestamp(event["created"], UTC))

    def _is_young(self, created: datetime) -> bool:
        return self._run.requested_by == SCHEDULE and created > self._run.read_at - _IN_FLIGHT

    def _percent_at(self, event: Fields) -> int:
        way = (self._run.read_at - self._run.since).total_seconds() or 1.0
        gone = self._run.read_at.timestamp() - event["created"]
        return max(0, min(_EVENTS_END, int(_EVENTS_END * gone / way)))

    async def _compare_objects(self) -> None:
        async with self._owner._database.worker() as connection:
            open_sessions = await reconciliations.unfinished_sessions(connection)
            refunding, disputed = await reconciliations.contested_intents(connection)
            overdue = await reconciliations.overdue_subscriptions(connection)
            if self._run.second_look:
                overdue += await reconciliations.unpaid_subscriptions(connection)
        looker = self._owner._looker
        looks = [_Look(intent, looker.refunds) for intent in refunding]
        looks += [_Look(intent, looker.disputes) for intent in disputed]
        looks += [_Look(each, looker.subscription_and_invoices) for each in dict.fromkeys(overdue)]
        looks += [_seen(session) for session in await self._ended_among(open_sessions)]
        self._counts["objects_seen"] = len(open_sessions) + len(refunding) + len(disputed) + len(overdue)
        for start in range(0, len(looks), _AT_ONCE):
            await asyncio.gather(*(self._look(look) for look in looks[start : start + _AT_ONCE]))
            way = (_OBJECTS_END - _EVENTS_END) * start // len(looks)
            await self._keep(_EVENTS_END + way)

    async def _ended_among(self, open_sessions: dict[str, datetime]) -> list[SessionFound]:
        """Those that Stripe knows to be over, out of one listing: one call for each would be thousands."""
        if not open_sessions:
            return []
        deadline = asyncio.get_running_loop().time() + _SETTLE_SECONDS
        listed = self._owner._stripe.list_sessions(
            since=min(open_sessions.values()) - _CLOCK_SKEW, deadline=deadline
        )
        return [
            SessionFound(session)
            async for session in listed
            if session.id in open_sessions and session.status != "open"
        ]

    async def _sweep(self, sweep: Sweep) -> None:
        """Goes through what Stripe has made of one kind, the newest first, from where it stopped."""
        since = self._run.since
        if self._run.second_look:
            since = min(since, self._run.read_at - sweep.second_look)
        stopped = self._swept.get(sweep.kind)
        if stopped == _TO_THE_END:
            return
        until = None if stopped is None else datetime.fromtimestamp(stopped, UTC)
        async for page in _chunks(sweep.listing(since, until)):
            self._counts["objects_seen"] += len(page)
            old = [each for each in page if not self._is_young(each.created)]
            looks = [_Look(of, find) for of, find in await sweep.looks(old)]
            for start in range(0, len(looks), _AT_ONCE):
                await asyncio.gather(*(self._look(look) for look in looks[start : start + _AT_ONCE]))
            self._swept[sweep.kind] = int(page[-1].created.timestamp())
            await self._keep(_OBJECTS_END)
        self._swept[sweep.kind] = _TO_THE_END
        await self._keep(_OBJECTS_END)

    async def _look(self, look: "_Look") -> None:
        try:
            found = await look.find(look.of)
            changes = await self._owner.settle(found if isinstance(found, Sequence) else [found])
        except (StripeRefused, Malformed) as error:
            # What cannot be read must not keep this run and each that follows from looking at the rest.
            log.error("reconciliation.not_compared", of=look.of, error=str(error))
            self._drift["not compared"] += 1
        else:
            self._counts["objects_changed"] += bool(changes)
            self._drift.update(changes)

    async def _until_handled(self) -> None:
        """What was found is settled when the run is done, unless Stripe or the worker is in trouble."""
        deadline = asyncio.get_running_loop().time() + _SETTLE_SECONDS
        while self._kept and asyncio.get_running_loop().time() < deadline:
            async with self._owner._database.worker() as connection:
                if not await reconciliations.unsettled_among(connection, self._kept):
                    return
            await self._keep(_OBJECTS_END)
            await asyncio.sleep(_POLL_SECONDS)

    async def _keep(self, percent: int, *, is_done: bool = False) -> None:
        # The second listing of events begins where the first one began.
        self._percent = max(self._percent, percent)
        async with self._owner._database.worker() as connection:
            await reconciliations.keep_progress(
                connection,
                self._run,
                drift=self._drift,
                percent=self._percent,
                counts=self._counts,
                swept=self._swept,
                is_done=is_done,
            )


@dataclass(frozen=True, slots=True)
class _Look:
    """What is asked for, and how."""

    of: str
    find: Callable[[str], Awaitable[Finding | Findings]]


def _seen(found: SessionFound) -> _Look:
    """The listing had it."""

    async def find(_: str) -> Finding:
        return found

    return _Look(found.session.id, find)


def portions(types: Sequence[str]) -> list[Sequence[str]]:
    """As many types as one listing takes, the first ones first."""
    return [types[start : start + MAX_EVENT_TYPES] for start in range(0, len(types), MAX_EVENT_TYPES)]


async def _chunks(listed: AsyncIterator[_Listed]) -> AsyncIterator[list[_Listed]]:
    chunk: list[_Listed] = []
    async for item in listed:
        chunk.append(item)
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
