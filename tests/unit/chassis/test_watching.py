"""Watchers: one look for all, only while somebody watches, and a bounded number of them."""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from uuid import UUID, uuid4

import pytest

from services.chassis.errors import NotFound, Overloaded, Unavailable
from services.chassis.watching import Watchers


@dataclass(frozen=True)
class Thing:
    version: int
    is_settled: bool = False


class Call:
    """A streaming RPC, as far as watchers know it."""

    def __init__(self) -> None:
        self.follows = asyncio.Event()
        self._callbacks: list[object] = []

    def add_done_callback(self, callback: object) -> None:
        self._callbacks.append(callback)

    async def send_initial_metadata(self, _: object) -> None:
        self.follows.set()

    def end(self) -> None:
        for callback in self._callbacks:
            callback(self)  # type: ignore[operator]


class House:
    """Things with versions, and those who watch them."""

    def __init__(self, *, most: int = 10, longest_seconds: float = 60.0) -> None:
        self.things: dict[UUID, Thing] = {}
        self.looks: list[list[UUID]] = []
        self.watchers = Watchers(self._look, most=most, longest_seconds=longest_seconds)

    async def _look(self, ids: Collection[UUID]) -> Mapping[UUID, int]:
        self.looks.append(list(ids))
        return {id: self.things[id].version for id in ids}

    def thing(self, version: int = 1) -> UUID:
        id = uuid4()
        self.things[id] = Thing(version)
        return id

    def follow(self, id: UUID, *, after: int = 0, call: Call | None = None) -> "Follower":
        async def read() -> Thing:
            if id not in self.things:
                raise NotFound("NOT_FOUND", "no such thing")
            return self.things[id]

        return Follower(self.watchers, id, read, after, call or Call())


class Follower:
    """What one of them hears, as (version, is_final)."""

    def __init__(self, watchers: Watchers, id: UUID, read: object, after: int, call: Call) -> None:
        self.call = call
        self._news = watchers.follow(id, read, after=after, call=call)  # type: ignore[arg-type]

    async def hears(self) -> tuple[int | None, bool] | None:
        async with asyncio.timeout(5):
            heard = await anext(self._news, None)
        return None if heard is None else (heard[0].version if heard[0] else None, heard[1])

    async def leave(self) -> None:
        async with aclosing(self._news):
            pass


@pytest.fixture
async def house() -> AsyncIterator[House]:
    house = House()
    running = asyncio.create_task(house.watchers.run())
    yield house
    running.cancel()
    await asyncio.wait([running])


async def test_a_watcher_hears_of_now_and_of_each_change_until_it_is_settled(house: House) -> None:
    id = house.thing(3)
    follower = house.follow(id)
    assert await follower.hears() == (3, False)
    next_one = asyncio.create_task(follower.hears())
    house.things[id] = Thing(4)
    assert await next_one == (4, False)
    house.things[id] = Thing(5, is_settled=True)
    house.watchers.wake()
    assert await follower.hears() == (5, True)
    assert await follower.hears() is None


async def test_what_was_seen_is_not_told_again(house: House) -> None:
    id = house.thing(3)
    for after in (3, 99):
        follower = house.follow(id, after=after)
        waits = asyncio.create_task(follower.hears())
        async with asyncio.timeout(5):
            await follower.call.follows.wait()
        house.things[id] = Thing(house.things[id].version + 1)
        assert await waits == (house.things[id].version, False)
        await follower.leave()
    house.things[id] = Thing(9, is_settled=True)
    assert await house.follow(id, after=9).hears() == (None, True)


async def test_one_look_serves_all_and_none_is_made_for_nobody(house: House) -> None:
    # The watchers' own task has begun.
    await asyncio.sleep(0)
    one, two = house.thing(), house.thing()
    followers = [house.follow(id) for id in (one, one, two)]
    for follower in followers:
        await follower.hears()
    waiting = [asyncio.create_task(follower.hears()) for follower in followers]
    house.things = {id: Thing(2) for id in house.things}
    assert [await told for told in waiting] == [(2, False)] * 3
    assert set(house.looks[-1]) == {one, two}
    assert all(house.looks), "a look before anybody watched"


async def test_their_number_is_bounded_and_places_come_back() -> None:
    house = House(most=1)
    id = house.thing()
    first = house.follow(id)
    await first.hears()
    with pytest.raises(Overloaded):
        await house.follow(id).hears()
    await first.leave()
    second = house.follow(id)
    assert await second.hears() == (1, False)
    waits = asyncio.create_task(second.hears())
    # The caller went away.
    second.call.end()
    assert await waits is None
    assert await house.follow(id).hears() == (1, False)


async def test_who_may_not_see_it_is_refused_and_takes_no_place() -> None:
    house = House(most=1)
    with pytest.raises(NotFound):
        await house.follow(uuid4()).hears()
    assert await house.follow(house.thing()).hears() == (1, False)


async def test_it_ends_when_the_time_is_up_and_when_we_stop() -> None:
    brief = House(longest_seconds=0.01)
    follower = brief.follow(brief.thing())
    assert [await follower.hears() for _ in range(2)] == [(1, False), None]
    house = House()
    follower = house.follow(house.thing())
    await follower.hears()
    waits = asyncio.create_task(follower.hears())
    house.watchers.close()
    assert await waits is None
    with pytest.raises(Unavailable):
        await house.follow(house.thing()).hears()
