"""A real SMTP server inside the test, that can be away, refuse, or hang up instead of answering."""

import asyncio
import email
from email.message import Message
from typing import Literal

from aiosmtpd.smtp import SMTP, Envelope, Session


class SmtpServer:
    """Keeps what it was sent. aiosmtpd calls the `handle_` methods."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.received: list[Message] = []
        # What is said instead of 250: to the sender, to a recipient, and after the text.
        self.answer_to_sender: str | None = None
        self.answers_to: dict[str, str | None] = {}
        self.answer_to_text: str | None = None
        # Recipients of whom it says nothing until `answering_to_recipients` is set again.
        self.slow: set[str] = set()
        self.answering_to_recipients = asyncio.Event()
        self.answering_to_recipients.set()
        # Hangs up after the text, which it has kept or not.
        self.hanging_up: Literal["", "kept", "lost"] = ""
        # Until it is set again, texts are kept and their answers wait.
        self.answering = asyncio.Event()
        self.answering.set()
        self._server: asyncio.Server | None = None
        self._transports: set[asyncio.BaseTransport] = set()

    @property
    def url(self) -> str:
        return f"smtp://127.0.0.1:{self.port}"

    async def start(self) -> None:
        self._server = await asyncio.get_running_loop().create_server(self._protocol, "127.0.0.1", self.port)

    async def stop(self) -> None:
        """Nobody listens any more, and open connections are cut."""
        if self._server is not None:
            self._server.close()
            for transport in self._transports:
                transport.close()
            self._transports.clear()
            await self._server.wait_closed()
            self._server = None

    def ids(self, order_id: str) -> list[str]:
        """The Message-IDs of the mails about an order, one per mail."""
        return [mail["Message-ID"] for mail in self.received if order_id in mail["Message-ID"]]

    def _protocol(self) -> SMTP:
        transports = self._transports

        class Connection(SMTP):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                transports.add(transport)
                super().connection_made(transport)

        return Connection(self, enable_SMTPUTF8=True, loop=asyncio.get_running_loop())

    async def handle_MAIL(
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if self.answer_to_sender is None:
            envelope.mail_from = address
        return self.answer_to_sender or "250 2.1.0 OK"

    async def handle_RCPT(
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if address in self.slow:
            await self.answering_to_recipients.wait()
        answer = self.answers_to.get(address)
        if answer is None:
            envelope.rcpt_tos.append(address)
        return answer or "250 2.1.5 OK"

    async def handle_DATA(self, server: SMTP, _session: Session, envelope: Envelope) -> str:
        if self.answer_to_text is not None:
            return self.answer_to_text
        assert isinstance(envelope.content, bytes)
        if self.hanging_up != "lost":
            self.received.append(email.message_from_bytes(envelope.content))
        await self.answering.wait()
        if self.hanging_up:
            assert isinstance(server.transport, asyncio.WriteTransport)
            server.transport.abort()
        return "250 kept"
