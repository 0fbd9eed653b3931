"""One kept SMTP connection, a mail at a time in two halves: all up to the server's word that the text may
come (354), of which nothing remains when the connection breaks, and then the text. Between the two, whoever
sends makes sure that the mail is his (mail.py).
"""

import re
from collections.abc import Mapping
from enum import Enum, auto

import aiosmtplib
from aiosmtplib.errors import (
    SMTPDataError,
    SMTPNotSupported,
    SMTPRecipientRefused,
    SMTPResponseException,
    SMTPSenderRefused,
    SMTPServerDisconnected,
)
from aiosmtplib.typing import SMTPStatus

from services.chassis.server_url import server_url

_COMMAND_SECONDS = 10.0
# RFC 5321 (4.5.3.2.6) asks for patience after the text: a server that took it may answer late.
_ANSWER_SECONDS = 60.0
# RFC 3463: class, subject, detail. What stands behind it may hold the address.
_ENHANCED_CODE = re.compile(r"[245]\.[0-9]{1,3}\.[0-9]{1,3}\b")
_ABOUT_A_MAIL: Mapping[type[Exception], str] = {
    SMTPSenderRefused: "MAIL",
    SMTPRecipientRefused: "RCPT",
    SMTPDataError: "DATA",
}


class Refusal(Enum):
    """What a mail that was not sent may hope for."""

    # 5xx about this mail: it is not going to be taken.
    FINAL = auto()
    # 4xx about this mail: a full mailbox, greylisting, too many at once.
    LATER = auto()
    # Nothing was said about this mail: the server is away, or does not let us in.
    AWAY = auto()


class RefusedError(Exception):
    """The mail was not sent. `str()` is the reason, without what anybody typed."""

    def __init__(self, refusal: Refusal, reason: str) -> None:
        super().__init__(reason)
        self.refusal = refusal


class UnansweredError(Exception):
    """The text went out, or a part of it, and nobody said what became of it."""


class SmtpConnection:
    """To the server of `smtp://` or `smtps://[user:password@]host:port`; opened when it is needed. After an
    error it is closed, and with it the server's half of what was begun."""

    def __init__(self, url: str) -> None:
        address = server_url(url)
        [host] = address.hosts
        self._smtp = aiosmtplib.SMTP(
            hostname=host.name,
            port=host.port,
            username=address.user,
            password=address.password,
            use_tls=address.scheme == "smtps",
            timeout=_COMMAND_SECONDS,
        )

    async def begin(self, *, sender: str, to: str) -> None:
        """Says the envelope, and asks for the text's turn. The envelope is said here and not read out of the
        headers, where an address could be taken for several. Raises RefusedError."""
        encoding, options = ("ascii", []) if to.isascii() else ("utf-8", ["SMTPUTF8"])
        try:
            if not self._smtp.is_connected:
                await self._smtp.connect()
            if options and not self._smtp.supports_extension("smtputf8"):
                raise SMTPNotSupported("SMTPUTF8")
            await self._smtp.mail(sender, options=options, encoding=encoding)
            await self._smtp.rcpt(to, encoding=encoding)
            answer = await self._smtp.execute_command(b"DATA")
            if answer.code != SMTPStatus.start_input:
                raise SMTPDataError(answer.code, answer.message)
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            self.close()
            raise _refused(error) from error

    async def finish(self, content: bytes) -> None:
        """Sends the text, whose lines end in CRLF; returns when the server has taken it. Raises RefusedError,
        UnansweredError."""
        # RFC 5321 (4.5.2): a line that is a dot alone would be the end.
        stuffed = content.replace(b"\r\n.", b"\r\n..")
        try:
            if self._smtp.protocol is None:
                raise SMTPServerDisconnected("Connection lost")
            self._smtp.protocol.write(stuffed + b".\r\n")
            # With nothing in between: it drops an answer that nobody waits for.
            answer = await self._smtp.protocol.read_response(timeout=_ANSWER_SECONDS)
            if answer.code != SMTPStatus.completed:
                raise SMTPDataError(answer.code, answer.message)
        except (aiosmtplib.SMTPException, OSError) as error:
            self.close()
            if isinstance(error, SMTPDataError) and 400 <= error.code < 600:
                raise _refused(error) from error
            raise UnansweredError(type(error).__name__) from error

    def close(self) -> None:
        self._smtp.close()


def _refused(error: Exception) -> RefusedError:
    command = _ABOUT_A_MAIL.get(type(error))
    if command is not None and isinstance(error, SMTPResponseException):
        enhanced = _ENHANCED_CODE.match(error.message)
        reason = " ".join(filter(None, (str(error.code), enhanced and enhanced[0], f"to {command}")))
        return RefusedError(Refusal.FINAL if 500 <= error.code < 600 else Refusal.LATER, reason)
    if isinstance(error, SMTPNotSupported):
        return RefusedError(Refusal.FINAL, "the mail server knows no addresses beyond ASCII")
    if isinstance(error, ValueError):
        return RefusedError(Refusal.LATER, type(error).__name__)
    return RefusedError(Refusal.AWAY, type(error).__name__)
