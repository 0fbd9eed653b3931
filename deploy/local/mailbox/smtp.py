"""The SMTP side: any sender, any recipient, up to 1 MiB; 250 once the mail is kept."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from aiosmtpd.smtp import SMTP, Envelope, Session

from deploy.local.mailbox.faults import Faults
from deploy.local.mailbox.store import Store
from services.chassis import logs
from services.chassis.http_server import bound_socket

log = logs.get(__name__)

MAX_MAIL_BYTES = 1 << 20
MAX_RECIPIENTS = 100
_NAME = "mailbox.local"


class Receiver:
    """aiosmtpd's handler: its method names are aiosmtpd's."""

    def __init__(self, store: Store, faults: Faults) -> None:
        self._store = store
        self._faults = faults

    async def handle_RCPT(
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if len(envelope.rcpt_tos) >= MAX_RECIPIENTS:
            return "452 4.5.3 Too many recipients"
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(options)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server: SMTP, _session: Session, envelope: Envelope) -> str:
        fault = self._faults.take()
        if fault and fault.kind == "reject_4xx":
            return "451 4.3.0 Try again later"
        if fault and fault.kind == "reject_5xx":
            return "554 5.7.1 Refused"
        mail_id = self._store.keep(
            sender=envelope.mail_from or "",
            recipients=list(envelope.rcpt_tos),
            content=envelope.original_content or b"",
            now=datetime.now(UTC),
        )
        log.info("mail.kept", mail_id=mail_id)
        if fault and isinstance(server.transport, asyncio.WriteTransport):
            server.transport.abort()
        return f"250 2.0.0 Kept as {mail_id}"


@asynccontextmanager
async def receiving(receiver: Receiver, listen: str) -> AsyncIterator[None]:
    """Takes mail at `host:port`, and nowhere else, until the block ends."""

    def session() -> SMTP:
        # The name is given: looking it up would ask the machine's resolver at each connection.
        return SMTP(
            receiver, data_size_limit=MAX_MAIL_BYTES, enable_SMTPUTF8=True, hostname=_NAME, ident="AI Shop"
        )

    server = await asyncio.get_running_loop().create_server(session, sock=bound_socket(listen))
    try:
        yield
    finally:
        server.close()
