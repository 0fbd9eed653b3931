"""Mails as they came, in one SQLite file that survives a SIGKILL."""

import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

_SCHEMA = """
CREATE TABLE IF NOT EXISTS mails (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    sender TEXT NOT NULL,
    received_at REAL NOT NULL,
    content BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS recipients (
    mail_id INTEGER NOT NULL REFERENCES mails (id) ON DELETE CASCADE,
    address TEXT NOT NULL COLLATE NOCASE
);
CREATE INDEX IF NOT EXISTS idx_recipients_mail ON recipients (mail_id);
CREATE INDEX IF NOT EXISTS idx_recipients_address ON recipients (address);
"""


@dataclass(frozen=True, slots=True)
class Mail:
    """`sender` and `recipients` are the envelope's, `content` is the message with its headers."""

    id: int
    sender: str
    recipients: list[str]
    received_at: datetime
    content: bytes


class Store:
    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(folder / "mailbox.sqlite3", isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        # A killed process loses nothing; power lost may take the last mails, which this mailbox can bear.
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute("PRAGMA foreign_keys = ON")
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        self._db.close()

    def keep(self, *, sender: str, recipients: list[str], content: bytes, now: datetime) -> int:
        """Committed when this returns; the sender hears 250 only afterwards."""
        self._db.execute("BEGIN IMMEDIATE")
        # Leaving the block commits, an error rolls back.
        with self._db:
            mail_id = self._db.execute(
                "INSERT INTO mails (sender, received_at, content) VALUES (?, ?, ?)",
                (sender, now.timestamp(), content),
            ).lastrowid
            assert mail_id is not None
            self._db.executemany(
                "INSERT INTO recipients VALUES (?, ?)", [(mail_id, address) for address in recipients]
            )
        return mail_id

    def latest(self, *, to: str | None, limit: int) -> list[Mail]:
        """The last `limit` mails, the newest at the end; those of one envelope address, in any case."""
        wanted = "WHERE id IN (SELECT mail_id FROM recipients WHERE address = ?)" if to is not None else ""
        rows = self._db.execute(
            f"SELECT id, sender, received_at, content FROM mails {wanted} ORDER BY id DESC LIMIT ?",
            (*(() if to is None else (to,)), limit),
        ).fetchall()
        return [self._mail(row) for row in reversed(rows)]

    def find(self, mail_id: int) -> Mail | None:
        row = self._db.execute(
            "SELECT id, sender, received_at, content FROM mails WHERE id = ?", (mail_id,)
        ).fetchone()
        return self._mail(row) if row else None

    def clear(self) -> None:
        self._db.execute("DELETE FROM mails")

    def _mail(self, row: tuple[int, str, float, bytes]) -> Mail:
        mail_id, sender, received_at, content = row
        recipients = self._db.execute(
            "SELECT address FROM recipients WHERE mail_id = ? ORDER BY rowid", (mail_id,)
        ).fetchall()
        received = datetime.fromtimestamp(received_at, UTC)
        return Mail(mail_id, sender, [address for (address,) in recipients], received, content)
