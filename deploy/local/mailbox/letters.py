"""Mails on disk, one .eml file each, named by a counter so that they sort by arrival."""

import email
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import default
from pathlib import Path

_ENVELOPE = "X-Envelope-To"


@dataclass(frozen=True)
class Letter:
    id: str
    sender: str
    to: list[str]
    subject: str
    message_id: str
    date: str
    text: str
    html: str | None
    received_at: datetime


class Letters:
    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._next = max((int(path.stem) for path in folder.glob("*.eml")), default=0) + 1

    def keep(self, content: bytes, recipients: list[str]) -> None:
        """On disk when this returns; the sender hears 250 only afterwards."""
        path = self._folder / f"{self._next:08d}.eml"
        self._next += 1
        scratch = path.with_suffix(".part")
        with scratch.open("wb") as file:
            file.write(f"{_ENVELOPE}: {', '.join(recipients)}\r\n".encode() + content)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)

    def all(self, *, to: str | None = None) -> list[Letter]:
        """Oldest first; `to` matches an envelope address, in any case."""
        letters = [_read(path) for path in sorted(self._folder.glob("*.eml"))]
        return [letter for letter in letters if to is None or to.lower() in map(str.lower, letter.to)]

    def find(self, id: str) -> Letter | None:
        return next((letter for letter in self.all() if letter.id == id), None)

    def clear(self) -> None:
        for path in self._folder.glob("*.eml"):
            path.unlink()


def _read(path: Path) -> Letter:
    message = email.message_from_bytes(path.read_bytes(), policy=default)
    assert isinstance(message, EmailMessage), "the default policy makes EmailMessages"
    return Letter(
        id=path.stem,
        sender=str(message["From"] or ""),
        to=[address.strip() for address in str(message[_ENVELOPE]).split(",")],
        subject=str(message["Subject"] or ""),
        message_id=str(message["Message-ID"] or ""),
        date=str(message["Date"] or ""),
        text=_part(message, "plain") or "",
        html=_part(message, "html"),
        received_at=datetime.fromtimestamp(path.stat().st_mtime, UTC),
    )


def _part(message: EmailMessage, kind: str) -> str | None:
    part = message.get_body((kind,))
    return None if part is None else str(part.get_content())
