"""Composition root: `python -m deploy.local.mailbox`."""

import asyncio

import uvicorn
from aiosmtpd.smtp import SMTP, Envelope, Session

from deploy.local.mailbox.letters import Letters
from deploy.local.mailbox.settings import MailboxSettings
from deploy.local.mailbox.web import application

_MAX_MAIL_BYTES = 1 << 20


class Receiver:
    """aiosmtpd's handler."""

    def __init__(self, letters: Letters) -> None:
        self._letters = letters

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:
        content = envelope.original_content or b""
        self._letters.keep(content, list(envelope.rcpt_tos))
        return "250 kept"


async def serve(settings: MailboxSettings) -> None:
    letters = Letters(settings.mailbox_data)
    host, _, port = settings.mailbox_smtp_listen.rpartition(":")
    loop = asyncio.get_running_loop()
    smtp = await loop.create_server(
        lambda: SMTP(
            Receiver(letters), data_size_limit=_MAX_MAIL_BYTES, enable_SMTPUTF8=True, ident="AI Shop"
        ),
        host,
        int(port),
    )
    host, _, port = settings.mailbox_web_listen.rpartition(":")
    web = uvicorn.Server(
        uvicorn.Config(
            application(letters),
            host=host,
            port=int(port),
            access_log=False,
            log_level="warning",
            timeout_graceful_shutdown=1,
        )
    )
    await web.serve()
    smtp.close()


if __name__ == "__main__":
    asyncio.run(serve(MailboxSettings()))
