"""A database with the chassis' own tables and nothing else, on the shared servers."""

from collections.abc import AsyncIterator
from uuid import uuid4

import nats
import psycopg
import pytest
from nats.js import JetStreamContext
from pydantic import SecretStr
from sqlalchemy import MetaData, create_engine

from services.chassis import audit_log, tables
from services.chassis.bus import Bus, ensure_stream
from services.chassis.db import Database
from services.chassis.workers import background
from tests.support.servers import Servers


@pytest.fixture(scope="session")
def url(servers: Servers) -> str:
    name = f"chassis_{uuid4().hex[:8]}"
    with psycopg.connect(servers.admin_url(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    metadata = MetaData()
    tables.messaging_tables(metadata)
    tables.relay_table(metadata)
    tables.decided_dead_letters(metadata)
    tables.idempotency_table(metadata)
    audit_log.audit_log_table(metadata)
    address = servers.admin_url(name)
    engine = create_engine(address.replace("postgresql://", "postgresql+psycopg://", 1))
    metadata.create_all(engine)
    with engine.begin() as connection_:
        connection_.exec_driver_sql("CREATE TABLE effects (id uuid PRIMARY KEY, note text NOT NULL)")
    engine.dispose()
    return address


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    database = Database(app_url=SecretStr(url), worker_url=SecretStr(url), pool_size=4, name="test")
    yield database
    await database.dispose()


@pytest.fixture
def stream() -> str:
    """A stream of the test's own."""
    return f"T{uuid4().hex[:10].upper()}"


@pytest.fixture
async def jetstream(servers: Servers, stream: str) -> AsyncIterator[JetStreamContext]:
    client = await nats.connect(servers.nats_url)
    context = client.jetstream()
    await ensure_stream(context, stream)
    yield context
    await context.delete_stream(stream)
    await client.close()


@pytest.fixture
async def bus(servers: Servers, stream: str, jetstream: JetStreamContext) -> AsyncIterator[Bus]:
    bus = Bus(SecretStr(servers.nats_url), name="test", stream=stream)
    async with background(bus.run()):
        await bus.connected()
        yield bus
