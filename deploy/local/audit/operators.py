"""A1: what operators did, in the audit log of each database that has one."""

from collections.abc import Iterator
from dataclasses import dataclass

from deploy.local.audit.snapshot import Check, Finding, Snapshots
from services.chassis.audit_log import Entry, broken_at


class AuditChains:
    """A1: each audit log's chain holds, from its first entry to its last."""

    proves = ("A1",)

    def __call__(self, databases: Snapshots) -> Iterator[Finding]:
        for database in _with_audit_log(databases):
            rows = databases.rows(database, _ENTRIES)
            seq = broken_at(Entry(**row) for row in rows)
            if seq is not None:
                yield Finding(
                    "A1", "the audit log was tampered with", f"audit_log of {database}", f"seq {seq}"
                )


@dataclass(frozen=True)
class Head:
    """Where an audit log ends. A cut tail leaves a whole chain: only who noted the head sees it."""

    database: str
    seq: int
    hash: str


def heads(databases: Snapshots) -> list[Head]:
    """The last entry of each audit log that has any."""
    return [
        Head(database, row["seq"], row["hash"])
        for database in _with_audit_log(databases)
        for row in databases.rows(database, _LAST)
    ]


def _with_audit_log(databases: Snapshots) -> Iterator[str]:
    for database in databases.connections:
        [row] = databases.rows(database, "SELECT to_regclass('audit_log') IS NOT NULL AS is_there")
        if row["is_there"]:
            yield database


_ENTRIES = f"SELECT {', '.join(Entry.__dataclass_fields__)} FROM audit_log ORDER BY seq"
_LAST = "SELECT seq, encode(hash, 'hex') AS hash FROM audit_log ORDER BY seq DESC LIMIT 1"

CHECKS: tuple[Check, ...] = (AuditChains(),)
