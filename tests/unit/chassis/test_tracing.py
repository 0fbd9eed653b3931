"""The current trace: read as W3C says, begun when there is none, told to logs, kept apart by task."""

import asyncio
import re

import pytest

from services.chassis import tracing

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


async def adopted(traceparent: str | None) -> tuple[str | None, str | None]:
    """In a task of its own, as everybody adopts."""

    async def task() -> tuple[str | None, str | None]:
        tracing.adopt(traceparent)
        return tracing.current(), tracing.trace_id()

    return await asyncio.create_task(task())


async def test_a_trace_that_is_named_goes_on() -> None:
    assert await adopted(PARENT) == (PARENT, TRACE)
    assert tracing.trace_id_of(PARENT) == TRACE


@pytest.mark.parametrize(
    "named",
    [
        None,
        "",
        "garbage",
        TRACE,
        PARENT.replace("4b", "xx"),
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"ff-{TRACE}-00f067aa0ba902b7-01",
        f"00-{TRACE}-00f067aa0ba902b7-01\r\nX-Evil: 1",
        "00-" * 10_000,
    ],
)
async def test_what_names_none_begins_one(named: str | None) -> None:
    (current, first), (_, second) = [await adopted(named) for _ in range(2)]
    assert first != second
    assert re.fullmatch(f"00-{first}-[0-9a-f]{{16}}-01", current or "")
    assert tracing.trace_id_of(named) is None


async def test_tasks_inherit_a_trace_and_keep_their_own() -> None:
    async def parent() -> None:
        tracing.adopt(PARENT)
        other = await adopted(None)
        inherited = await asyncio.create_task(asyncio.to_thread(tracing.trace_id))
        assert (inherited, tracing.trace_id()) == (TRACE, TRACE)
        assert other[1] not in (None, TRACE)

    await asyncio.create_task(parent())
    assert (tracing.current(), tracing.trace_id()) == (None, None)


async def test_logs_tell_the_trace() -> None:
    assert tracing.add_trace_id(None, "info", {"event": "x"}) == {"event": "x"}

    async def task() -> None:
        tracing.adopt(PARENT)
        assert tracing.add_trace_id(None, "info", {"event": "x"}) == {"event": "x", "trace_id": TRACE}

    await asyncio.create_task(task())
