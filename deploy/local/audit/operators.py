"""A1 and A2: what operators did, in the audit log of each database that has one."""

from collections.abc import Iterator
from dataclasses import dataclass

from deploy.local.audit.snapshot import Check, Finding, Snapshots, SqlCheck
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

CHECKS: tuple[Check, ...] = (
    AuditChains(),
    SqlCheck(
        ("A2",),
        "an adjustment of points and its audit entry do not match",
        "wallet",
        """
        SELECT coalesce(t.id::text, a.details->>'transaction_id') AS transaction,
            t.user_id, t.amount, a.seq AS audit_entry, a.actor, a.details->>'points' AS audited_points
        FROM (SELECT * FROM points_transactions WHERE type = 'adjustment') t
            FULL JOIN (SELECT * FROM audit_log WHERE action = 'points.adjusted') a
            ON a.details->>'transaction_id' = t.id::text AND a.details->>'points' = t.amount::text
                AND a.subject = t.user_id::text AND a.reason = t.description
                AND a.actor = t.metadata->>'actor'
        WHERE t.id IS NULL OR a.seq IS NULL""",
    ),
    SqlCheck(
        ("A2",),
        "a movement of stock is not the audited one",
        "orders",
        """
        SELECT a.details->>'movement_id' AS movement, a.subject, a.action, a.details->>'delta' AS audited,
            m.delta, m.reason, m.actor
        FROM audit_log a LEFT JOIN stock_movements m ON m.id::text = a.details->>'movement_id'
        WHERE a.action IN ('stock.received', 'stock.corrected')
            AND (m.product_id::text, m.delta::text, 'stock.' || m.reason, m.actor)
                IS DISTINCT FROM (a.subject, a.details->>'delta', a.action, a.actor)""",
    ),
)
