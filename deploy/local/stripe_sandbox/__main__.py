"""Composition root: `python -m deploy.local.stripe_sandbox`."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from deploy.local.stripe_sandbox.api import Api
from deploy.local.stripe_sandbox.control import Control
from deploy.local.stripe_sandbox.faults import Faults
from deploy.local.stripe_sandbox.pages import Pages
from deploy.local.stripe_sandbox.settings import SandboxSettings
from deploy.local.stripe_sandbox.store import Store
from deploy.local.stripe_sandbox.till import Till
from deploy.local.stripe_sandbox.webhooks import Webhooks

_EXPIRY_TICK_SECONDS = 1.0


def application(settings: SandboxSettings) -> Starlette:
    store = Store(settings.sandbox_data)
    webhooks = Webhooks(
        store, url=settings.sandbox_webhook_url, secret=settings.stripe_webhook_secret.get_secret_value()
    )
    till = Till(store, public_url=settings.sandbox_public_url, announce=webhooks.wake)
    faults = Faults()
    api = Api(store, till, faults, secret_key=settings.stripe_secret_key.get_secret_value())

    async def expire() -> None:
        while True:
            till.expire_due()
            await asyncio.sleep(_EXPIRY_TICK_SECONDS)

    async def healthz(_: Request) -> PlainTextResponse:
        return PlainTextResponse("ok")

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(work) for work in (webhooks.run(), expire())]
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        store.close()

    return Starlette(
        routes=[
            *api.routes(),
            *Pages(store, till).routes(),
            *Control(store, till, webhooks, faults).routes(),
            Route("/healthz", healthz),
        ],
        lifespan=lifespan,
    )


def main() -> None:
    settings = SandboxSettings()
    host, _, port = settings.sandbox_listen.rpartition(":")
    uvicorn.run(
        application(settings),
        host=host,
        port=int(port),
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=1,
    )


if __name__ == "__main__":
    main()
