"""Three logs as one list, page by page: nothing twice, nothing left out, whatever the times say."""

import random

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from gateway.routes.admin_audit import page_of
from protos.audit.v1.audit_pb2 import AuditEntry

SERVICES = ("orders", "payments", "wallet")
Log = list[AuditEntry]


def entry(service: str, seq: int, seconds: int) -> AuditEntry:
    return AuditEntry(service=service, seq=seq, created_at=Timestamp(seconds=seconds))


def asked(logs: list[Log], before: list[int], limit: int) -> list[Log]:
    """What the services answer: newest first."""
    return [
        [each for each in reversed(log) if not seq or each.seq < seq][: limit + 1]
        for log, seq in zip(logs, before, strict=True)
    ]


def names(page: Log) -> list[tuple[str, int]]:
    return [(each.service, each.seq) for each in page]


def drawn(chance: random.Random) -> list[Log]:
    """Few different times, so that most are shared; now and then a clock that was turned back."""
    return [
        [entry(service, seq, seq // 3 + chance.randrange(2)) for seq in range(1, chance.randrange(9))]
        for service in SERVICES
    ]


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 30])
def test_every_entry_is_on_one_page_and_each_log_keeps_its_order(limit: int) -> None:
    chance = random.Random(limit)
    for _ in range(300):
        logs = drawn(chance)
        there = sorted(name for log in logs for name in names(log))
        seen: list[tuple[str, int]] = []
        before: list[int] | None = [0, 0, 0]
        while before is not None:
            page, before = page_of(asked(logs, before, limit), before, limit=limit)
            assert len(page) == limit or before is None
            seen += names(list(page))
            # Somebody acts while the pages are read: that is newer than any of them.
            for log, service in zip(logs, SERVICES, strict=True):
                if chance.random() < 0.3:
                    log.append(entry(service, len(log) + 1, 1_000))
        assert sorted(seen) == there
        for service in SERVICES:
            mine = [seq for name, seq in seen if name == service]
            assert mine == sorted(mine, reverse=True)


def test_the_newest_come_first() -> None:
    logs = [
        [entry("orders", 1, 10), entry("orders", 2, 40)],
        [entry("payments", 1, 30)],
        [entry("wallet", 1, 20)],
    ]
    page, before = page_of(asked(logs, [0, 0, 0], 3), [0, 0, 0], limit=3)
    assert names(list(page)) == [("orders", 2), ("payments", 1), ("wallet", 1)]
    assert before == [2, 1, 1]
