"""People who visit the shared shop. Each test meets somebody new."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import psycopg
import pytest

from deploy.local import audit
from deploy.local.ephemeral import RunningStack
from tests.e2e.rest_client import Customer, sign_in, visit

# How much a shop had written when its books were last found in order.
_IN_ORDER: dict[Path, str] = {}


@pytest.fixture(autouse=True)
def books(request: pytest.FixtureRequest) -> Iterator[None]:
    """After every test on the shared shop, the invariants still hold."""
    yield
    if "stack" in request.fixturenames:
        shop: RunningStack = request.getfixturevalue("stack")
        written = _written(shop)
        # Half of the tests are refusals, after which not a byte was written.
        if _IN_ORDER.get(shop.data) != written:
            assert audit.audit(shop.file) == []
            _IN_ORDER[shop.data] = written


def _written(shop: RunningStack) -> str:
    """Where the log of all databases ends, in which every change is."""
    with psycopg.connect(shop.file.database_urls["wallet"]) as connection:
        return str(connection.execute("SELECT pg_current_wal_insert_lsn()").fetchall()[0][0])


@pytest.fixture
async def customer(stack: RunningStack) -> AsyncIterator[Customer]:
    async with sign_in(stack.file.gateway_url, stack.file.auth_jwt_secret) as signed_in:
        yield signed_in


@pytest.fixture
async def other(stack: RunningStack) -> AsyncIterator[Customer]:
    async with sign_in(stack.file.gateway_url, stack.file.auth_jwt_secret) as signed_in:
        yield signed_in


@pytest.fixture
async def operator(stack: RunningStack) -> AsyncIterator[Customer]:
    """One of the shop's people, who is a customer as well."""
    role = {"role": "operator"}
    async with sign_in(stack.file.gateway_url, stack.file.auth_jwt_secret, app_metadata=role) as signed_in:
        yield signed_in


@pytest.fixture
async def visitor(stack: RunningStack) -> AsyncIterator[httpx.AsyncClient]:
    """Somebody without a token."""
    async with visit(stack.file.gateway_url) as http:
        yield http
