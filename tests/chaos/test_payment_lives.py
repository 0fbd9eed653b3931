"""Random payment lives at the running shop; the oracle (lives/oracle.py) knows what each customer must have.

`AISHOP_LIFE=17` lives that one alone, as it was drawn among the others.
"""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta

import pytest

from deploy.local import audit
from deploy.local.ephemeral import RunningStack
from tests.chaos.lives.actor import Actor
from tests.chaos.lives.generator import TIMES_IN_FIFTY, draw, how_often
from tests.chaos.lives.shop import Shop, shop_at
from tests.support.proofs import SEED

# Chosen so that fifty lives hold each act often enough.
_SEED = SEED + 67
_AT_ONCE = 24
# Longer than any takes.
_A_LIFE = timedelta(minutes=10)
_SETTLE_SECONDS, _BETWEEN_RUNS_SECONDS = 120.0, 3.0
_TROUBLE = {"drop_percent": 5, "duplicate_percent": 20, "shuffle": True, "seed": SEED}
_OLD = {"account": "2025-02-24.acacia", "endpoint": "2022-08-01", "percent": 25}


async def products_of(shop: Shop) -> dict[int, str]:
    """Pictures by their price; the sample catalogue comes first."""
    listed = (await shop.ask("GET", "/api/products?limit=100"))["items"]
    return {product["priceCents"]: product["id"] for product in reversed(listed)}


@asynccontextmanager
async def compared_again_and_again(shop: Shop) -> AsyncIterator[Counter[str]]:
    """Reconciliation runs all the time; yields how often."""
    runs: Counter[str] = Counter()

    async def run() -> None:
        while True:
            await shop.reconcile(since=datetime.now(UTC) - _A_LIFE)
            runs["reconciliations"] += 1
            await asyncio.sleep(_BETWEEN_RUNS_SECONDS)

    running = asyncio.create_task(run())
    try:
        yield runs
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


async def of_all(actors: list[Actor], what: Callable[[Actor], Awaitable[str]]) -> list[str]:
    """What went wrong, so many at a time."""
    places = asyncio.Semaphore(_AT_ONCE)

    async def one(actor: Actor) -> str:
        async with places:
            return await what(actor)

    return [wrong for wrong in await asyncio.gather(*map(one, actors)) if wrong]


async def judge(actors: list[Actor], *, within_seconds: float) -> list[str]:
    """Of which customers the shop does not say what the oracle says."""

    async def differs(actor: Actor) -> str:
        try:
            await actor.agreed(within_seconds=within_seconds)
        except AssertionError as error:
            return f"{actor.life}\n{error}"
        return ""

    return await of_all(actors, differs)


@pytest.mark.parametrize("count", [50, pytest.param(2_000, marks=pytest.mark.long)])
@pytest.mark.timeout(7_200)
async def test_random_payment_lives_end_with_exact_points_and_amounts(
    stack: RunningStack, count: int, record_property: Callable[[str, object], None]
) -> None:
    lives = draw(_SEED, count)
    counted = how_often(lives)
    assert {kind: times for kind, times in counted.items() if times < TIMES_IN_FIFTY} == {}
    only = os.environ.get("AISHOP_LIFE")
    async with shop_at(stack) as shop:
        products = await products_of(shop)
        began = datetime.now(UTC) - _A_LIFE
        before = (await shop.deliveries())["dropped"]
        actors = [Actor(shop, life, products) for life in lives if only in (None, str(life.number))]
        await shop.control("webhooks", mode="deliver", **_TROUBLE)
        await shop.control("api_versions", **_OLD)
        async with compared_again_and_again(shop) as runs:
            wrong = await of_all(actors, Actor.live)
            await shop.quiet()
            wrong += await judge(actors, within_seconds=_SETTLE_SECONDS)
        assert not wrong, "\n\n".join(dict.fromkeys(wrong))
        await shop.reconcile(since=began)
        assert audit.audit(stack.file) == []
        assert await judge(actors, within_seconds=0) == []
        dropped = (await shop.deliveries())["dropped"] - before
        assert dropped > 0 or only
        record_property("proof", {"lives": len(actors), "webhooks dropped": dropped, **runs, **counted})
