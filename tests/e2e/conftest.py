"""People who visit the shared shop. Each test meets somebody new."""

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from deploy.local import audit
from deploy.local.ephemeral import RunningStack
from tests.e2e.rest_client import Customer, sign_in, visit


@pytest.fixture(autouse=True)
def books(request: pytest.FixtureRequest) -> Iterator[None]:
    """After every test on the shared shop, the invariants still hold."""
    yield
    if "stack" in request.fixturenames:
        shop: RunningStack = request.getfixturevalue("stack")
        assert audit.audit(shop.file) == []


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
