"""`aishop bench --flow webhooks`: signed `checkout.session.completed` events, from delivery to credit.

One round as fast as payments answers, one at 100 deliveries a second. Each tenth event is delivered twice
at the same time. An event's time begins with its first delivery and ends with the commit that credits its
points, by Postgres' own record of that commit (`track_commit_timestamp`); both clocks are the machine's.
"""

import asyncio
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import uvloop
from rich.console import Console
from rich.table import Table

from bench.cpu import cpu_ms
from bench.figures import MEASURED, percentile
from bench.http import Connection
from bench.purchases import Purchase, open_purchases
from deploy.local import audit
from deploy.local.ephemeral import RunningStack, running_stack, wait_until
from deploy.local.quiet import is_quiet
from deploy.local.stackfile import StackFile
from deploy.local.stripe_sandbox.webhooks import signature

_STEADY_PER_SECOND = 100
_WARM_UP = 200
_CUSTOMERS = 1000
_TWICE_EACH = 10
_SETTLE_SECONDS = 120


@dataclass(frozen=True)
class Credit:
    """One posting of a purchase in the ledger; when its transaction was committed, in Unix seconds."""

    points: int
    committed_at: float


@dataclass
class Deliveries:
    """What the endpoint said."""

    # By checkout: when its event was first sent, in Unix seconds.
    sent_at: dict[str, float] = field(default_factory=dict)
    accepted: int = 0
    refused: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Verdict:
    """What became of the purchases."""

    latencies_ms: list[float]
    # From the first delivery to the last credit.
    seconds: float
    lost: int
    double: int


@dataclass(frozen=True)
class Round:
    name: str
    events: int
    deliveries: Deliveries
    verdict: Verdict
    cpu_ms: dict[str, float]

    @property
    def is_clean(self) -> bool:
        return not (self.deliveries.refused or self.verdict.lost or self.verdict.double)


def main(events: int, steady_events: int, connections: int, json_file: Path | None) -> int:
    """Measures and prints; 1 when a delivery was refused, points are lost or double, or the audit finds
    something."""
    console = Console(highlight=False)
    with running_stack() as running:
        _record_commit_times(running)
        stack = running.file
        purchases = uvloop.run(
            open_purchases(stack, count=_WARM_UP + events + steady_events, customers=_CUSTOMERS)
        )
        warm_up, fast, slow = _split(purchases, _WARM_UP, events)
        _run(stack, "warm-up", warm_up, connections, per_second=None)
        rounds = [
            _run(stack, "full speed", fast, connections, per_second=None),
            _run(stack, f"{_STEADY_PER_SECOND}/s", slow, connections, per_second=_STEADY_PER_SECOND),
        ]
        findings = audit.audit(stack)
    _print(console, rounds, connections)
    console.print(f"audit: {findings or 'all invariants hold'}")
    if json_file is not None:
        json_file.write_text(json.dumps({each.name: _as_json(each) for each in rounds}, indent=2))
    return 0 if all(each.is_clean for each in rounds) and not findings else 1


