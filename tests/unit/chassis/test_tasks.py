"""What must not stop half-way, and what must not end."""

import ast
import asyncio
from pathlib import Path

import psycopg
import pytest
from psycopg import errors as pg
from sqlalchemy.exc import DBAPIError
from structlog.testing import capture_logs

from services.chassis import tasks
from services.chassis.errors import Conflict, Unavailable
from services.chassis.outages import is_outage, lasting
from services.chassis.tasks import background, to_the_end
from services.chassis.workers import Worker

ROOT = Path(__file__).parents[3]


async def test_whoever_is_cancelled_again_and_again_ends_when_the_work_is_done() -> None:
    begun, may_end = asyncio.Event(), asyncio.Event()
    done: list[str] = []

    async def work() -> None:
        begun.set()
        await may_end.wait()
        done.append("work")

    async def waiter() -> None:
        await to_the_end(work(), patience_seconds=20)
        done.append("waiter goes on")

    task = asyncio.create_task(waiter())
    await begun.wait()
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == ["work"]


async def test_what_the_work_raises_is_raised() -> None:
    async def work() -> None:
        raise LookupError

    with pytest.raises(LookupError):
        await to_the_end(work(), patience_seconds=20)


async def test_patience_ends() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    task = asyncio.create_task(to_the_end(work(), patience_seconds=0.05))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(20):
        await ended.wait()


class Loop:
    """Fails as told, then goes on."""

    def __init__(self, *failures: Exception) -> None:
        self._failures = list(failures)
        self.goes_on = asyncio.Event()

    @lasting
    async def run(self) -> None:
        if self._failures:
            raise self._failures.pop(0)
        self.goes_on.set()
        await asyncio.Event().wait()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "_FIRST_PAUSE_SECONDS", 0.001)


async def test_a_loop_goes_on_after_whatever_it_raised(quick: None) -> None:
    loop = Loop(
        psycopg.OperationalError("gone"),
        LookupError("a defect"),
        ExceptionGroup("of a task group", [Unavailable("AWAY", "away")]),
    )
    with capture_logs() as logged:
        async with background(loop.run()), asyncio.timeout(20):
            await loop.goes_on.wait()
    assert [(line["event"], line["log_level"]) for line in logged] == [
        ("background.interrupted", "warning"),
        ("background.failed", "error"),
        ("background.interrupted", "warning"),
    ]


async def test_a_worker_goes_on_after_a_group_of_errors(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.chassis.workers._FAILURE_PAUSE_SECONDS", 0.001)
    again = asyncio.Event()
    calls = 0

    async def work() -> bool:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise ExceptionGroup("at once", [psycopg.OperationalError("a"), psycopg.OperationalError("b")])
        again.set()
        return False

    async with background(Worker("test", work, tick_seconds=0.001).run()), asyncio.timeout(20):
        await again.wait()


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (pg.LockNotAvailable("lock timeout"), True),
        (pg.AdminShutdown("terminating connection"), True),
        (pg.QueryCanceled("statement timeout"), True),
        (pg.DeadlockDetected("deadlock"), True),
        (pg.ReadOnlySqlTransaction("a standby now"), True),
        (DBAPIError("SELECT 1", {}, pg.AdminShutdown("terminating connection")), True),
        (DBAPIError("SELECT 1", {}, pg.CheckViolation("no")), False),
        (pg.UniqueViolation("no"), False),
        (ConnectionRefusedError(), True),
        (TimeoutError(), True),
        (Unavailable("AWAY", "away"), True),
        (Conflict("NO", "no"), False),
        (ExceptionGroup("both", [OSError(), ValueError()]), False),
    ],
)
def test_what_passes_by_itself_is_told_from_a_defect(error: Exception, passes: bool) -> None:
    assert is_outage(error) is passes


def _is_lasting(method: ast.stmt) -> bool:
    return isinstance(method, ast.AsyncFunctionDef) and any(
        "lasting" in ast.unparse(decorator) or "going_on" in ast.unparse(decorator)
        for decorator in method.decorator_list
    )


@pytest.mark.parametrize("folder", ["services", "gateway"])
def test_each_background_loop_is_a_lasting_one(folder: str) -> None:
    """`run` itself, or a method of its class that it awaits."""
    ends: list[str] = []
    found = 0
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ClassDef):
                continue
            loops = [
                each for each in node.body if isinstance(each, ast.AsyncFunctionDef) and each.name == "run"
            ]
            found += len(loops)
            if loops and not any(map(_is_lasting, node.body)):
                ends.append(f"{path.relative_to(ROOT)}: {node.name}")
    assert ends == []
    assert found
