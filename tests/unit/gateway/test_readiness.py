"""Whether the services behind are well, and how seldom they are asked."""

import asyncio
from typing import Any

import pytest

from gateway import backends as behind
from gateway.backends import Backends


class Services:
    """Counts how often they are asked; answers when told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked = 0
        self.is_well = True
        self.answers = asyncio.Event()
        self.now = 100.0
        monkeypatch.setattr(behind, "_is_serving", self._is_serving)
        monkeypatch.setattr(f"{behind.__name__}.time.monotonic", lambda: self.now)

    async def _is_serving(self, _channel: Any) -> bool:
        self.asked += 1
        await self.answers.wait()
        return self.is_well


async def test_many_who_ask_at_once_are_one_question(
    backends: Backends, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = Services(monkeypatch)
    async with asyncio.TaskGroup() as group:
        asking = [group.create_task(backends.unavailable()) for _ in range(100)]
        gone = group.create_task(backends.unavailable())
        await asyncio.wait([gone], timeout=0)
        gone.cancel()
        services.answers.set()
    assert [await each for each in asking] == [[]] * 100
    assert services.asked == 3


async def test_an_answer_is_good_for_a_second(backends: Backends, monkeypatch: pytest.MonkeyPatch) -> None:
    services = Services(monkeypatch)
    services.answers.set()
    assert await backends.unavailable() == []
    services.is_well = False
    services.now += 0.9
    assert await backends.unavailable() == []
    services.now += 0.2
    assert await backends.unavailable() == ["wallet", "orders", "payments"]
    assert services.asked == 6
