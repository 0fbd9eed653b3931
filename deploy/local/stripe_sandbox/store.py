"""The state of the sandbox: one SQLite file that survives a SIGKILL.

Every access is a synchronous call on the event loop: at a test's pace one write takes some 50 µs, and
that nothing runs between a read and its write is what makes two pays of one session one payment.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

Object = dict[str, Any]
Condition = tuple[str, Any]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS objects (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    created INTEGER NOT NULL,
    body TEXT NOT NULL,
    hidden TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS idx_objects_kind ON objects (kind, seq);
CREATE INDEX IF NOT EXISTS idx_objects_intent ON objects (json_extract(body, '$.payment_intent'), kind);
CREATE INDEX IF NOT EXISTS idx_objects_paid_by ON objects (json_extract(body, '$.payment.payment_intent'))
    WHERE kind = 'invoice_payment';
CREATE INDEX IF NOT EXISTS idx_objects_invoice ON objects (json_extract(body, '$.invoice'), kind);
CREATE INDEX IF NOT EXISTS idx_objects_retried
    ON objects (json_extract(body, '$.parent.subscription_details.subscription'))
    WHERE kind = 'invoice' AND json_extract(body, '$.next_payment_attempt') IS NOT NULL;
CREATE INDEX IF NOT EXISTS idx_objects_told_of ON objects (json_extract(body, '$.data.object.id'))
    WHERE kind = 'event';
CREATE INDEX IF NOT EXISTS idx_objects_told_of_payment
    ON objects (json_extract(body, '$.data.object.payment_intent')) WHERE kind = 'event';
CREATE INDEX IF NOT EXISTS idx_objects_open ON objects (json_extract(body, '$.expires_at'))
    WHERE kind = 'checkout.session' AND json_extract(body, '$.status') = 'open';
CREATE TABLE IF NOT EXISTS deliveries (
    event_id TEXT PRIMARY KEY,
    state TEXT NOT NULL CHECK (state IN ('pending', 'held', 'dropped', 'delivered')),
    attempts INTEGER NOT NULL DEFAULT 0,
    due_at REAL NOT NULL,
    copies INTEGER NOT NULL DEFAULT 1
);
CREATE INDEX IF NOT EXISTS idx_deliveries_due ON deliveries (due_at) WHERE state = 'pending';
CREATE TABLE IF NOT EXISTS idempotency_keys (
    key TEXT PRIMARY KEY,
    call TEXT NOT NULL,
    status INTEGER NOT NULL,
    body TEXT NOT NULL,
    created INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS switches (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class Stored:
    """An object as callers see it, and what Stripe knows of it but does not show."""

    body: Object
    hidden: Object


@dataclass(frozen=True, slots=True)
class Page:
    """A window on a listing, newest first. The cursors are sequence numbers of objects."""

    limit: int
    after: int | None = None
    before: int | None = None
    conditions: Sequence[Condition] = field(default_factory=tuple)


class Store:
    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(folder / "stripe.sqlite3", isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        # A killed process loses nothing; power lost may take the last commits, which a sandbox can bear.
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.executescript(_SCHEMA)
        self._add_what_is_new()

    def _add_what_is_new(self) -> None:
        """A file of an earlier release goes on."""
        if "copies" not in {row[1] for row in self._db.execute("PRAGMA table_info(deliveries)")}:
            self._db.execute("ALTER TABLE deliveries ADD COLUMN copies INTEGER NOT NULL DEFAULT 1")

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Opened at the edges only: a call, a press of a button, a tick."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        return self._db.execute(sql, values)

    def add(self, body: Object, hidden: Object | None = None) -> None:
        self.execute(
            "INSERT INTO objects (id, kind, created, body, hidden) VALUES (?, ?, ?, ?, ?)",
            *(body["id"], body["object"], body["created"], _text(body), _text(hidden or {})),
        )

    def update(self, body: Object) -> None:
        self.execute("UPDATE objects SET body = ? WHERE id = ?", _text(body), body["id"])

    def delete(self, object_id: str) -> int:
        """How many there were: 0 or 1."""
        return self.execute("DELETE FROM objects WHERE id = ?", object_id).rowcount

    def find(self, kind: str, object_id: str) -> Stored | None:
        row = self.execute(
            "SELECT body, hidden FROM objects WHERE id = ? AND kind = ?", object_id, kind
        ).fetchone()
        return Stored(orjson.loads(row[0]), orjson.loads(row[1])) if row else None

    def find_any(self, object_id: str) -> Object | None:
        row = self.execute("SELECT body FROM objects WHERE id = ?", object_id).fetchone()
        return dict(orjson.loads(row[0])) if row else None

    def position(self, kind: str, object_id: str) -> int | None:
        row = self.execute("SELECT seq FROM objects WHERE id = ? AND kind = ?", object_id, kind).fetchone()
        return int(row[0]) if row else None

    def page(self, kind: str, page: Page) -> tuple[list[Object], bool]:
        """The objects of a page, and whether more lie beyond it in the direction of travel."""
        conditions: list[Condition] = [("kind = ?", kind), *page.conditions]
        if page.after is not None:
            conditions.append(("seq < ?", page.after))
        if page.before is not None:
            conditions.append(("seq > ?", page.before))
        where = " AND ".join(condition for condition, _ in conditions)
        direction = "DESC" if page.before is None else "ASC"
        values = [value for _, value in conditions]
        rows = self.execute(
            f"SELECT body FROM objects WHERE {where} ORDER BY seq {direction} LIMIT ?",
            *(*values, page.limit + 1),
        ).fetchall()
        found = [orjson.loads(row[0]) for row in rows[: page.limit]]
        return (found if page.before is None else found[::-1]), len(rows) > page.limit

    def count(self, kind: str) -> int:
        return int(self.execute("SELECT count(*) FROM objects WHERE kind = ?", kind).fetchone()[0])

    def switch(self, name: str, default: str) -> str:
        row = self.execute("SELECT value FROM switches WHERE name = ?", name).fetchone()
        return str(row[0]) if row else default

    def set_switch(self, name: str, value: str) -> None:
        self.execute("INSERT OR REPLACE INTO switches VALUES (?, ?)", name, value)


def _text(body: Object) -> str:
    """SQLite's JSON functions read text."""
    return orjson.dumps(body).decode()
