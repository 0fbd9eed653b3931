"""What a customer reads: the profile and the ledger."""

from uuid import uuid4

import grpc
import pytest

from protos.wallet.v1 import wallet_pb2
from services.chassis import cursor
from tests.integration.wallet.client import Wallet, refused

INVALID = grpc.StatusCode.INVALID_ARGUMENT


async def page(
    wallet: Wallet, user: object, limit: int = 0, after: str = ""
) -> wallet_pb2.ListTransactionsResponse:
    request = wallet_pb2.ListTransactionsRequest(user_id=str(user), limit=limit, cursor=after)
    return await wallet.stub.ListTransactions(request)


async def test_a_user_never_seen_has_zeros_and_leaves_no_row(wallet: Wallet) -> None:
    user = uuid4()
    assert await wallet.profile(user) == wallet_pb2.Profile(id=str(user))
    assert (await page(wallet, user)).items == []
    assert await wallet.sql("SELECT 1 FROM profiles WHERE id = %s", user) == []


async def test_the_email_is_kept_sealed_and_found_by_its_hmac(wallet: Wallet) -> None:
    user, email = uuid4(), f"{uuid4()}@example.com"
    assert (await wallet.profile(user, email=email)).email == email
    assert (await wallet.profile(user)).email == email
    query = "SELECT email, email_hmac FROM profiles WHERE id = %s"
    [row] = await wallet.sql(query, user)
    for stored in row.values():
        assert isinstance(stored, bytes)
        assert email.encode() not in stored
    twin = uuid4()
    await wallet.profile(twin, email=f" {email.upper()}")
    found = await wallet.sql("SELECT id FROM profiles WHERE email_hmac = %s", row["email_hmac"])
    assert {profile["id"] for profile in found} == {user, twin}


async def test_the_email_of_an_existing_profile_changes_and_the_points_stay(wallet: Wallet) -> None:
    user = await wallet.user(550)
    for email in ("old@example.com", "new@example.com"):
        profile = await wallet.profile(user, email=email)
        assert (profile.email, profile.points) == (email, 550)


async def test_the_same_email_again_writes_nothing(wallet: Wallet) -> None:
    user = uuid4()
    await wallet.profile(user, email="same@example.com")
    query = "SELECT xmin::text, ctid::text, email FROM profiles WHERE id = %s"
    before = await wallet.sql(query, user)
    await wallet.profile(user, email="same@example.com")
    assert await wallet.sql(query, user) == before


async def test_a_sealed_email_opens_in_no_other_row(wallet: Wallet) -> None:
    user, other = uuid4(), uuid4()
    for owner in (user, other):
        await wallet.profile(owner, email=f"{owner}@example.com")
    await wallet.sql(
        "UPDATE profiles SET email = (SELECT email FROM profiles WHERE id = %s) WHERE id = %s", user, other
    )
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await wallet.profile(other)
    assert error.value.code() == grpc.StatusCode.INTERNAL
    assert str(user) not in str(error.value.details())


async def test_an_overlong_email_is_invalid(wallet: Wallet) -> None:
    call = wallet.profile(uuid4(), email="x" * 321)
    assert await refused(call, INVALID, "INVALID_FIELD") == {"field": "email"}


async def test_the_ledger_comes_newest_first_in_pages(wallet: Wallet) -> None:
    user = uuid4()
    source = await wallet.grant(user, 1)
    for version in range(2, 26):
        await wallet.grant(user, version, source=source, version=version)
    first = await page(wallet, user)
    assert [item.seq for item in first.items] == list(range(25, 5, -1))
    last = await page(wallet, user, after=first.next_cursor)
    assert ([item.seq for item in last.items], last.next_cursor) == ([5, 4, 3, 2, 1], "")
    purchase = last.items[-1]
    assert (purchase.type, purchase.amount) == (wallet_pb2.TRANSACTION_TYPE_PURCHASE, 1)
    assert (purchase.balance_after, purchase.order_id) == (1, "")
    assert purchase.created_at.seconds > 1_700_000_000


async def test_a_page_that_ends_with_the_ledger_has_no_cursor(wallet: Wallet) -> None:
    user = uuid4()
    source = await wallet.grant(user, 1)
    await wallet.grant(user, 2, source=source, version=2)
    whole = await page(wallet, user, limit=2)
    assert (len(whole.items), whole.next_cursor) == (2, "")
    half = await page(wallet, user, limit=1)
    await wallet.grant(user, 3, source=source, version=3)
    # A row that arrives in between neither repeats nor hides one.
    assert [item.seq for item in (await page(wallet, user, limit=1, after=half.next_cursor)).items] == [1]


@pytest.mark.parametrize("limit", [-1, 101, 2**31 - 1])
async def test_page_sizes_are_bounded(wallet: Wallet, limit: int) -> None:
    await refused(page(wallet, uuid4(), limit=limit), INVALID, "INVALID_LIMIT")


@pytest.mark.parametrize("bad", ["x", "!!", cursor.encode("one"), cursor.encode("1|2")])
async def test_foreign_cursors_are_refused(wallet: Wallet, bad: str) -> None:
    await refused(page(wallet, uuid4(), after=bad), INVALID, "INVALID_CURSOR")


async def test_nobody_reads_the_ledger_of_somebody_else(wallet: Wallet) -> None:
    user = uuid4()
    source = await wallet.grant(user, 1)
    await wallet.grant(user, 2, source=source, version=2)
    first = await page(wallet, user, limit=1)
    assert (await page(wallet, uuid4(), after=first.next_cursor)).items == []