def _record_commit_times(running: RunningStack) -> None:
    """Postgres reads this setting when it starts."""
    with psycopg.connect(running.file.database_urls["wallet"], autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET track_commit_timestamp = on")
    running.restart("postgres")


def _split(purchases: Sequence[Purchase], *counts: int) -> Iterator[Sequence[Purchase]]:
    """So many each, and the rest."""
    at = 0
    for count in counts:
        yield purchases[at : at + count]
        at += count
    yield purchases[at:]


def _run(
    stack: StackFile, name: str, purchases: Sequence[Purchase], connections: int, *, per_second: int | None
) -> Round:
    pids = {part: stack.pids[part] for part in MEASURED}
    already = sum(map(len, _credits(stack).values()))
    before = cpu_ms(pids)
    deliveries = uvloop.run(_deliver(stack, with_twins(purchases), connections, per_second))
    _wait_until_credited(stack, already + len(purchases))
    after = cpu_ms(pids)
    wait_until(lambda: is_quiet(stack.database_urls), seconds=_SETTLE_SECONDS, what="quiet")
    used_ms = {part: after[part] - before[part] for part in after}
    verdict = judge(purchases, deliveries.sent_at, _credits(stack))
    return Round(name, len(purchases), deliveries, verdict, used_ms)


def with_twins(purchases: Sequence[Purchase]) -> list[Purchase]:
    """Each tenth one has its twin beside it, so that two connections send them at the same time."""
    return [
        each
        for number, purchase in enumerate(purchases)
        for each in [purchase] * (2 if number % _TWICE_EACH == 0 else 1)
    ]


async def _deliver(
    stack: StackFile, purchases: Sequence[Purchase], connections: int, per_second: int | None
) -> Deliveries:
    told = Deliveries()
    url = urlsplit(stack.webhook_url)
    waiting = iter(enumerate(purchases))
    began = time.monotonic()

    async def sender() -> None:
        connection = Connection(url.hostname or "", url.port or 80)
        for number, purchase in waiting:
            if per_second:
                # By the clock of the whole round: a slow answer never slows down who sends.
                await asyncio.sleep(began + number / per_second - time.monotonic())
            now = time.time()
            told.sent_at.setdefault(purchase.checkout_id, now)
            signed = signature(purchase.body, secret=stack.stripe_webhook_secret, now=int(now))
            headers = f"Content-Type: application/json\r\nStripe-Signature: {signed}\r\n"
            answer = await connection.post(url.path, headers, purchase.body)
            told.accepted += answer.status == 200
            told.refused += answer.status != 200
        connection.close()

    await asyncio.gather(*(sender() for _ in range(connections)))
    told.seconds = time.monotonic() - began
    return told


def _wait_until_credited(stack: StackFile, postings: int) -> None:
    """Until the ledger has so many postings or the time is up: judge() counts what is missing."""
    query = "SELECT count(*) FROM points_transactions"
    with (
        psycopg.connect(stack.database_urls["wallet"], autocommit=True) as connection,
        suppress(TimeoutError),
    ):
        wait_until(
            lambda: connection.execute(query).fetchall()[0][0] >= postings,
            seconds=_SETTLE_SECONDS,
            what="every purchase credited",
            # Seldom: looking is part of what is measured.
        )


def _credits(stack: StackFile) -> dict[str, list[Credit]]:
    """The ledger's postings of points that were bought, by checkout."""
    query = """
        SELECT metadata ->> 'source_id', amount, extract(epoch FROM pg_xact_commit_timestamp(xmin))::float8
        FROM points_transactions"""
    found: dict[str, list[Credit]] = {}
    with psycopg.connect(stack.database_urls["wallet"]) as connection:
        for source_id, points, committed_at in connection.execute(query):
            found.setdefault(source_id, []).append(Credit(points, committed_at))
    return found


def judge(
    purchases: Sequence[Purchase], sent_at: Mapping[str, float], credits: Mapping[str, Sequence[Credit]]
) -> Verdict:
    """A purchase is lost when the ledger has less than its points, double when it has more of them, or
    has them in more than one posting."""
    credited_at = {
        purchase.checkout_id: min(credit.committed_at for credit in credits[purchase.checkout_id])
        for purchase in purchases
        if purchase.checkout_id in credits
    }
    posted = [
        (purchase.points, [credit.points for credit in credits.get(purchase.checkout_id, ())])
        for purchase in purchases
    ]
    return Verdict(
        latencies_ms=[(at - sent_at[checkout_id]) * 1000 for checkout_id, at in credited_at.items()],
        seconds=max(credited_at.values(), default=math.inf) - min(sent_at.values()),
        lost=sum(sum(found) < points for points, found in posted),
        double=sum(sum(found) > points or len(found) > 1 for points, found in posted),
    )


def _as_json(measured: Round) -> dict[str, object]:
    deliveries, verdict = measured.deliveries, measured.verdict
    return {
        "events": measured.events,
        "accepted_per_s": deliveries.accepted / deliveries.seconds,
        "credited_per_s": len(verdict.latencies_ms) / verdict.seconds,
        "p50_ms": percentile(verdict.latencies_ms, 50),
        "p99_ms": percentile(verdict.latencies_ms, 99),
        "refused": deliveries.refused,
        "lost": verdict.lost,
        "double": verdict.double,
        "cpu_ms_per_event": sum(measured.cpu_ms.values()) / measured.events,
        "cpu_ms_per_event_by_process": {part: ms / measured.events for part, ms in measured.cpu_ms.items()},
    }


def _print(console: Console, rounds: Sequence[Round], connections: int) -> None:
    measures = ("accepted/s", "credited/s", "p50 ms", "p99 ms", "refused", "lost", "double")
    table = Table("", *measures, box=None)
    by_process = Table("CPU ms/event", *MEASURED, "all", box=None)
    for measured in rounds:
        deliveries, verdict = measured.deliveries, measured.verdict
        table.add_row(
            measured.name,
            f"{deliveries.accepted / deliveries.seconds:.0f}",
            f"{len(verdict.latencies_ms) / verdict.seconds:.0f}",
            f"{percentile(verdict.latencies_ms, 50):.0f}",
            f"{percentile(verdict.latencies_ms, 99):.0f}",
            *(str(count) for count in (deliveries.refused, verdict.lost, verdict.double)),
        )
        per_event = [measured.cpu_ms[part] / measured.events for part in MEASURED]
        by_process.add_row(measured.name, *(f"{ms:.2f}" for ms in (*per_event, sum(per_event))))
    told = " and ".join(f"{measured.events} at {measured.name}" for measured in rounds)
    console.print(f"paid sessions: {told}, over {connections} connections, each {_TWICE_EACH}th told twice")
    console.print(table)
    console.print(by_process)
