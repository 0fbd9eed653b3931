"""The servers and the whole stack that tests share; each is started when first asked for."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest

from deploy.local.ephemeral import RunningStack, running_stack
from tests.support.servers import Servers


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """Postgres and NATS with every database and role, nothing migrated."""
    with running_stack(servers_only=True) as stack:
        yield Servers(stack)


@pytest.fixture(scope="session")
def stack() -> Iterator[RunningStack]:
    """The whole shop. Tests that use it leave it whole: they harm nothing and use users of their own."""
    with running_stack() as running:
        yield running


@pytest.fixture
def fresh_stack() -> Callable[[], AbstractContextManager[RunningStack]]:
    """Starts a shop of one's own, for a test that harms it."""
    return running_stack
