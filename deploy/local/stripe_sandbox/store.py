"""Everything that the sandbox knows, in one SQLite file: objects, answers under idempotency keys, webhooks.

Calls are synchronous and short, and nothing awaits between them: within the one event loop each request's
changes are one step, so that two customers paying one session at once make one payment.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Fields = dict[str, Any]

_SCHEMA = """
    CREATE TABLE IF NOT EXISTS objects (
        id TEXT PRIMARY KEY, kind TEXT NOT NULL, number INTEGER NOT NULL, created INTEGER NOT NULL,
        body TEXT NOT NULL);
    CREATE INDEX IF NOT EXISTS objects_by_kind ON objects (kind, number);
    CREATE TABLE IF NOT EXISTS answers (
        key TEXT PRIMARY KEY, request TEXT NOT NULL, status INTEGER NOT NULL, body TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS deliveries (
        event_id TEXT PRIMARY KEY, attempts INTEGER NOT NULL DEFAULT 0, due REAL NOT NULL)"""


class Store:
    """Objects are Stripe's own JSON. Lists are newest first, as Stripe's are."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(folder / "stripe.sqlite", isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.executescript(_SCHEMA)

    @contextmanager
    def change(self) -> Iterator[None]:
        """All of it or nothing."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def save(self, thing: Fields) -> None:
        self._db.execute(
            "INSERT INTO objects SELECT ?, ?, coalesce(max(number), 0) + 1, ?, ? FROM objects WHERE true"
            " ON CONFLICT (id) DO UPDATE SET body = excluded.body",
            (thing["id"], thing["object"], thing["created"], json.dumps(thing)),
        )

    def find(self, kind: str, id: str) -> Fields | None:
        row = self._db.execute("SELECT body FROM objects WHERE id = ? AND kind = ?", (id, kind)).fetchone()
        return None if row is None else _fields(row[0])

    def all(self, kind: str) -> list[Fields]:
        query = "SELECT body FROM objects WHERE kind = ? ORDER BY number DESC"
        return [_fields(body) for (body,) in self._db.execute(query, (kind,))]

    def count(self, kind: str) -> int:
        row = self._db.execute("SELECT count(*) FROM objects WHERE kind = ?", (kind,)).fetchone()
        return int(row[0])

    def answer(self, key: str) -> tuple[str, int, Fields] | None:
        """What was answered under an idempotency key: (request, status, body)."""
        row = self._db.execute("SELECT request, status, body FROM answers WHERE key = ?", (key,)).fetchone()
        return None if row is None else (row[0], row[1], _fields(row[2]))

    def keep_answer(self, key: str, request: str, status: int, body: Fields) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)", (key, request, status, json.dumps(body))
        )

    def forget_answers(self) -> None:
        """As Stripe does after a day."""
        self._db.execute("DELETE FROM answers")

    def queue(self, event_id: str, due: float) -> None:
        self._db.execute("INSERT INTO deliveries (event_id, due) VALUES (?, ?)", (event_id, due))

    def due(self, now: float) -> list[tuple[str, int]]:
        """(event, attempts so far) of webhooks whose time has come, oldest first."""
        query = "SELECT event_id, attempts FROM deliveries WHERE due <= ? ORDER BY rowid LIMIT 50"
        return list(self._db.execute(query, (now,)))

    def undelivered(self) -> list[str]:
        return [id for (id,) in self._db.execute("SELECT event_id FROM deliveries ORDER BY rowid")]

    def postpone(self, event_id: str, due: float) -> None:
        query = "UPDATE deliveries SET attempts = attempts + 1, due = ? WHERE event_id = ?"
        self._db.execute(query, (due, event_id))

    def make_due(self, due: float) -> None:
        self._db.execute("UPDATE deliveries SET due = ?", (due,))

    def drop_delivery(self, event_id: str) -> None:
        self._db.execute("DELETE FROM deliveries WHERE event_id = ?", (event_id,))

    def close(self) -> None:
        self._db.close()


def _fields(body: str) -> Fields:
    fields: Fields = json.loads(body)
    return fields
