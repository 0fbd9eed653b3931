"""Whether the key that we were given is the shop's: asked before anything is served.

The objects of one account are nothing to another: under a wrong key every session, refund and subscription
of the shop is a 404, while customers go on paying the old pages. So the process does not start on another
account than the shop's until an operator adopts it; one that runs when another account is adopted ends by
itself. While Stripe does not answer, a key that was this account's before still is.
"""

import asyncio
import hashlib
import os
import signal

from pydantic import SecretStr

from services.chassis import logs
from services.chassis.db import Database
from services.payments.commands import accounts
from services.payments.commands.accounts import Identity
from services.payments.errors import StripeRefused, StripeUnknown
from services.payments.settings import Settings
from services.payments.stripe_client import CALL_SECONDS, Stripe

log = logs.get(__name__)

CHECK_SECONDS = 5.0
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.1, 5.0
_CANNOT_TELL = (
    "STRIPE_SECRET_KEY: the key may not read its own account, so that nobody can tell whose objects it sees:"
    " give the restricted key the permission to read the account, or set STRIPE_ACCOUNT_ID=acct_... to the id"
    " that the dashboard shows under Settings, Account details"
)
_UNKNOWN_KEY = (
    "STRIPE_SECRET_KEY: Stripe does not know this key: take it from the dashboard, Developers, API keys"
)


class WrongAccount(Exception):
    """What is wrong, and what to do."""


class Accountant:
    """Looks after whose account the process works on."""

    def __init__(self, *, database: Database, stripe: Stripe, settings: Settings) -> None:
        self._database = database
        self._stripe = stripe
        self._livemode = settings.livemode
        self._told = settings.stripe_account_id
        self._key_hash = _hash_of(settings.stripe_secret_key)
        self._identity: Identity | None = None

    async def settle(self) -> None:
        """Returns when the account is the shop's, at the first start by making it so; else WrongAccount."""
        self._identity = identity = await self._ask()
        async with self._database.worker() as connection:
            await accounts.keep_first(connection, identity)
            current = await accounts.find_current(connection)
            assert current is not None, "the first one was kept"
            if current.identity == identity and current.key_hash != self._key_hash:
                await accounts.keep_key(connection, current, self._key_hash)
        if current.identity != identity:
            raise WrongAccount(_another(current.identity, identity))

    async def _ask(self) -> Identity:
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                deadline = asyncio.get_running_loop().time() + CALL_SECONDS
                account_id = await self._stripe.retrieve_account(deadline=deadline)
            except (StripeUnknown, StripeRefused) as error:
                known = self._without_answer(error) or await self._known_by_its_key()
                if known is not None:
                    log.warning("stripe_account.not_asked", account=str(known), error=str(error))
                    return known
                log.warning("stripe_account.unknown", pause_seconds=pause, error=str(error))
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
            else:
                if self._told and self._told != account_id:
                    raise WrongAccount(
                        f"STRIPE_ACCOUNT_ID: the key belongs to {account_id}, not to {self._told}"
                    )
                return Identity(account_id, self._livemode)

    def _without_answer(self, error: StripeUnknown | StripeRefused) -> Identity | None:
        why = error.fields.get("why", "")
        if why == "http_401":
            raise WrongAccount(_UNKNOWN_KEY) from error
        if self._told:
            return Identity(self._told, self._livemode)
        if why == "http_403" or isinstance(error, StripeRefused):
            raise WrongAccount(_CANNOT_TELL) from error
        return None

    async def _known_by_its_key(self) -> Identity | None:
        async with self._database.worker() as connection:
            current = await accounts.find_current(connection)
        return current.identity if current and current.key_hash == self._key_hash else None

    async def check(self) -> bool:
        """Ends the process when another account was adopted meanwhile: what it made now would bear the wrong
        one. Its successor starts with the new key, or says what is wrong."""
        async with self._database.worker() as connection:
            current = await accounts.find_current(connection)
        if current is not None and current.identity != self._identity:
            log.error("stripe_account.another_adopted", account=str(current.identity))
            os.kill(os.getpid(), signal.SIGTERM)
        return False


def _another(shop: Identity, key: Identity) -> str:
    mode = " --live" if key.livemode else ""
    return (
        f"STRIPE_SECRET_KEY: the objects of this shop were made by {shop}, and the key belongs to {key}: open"
        " pages, subscriptions and refunds of the other account would be lost to it. With the old key all"
        f" goes on. If it is meant: aishop stripe adopt-account {key.account_id}{mode} --reason ..."
        " (docs/operate.md)"
    )


def _hash_of(key: SecretStr) -> bytes:
    """Tells whether a key is the same, and nothing else: keys are random."""
    return hashlib.sha256(b"stripe key: " + key.get_secret_value().encode()).digest()
