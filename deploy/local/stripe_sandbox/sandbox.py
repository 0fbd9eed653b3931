"""The parts of a running sandbox, put together once."""

import asyncio
import time
from dataclasses import dataclass

from deploy.local.stripe_sandbox import checkout
from deploy.local.stripe_sandbox.faults import Faults
from deploy.local.stripe_sandbox.ids import new_id
from deploy.local.stripe_sandbox.settings import SandboxSettings
from deploy.local.stripe_sandbox.store import Store
from deploy.local.stripe_sandbox.webhooks import Sender

_TICK_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Sandbox:
    store: Store
    sender: Sender
    faults: Faults
    # Origin of the payment pages, without a trailing slash.
    public_url: str
    secret_key: str
    account_id: str

    async def expire_sessions(self) -> None:
        """Ends sessions when their time is over, for ever."""
        while True:
            with self.store.transaction():
                ended = checkout.expire_due(self.store, now=int(time.time()))
            if ended:
                self.sender.wake()
            await asyncio.sleep(_TICK_SECONDS)

    async def aclose(self) -> None:
        await self.sender.close()
        self.store.close()


def build(settings: SandboxSettings) -> Sandbox:
    store = Store(settings.sandbox_data)
    secret = settings.stripe_webhook_secret.get_secret_value()
    return Sandbox(
        store=store,
        sender=Sender(store, urls=settings.sandbox_webhook_url.split(","), secret=secret),
        faults=Faults(),
        public_url=settings.sandbox_public_url.rstrip("/"),
        secret_key=settings.stripe_secret_key.get_secret_value(),
        account_id=settings.sandbox_account or _account_of(store),
    )


def _account_of(store: Store) -> str:
    """Other data are another account."""
    account_id = store.switch("account", "") or new_id("acct_", 16)
    store.set_switch("account", account_id)
    return account_id
