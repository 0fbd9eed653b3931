"""The running gateway counts in Valkey, where all its replicas do."""

import time

from valkey.asyncio import Valkey

from deploy.local.ephemeral import RunningStack
from tests.e2e.rest_client import Customer


async def test_who_used_up_the_limit_elsewhere_is_told_here_how_long_to_wait(
    stack: RunningStack, customer: Customer, other: Customer
) -> None:
    bucket = f"aishop:rate:1:user:{customer.user_id}"
    async with Valkey.from_url(stack.file.valkey_url) as valkey:
        await customer.profile()
        # 300 at once are 6 s ahead of their time: what other replicas let pass.
        await valkey.set(bucket, int((time.time() + 60) * 1_000_000), px=60_000)
        refused = await customer.http.get("/api/profile")
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    assert 50 <= int(refused.headers["Retry-After"]) <= 55
    await other.profile()
