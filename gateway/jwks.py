"""The identity provider's public keys: fetched ahead, replaced while it rotates them, kept while it is away.

A request waits for the provider only when its token names a key that is not known, and such tokens make us
ask once in ten seconds at most, however many of them come. Everything else happens in the background. What
the provider says must be a document with keys that we can use: anything else, or no answer, leaves the old
keys in force, for a day.

Only public RSA (RS256) and P-256 (ES256) keys that are meant for signatures are taken; each is bound to its
one algorithm, so that no token chooses how it is checked.
"""

import asyncio
import json
import time
from collections.abc import Mapping
from typing import Any

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from services.chassis import logs
from services.chassis.tasks import going_on

log = logs.get(__name__)

_REFRESH_SECONDS = 300.0
_RETRY_SECONDS = 5.0
_ASK_AGAIN_SECONDS = 10.0
_KEEP_SECONDS = 24 * 3600.0
_FETCH_SECONDS = 2.0
_MAX_BYTES = 64 * 1024
_MAX_KEYS = 32
# Who may wait for an answer of the provider; the rest comes again.
_MAX_WAITING = 32
_MIN_RSA_BITS = 2048
_ALGORITHMS = {"RSA": "RS256", "EC": "ES256"}


class KeysUnavailable(Exception):
    """Whether there is such a key cannot be told right now."""


class _NotUsable(Exception):
    """An answer that is no document with keys for us."""


class Jwks:
    """The keys at a URL; `run()` keeps them fresh."""

    def __init__(
        self, url: str, *, ask_again_seconds: float = _ASK_AGAIN_SECONDS, keep_seconds: float = _KEEP_SECONDS
    ) -> None:
        self._url = url
        self._ask_again_seconds = ask_again_seconds
        self._keep_seconds = keep_seconds
        # No proxy of the environment, no redirects: the keys come from where we were told.
        self._http = httpx.AsyncClient(trust_env=False, timeout=_FETCH_SECONDS)
        self._keys: Mapping[str, jwt.PyJWK] = {}
        self._fetched_at: float | None = None
        self._asked_at: float | None = None
        self._asking: asyncio.Task[bool] | None = None
        self._waiting = 0
        self._is_away = False

    @property
    def was_fetched(self) -> bool:
        """Whether there has ever been an answer."""
        return self._fetched_at is not None

    async def run(self) -> None:
        try:
            await self._keep_fresh()
        finally:
            await self._http.aclose()

    @going_on(lambda error: isinstance(error, OSError))
    async def _keep_fresh(self) -> None:
        while True:
            has_answered = await self._ask()
            await asyncio.sleep(_REFRESH_SECONDS if has_answered else _RETRY_SECONDS)

    async def key(self, kid: str) -> jwt.PyJWK | None:
        """The key of that name, None when the provider has none; KeysUnavailable when that is not known."""
        if self._is_fresh and (key := self._keys.get(kid)):
            return key
        if self._asking or self._may_ask:
            await self._wait_for_answer()
        if not self._is_fresh or (self._is_away and kid not in self._keys):
            raise KeysUnavailable
        return self._keys.get(kid)

    @property
    def _is_fresh(self) -> bool:
        return self._fetched_at is not None and time.monotonic() - self._fetched_at < self._keep_seconds

    @property
    def _may_ask(self) -> bool:
        return self._asked_at is None or time.monotonic() - self._asked_at >= self._ask_again_seconds

    async def _wait_for_answer(self) -> None:
        if self._waiting >= _MAX_WAITING:
            raise KeysUnavailable
        self._waiting += 1
        try:
            await self._ask()
        finally:
            self._waiting -= 1

    async def _ask(self) -> bool:
        """Asks the provider, once for all who want to know; whether it has answered."""
        if self._asking is None:
            self._asking = asyncio.create_task(self._fetch())
        # Whoever goes away leaves the others their answer.
        return await asyncio.shield(self._asking)

    async def _fetch(self) -> bool:
        self._asked_at = time.monotonic()
        try:
            async with asyncio.timeout(_FETCH_SECONDS):
                self._keys = _usable_keys(await self._document())
        except (httpx.HTTPError, OSError, TimeoutError, _NotUsable) as error:
            if not self._is_away:
                log.warning("jwks.away", error=repr(error), keys=len(self._keys))
            self._is_away = True
        else:
            self._fetched_at = time.monotonic()
            if self._is_away:
                log.info("jwks.back", keys=len(self._keys))
            self._is_away = False
        finally:
            self._asking = None
        return not self._is_away

    async def _document(self) -> bytes:
        body = bytearray()
        async with self._http.stream("GET", self._url) as answer:
            if answer.status_code != 200:
                raise _NotUsable(f"status {answer.status_code}")
            async for chunk in answer.aiter_bytes():
                body += chunk
                if len(body) > _MAX_BYTES:
                    raise _NotUsable("too large")
        return bytes(body)


def _usable_keys(document: bytes) -> dict[str, jwt.PyJWK]:
    """The keys of a document by name; _NotUsable when there is none for us."""
    try:
        listed = json.loads(document)["keys"]
    except (ValueError, RecursionError, TypeError, KeyError) as error:
        raise _NotUsable("no key set") from error
    if not isinstance(listed, list) or len(listed) > _MAX_KEYS:
        raise _NotUsable("no list of keys")
    keys = {key.key_id: key for key in map(_usable_key, reversed(listed)) if key and key.key_id}
    if not keys:
        raise _NotUsable("no usable key")
    return keys


def _usable_key(listed: Any) -> jwt.PyJWK | None:
    """None for a key of another kind or purpose, for one that is too weak, and for what is no key."""
    if not isinstance(listed, dict) or not isinstance(listed.get("kid"), str):
        return None
    algorithm = _ALGORITHMS.get(str(listed.get("kty")))
    # Some providers leave these out.
    meant_for = (listed.get("alg", algorithm), listed.get("use", "sig"))
    if algorithm is None or meant_for != (algorithm, "sig"):
        return None
    try:
        if "verify" not in listed.get("key_ops", ["verify"]):
            return None
        key = jwt.PyJWK(listed, algorithm=algorithm)
    except (jwt.PyJWTError, ValueError, TypeError):
        return None
    return key if _is_strong(key.key) else None


def _is_strong(key: object) -> bool:
    """A private key has no business in public."""
    if isinstance(key, RSAPublicKey):
        return key.key_size >= _MIN_RSA_BITS
    return isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1)
