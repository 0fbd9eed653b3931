"""Composition root: settings → store → app → server. Exits 0 after SIGTERM."""

import asyncio
import sys
from contextlib import aclosing
from urllib.parse import urlsplit

from starlette.applications import Starlette

from deploy.local.own_host import OwnHost
from deploy.local.stripe_sandbox import api, control, control_billing, control_money, overview, payment_page
from deploy.local.stripe_sandbox.sandbox import build
from deploy.local.stripe_sandbox.settings import SandboxSettings
from services.chassis import logs
from services.chassis.http_server import serving
from services.chassis.settings import load
from services.chassis.signals import run_until_signal
from services.chassis.tasks import background
from services.chassis.usage import end_with_usage

_STOP_SECONDS = 1
log = logs.get(__name__)


async def run(settings: SandboxSettings) -> None:
    sandbox = build(settings)
    parts = (api, payment_page, overview, control, control_billing, control_money)
    routes = Starlette(routes=[route for part in parts for route in part.routes(sandbox)])
    app = OwnHost(routes, also=urlsplit(settings.sandbox_public_url).hostname)
    async with (
        aclosing(sandbox),
        background(sandbox.sender.run(), sandbox.expire_sessions()),
        serving(app, settings.sandbox_listen, stop_seconds=_STOP_SECONDS),
    ):
        log.info("sandbox.serving", address=settings.sandbox_listen)
        await run_until_signal()


def main() -> None:
    if sys.argv[1:]:
        end_with_usage("deploy.local.stripe_sandbox")
    settings = load(SandboxSettings)
    logs.configure("stripe_sandbox", settings.log_level)
    asyncio.run(run(settings))


if __name__ == "__main__":
    main()
