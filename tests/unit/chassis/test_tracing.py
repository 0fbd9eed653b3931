"""The current trace: read as W3C says, begun when there is none, told to logs, kept apart by task."""

import asyncio
import re

import pytest

from services.chassis import tracing

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


def continued(traceparent: str | None) -> tuple[str | None, str | None]:
    with tracing.continued(traceparent, "a test"):
        return tracing.current(), tracing.trace_id()


def test_a_trace_that_is_named_goes_on() -> None:
    assert continued(PARENT) == (PARENT, TRACE)
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
def test_what_names_none_begins_one(named: str | None) -> None:
    (current, first), (_, second) = [continued(named) for _ in range(2)]
    assert first != second
    assert re.fullmatch(f"00-{first}-[0-9a-f]{{16}}-01", current or "")
    assert tracing.trace_id_of(named) is None


async def test_tasks_inherit_a_trace_and_keep_their_own() -> None:
    async def begun_here() -> str | None:
        return continued(None)[1]

    with tracing.continued(PARENT, "a test"):
        other = await asyncio.create_task(begun_here())
        inherited = await asyncio.create_task(asyncio.to_thread(tracing.trace_id))
        assert (inherited, tracing.trace_id()) == (TRACE, TRACE)
        assert other not in (None, TRACE)
    assert (tracing.current(), tracing.trace_id()) == (None, None)


def test_a_part_of_a_trace_belongs_to_it() -> None:
    with tracing.continued(PARENT, "a test"), tracing.within("a part"):
        assert tracing.trace_id() == TRACE
    with tracing.within("a part of nothing"):
        assert tracing.trace_id() is None


def test_logs_tell_the_trace() -> None:
    assert tracing.add_trace_id(None, "info", {"event": "x"}) == {"event": "x"}
    with tracing.continued(PARENT, "a test"):
        assert tracing.add_trace_id(None, "info", {"event": "x"}) == {"event": "x", "trace_id": TRACE}
