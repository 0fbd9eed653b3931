"""Composition root: settings → store → SMTP and web. Exits 0 after SIGTERM."""

import asyncio
import sys
from contextlib import closing

from deploy.local.mailbox.faults import Faults
from deploy.local.mailbox.settings import MailboxSettings
from deploy.local.mailbox.smtp import Receiver, receiving
from deploy.local.mailbox.store import Store
from deploy.local.mailbox.web import application
from deploy.local.own_host import OwnHost
from services.chassis import logs
from services.chassis.http_server import serving
from services.chassis.settings import load
from services.chassis.signals import run_until_signal
from services.chassis.usage import end_with_usage

_STOP_SECONDS = 1
log = logs.get(__name__)


async def run(settings: MailboxSettings) -> None:
    faults = Faults()
    with closing(Store(settings.mailbox_data)) as store:
        async with (
            receiving(Receiver(store, faults), settings.mailbox_smtp_listen),
            serving(
                OwnHost(application(store, faults)), settings.mailbox_web_listen, stop_seconds=_STOP_SECONDS
            ),
        ):
            log.info("mailbox.serving", smtp=settings.mailbox_smtp_listen, web=settings.mailbox_web_listen)
            await run_until_signal()


def main() -> None:
    if sys.argv[1:]:
        end_with_usage("deploy.local.mailbox")
    settings = load(MailboxSettings)
    logs.configure("mailbox", settings.log_level)
    asyncio.run(run(settings))


if __name__ == "__main__":
    main()
