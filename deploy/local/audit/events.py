"""I4 from the other end: events of Stripe that could not be applied. One that nobody has decided about is a
finding; one that an operator set aside is a note, since a red audit for good hides the next finding."""

from collections.abc import Iterator

from deploy.local.audit.snapshot import Check, Finding, Snapshots

_UNDECIDED = """
    SELECT id, type, status, attempts, coalesce(error, '') AS error FROM stripe_events
    WHERE status = 'failed' OR status = 'set_aside' AND acknowledged_at IS NULL
    ORDER BY received_at"""
_DECIDED = """
    SELECT id, type, set_aside_by, set_aside_reason FROM stripe_events
    WHERE status = 'set_aside' AND acknowledged_at IS NOT NULL ORDER BY set_aside_at DESC"""


class UndecidedEvents:
    """Money may have come or gone without an effect."""

    proves = ("I4",)

    def __call__(self, databases: Snapshots) -> Iterator[Finding]:
        for row in databases.rows("payments", _UNDECIDED):
            found = f"{row['type']} {row['status']} after {row['attempts']} tries: {row['error']}"
            yield Finding("I4", "an event of Stripe was not applied", f"event {row['id']}", found)


def notes(databases: Snapshots) -> list[str]:
    """What operators have decided about."""
    return [
        f"event {row['id']} ({row['type']}) was set aside by {row['set_aside_by']}: {row['set_aside_reason']}"
        for row in databases.rows("payments", _DECIDED)
    ]


CHECKS: tuple[Check, ...] = (UndecidedEvents(),)
