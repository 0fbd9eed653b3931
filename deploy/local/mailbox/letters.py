"""Reading a mail for people. Whatever a sender wrote, it reads as something."""

import email
from dataclasses import dataclass
from datetime import UTC, datetime
from email.errors import MessageError
from email.message import EmailMessage
from email.policy import default
from email.utils import parsedate_to_datetime

from deploy.local.mailbox.store import Mail

# What Python's parser raises on headers and parts that break the rules.
_UNREADABLE = (AttributeError, IndexError, LookupError, MessageError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class Letter:
    """`to` are the envelope's addresses; `date` is the sender's, in ISO 8601 where it can be read."""

    id: str
    sender: str
    to: list[str]
    subject: str
    message_id: str
    date: str
    text: str
    html: str | None
    received_at: datetime


def read(mail: Mail) -> Letter:
    message = email.message_from_bytes(mail.content, policy=default)
    assert isinstance(message, EmailMessage), "the default policy makes EmailMessages"
    return Letter(
        id=str(mail.id),
        sender=_header(message, "From") or mail.sender,
        to=mail.recipients,
        subject=_header(message, "Subject"),
        message_id=_header(message, "Message-ID"),
        date=_date(_header(message, "Date")),
        text=_part(message, "plain") or "",
        html=_part(message, "html"),
        received_at=mail.received_at,
    )


def _header(message: EmailMessage, name: str) -> str:
    try:
        return _sayable(str(message.get(name, ""))).strip()
    except _UNREADABLE:
        return ""


def _date(text: str) -> str:
    try:
        return parsedate_to_datetime(text).astimezone(UTC).isoformat()
    except _UNREADABLE:
        return text


def _part(message: EmailMessage, kind: str) -> str | None:
    try:
        part = message.get_body((kind,))
    except _UNREADABLE:
        return None
    if part is None:
        return None
    try:
        return _sayable(str(part.get_content()))
    except _UNREADABLE:
        payload = part.get_payload(decode=True)
        return payload.decode("utf-8", "replace") if isinstance(payload, bytes) else ""


def _sayable(text: str) -> str:
    """Undecodable bytes come as lone surrogates, which no JSON and no page can carry."""
    return text.encode("utf-8", "replace").decode("utf-8")
