"""Tokens that the identity provider signed with keys that it publishes, over HTTP, and rotates."""

import asyncio
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any
from uuid import uuid4

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from jwt.utils import base64url_encode
from pydantic import ValidationError
from structlog.testing import capture_logs

import gateway.jwks as jwks_module
from gateway.app import create_api, guarded
from gateway.auth import Authenticator
from gateway.backends import Backends
from gateway.jwks import Jwks, KeysUnavailable
from gateway.problems import ProblemError
from gateway.settings import GatewaySettings
from services.chassis.tasks import background

JSON = dict[str, Any]
SettingsWith = Callable[..., GatewaySettings]
USER = str(uuid4())


class Signer:
    """A private key of the provider's."""

    def __init__(self, kid: str, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None = None) -> None:
        self.kid = kid
        self.key = key or ec.generate_private_key(ec.SECP256R1())
        self.algorithm = "RS256" if isinstance(self.key, rsa.RSAPrivateKey) else "ES256"

    def jwk(self, **changes: Any) -> JSON:
        if isinstance(self.key, rsa.RSAPrivateKey):
            published = RSAAlgorithm.to_jwk(self.key.public_key(), as_dict=True)
        else:
            published = ECAlgorithm.to_jwk(self.key.public_key(), as_dict=True)
        named = {**published, "kid": self.kid, "alg": self.algorithm, "use": "sig", "key_ops": ["verify"]}
        return {name: value for name, value in {**named, **changes}.items() if value is not None}

    def token(self, **headers: Any) -> str:
        claims = {"sub": USER, "aud": "authenticated", "exp": int(time.time()) + 60}
        algorithm = headers.pop("algorithm", self.algorithm)
        return jwt.encode(claims, self.key, algorithm=algorithm, headers={"kid": self.kid, **headers})


class Provider:
    """Publishes what it is told to, and counts who asks."""

    def __init__(self) -> None:
        self.body = b""
        self.status = 200
        self.asked = 0
        self.answers = asyncio.Event()
        self.answers.set()
        self.url = ""

    def publish(self, *keys: JSON) -> None:
        self.body = json.dumps({"keys": keys}).encode()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            self.asked += 1
            await self.answers.wait()
            head = (
                f"HTTP/1.1 {self.status} X\r\nConnection: close\r\nContent-Length: {len(self.body)}\r\n\r\n"
            )
            writer.write(head.encode() + self.body)
            await writer.drain()
        writer.close()


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    provider = Provider()
    server = await asyncio.start_server(provider.serve, "127.0.0.1", 0)
    provider.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/auth/v1/.well-known/jwks.json"
    yield provider
    provider.answers.set()
    server.close()


@pytest.fixture(scope="module")
def signer() -> Signer:
    return Signer("first")


async def refusal(authenticator: Authenticator, token: str) -> str:
    with pytest.raises(ProblemError) as refused:
        await authenticator.verify(f"Bearer {token}")
    return refused.value.code


async def user_of(authenticator: Authenticator, token: str) -> str:
    return (await authenticator.verify(f"Bearer {token}")).user_id


@pytest.fixture
async def authenticator(settings_with: SettingsWith, provider: Provider) -> AsyncIterator[Authenticator]:
    """Believes the provider alone."""
    authenticator = Authenticator(settings_with(auth_jwt_secret=None, auth_jwks_url=provider.url))
    async with background(*authenticator.work()):
        yield authenticator


@pytest.mark.parametrize("key", [None, rsa.generate_private_key(65537, 2048)], ids=["ES256", "RS256"])
async def test_a_token_of_the_providers_key_is_good(
    provider: Provider, authenticator: Authenticator, key: rsa.RSAPrivateKey | None
) -> None:
    signer, forger = Signer("mine", key), Signer("mine")
    provider.publish(signer.jwk())
    assert await user_of(authenticator, signer.token()) == USER
    assert await refusal(authenticator, forger.token()) == "invalid_token"


async def test_a_provider_need_not_say_what_is_plain(provider: Provider, signer: Signer) -> None:
    for absent in ("alg", "use", "key_ops"):
        provider.publish(signer.jwk(**{absent: None}))
        assert await Jwks(provider.url).key(signer.kid), absent


async def test_no_token_chooses_how_it_is_checked(
    provider: Provider, authenticator: Authenticator, signer: Signer, settings_with: SettingsWith
) -> None:
    provider.publish(signer.jwk())
    public = signer.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    claims = {"sub": USER, "aud": "authenticated", "exp": int(time.time()) + 60}
    both = Authenticator(settings_with(auth_jwks_url=provider.url))
    # The public key, which everybody knows, taken for a secret.
    forged = _signed_by_hand({"alg": "HS256", "kid": signer.kid}, claims, secret=public)
    unsigned = jwt.encode(claims, "", algorithm="none", headers={"kid": signer.kid})
    other = Signer(signer.kid, rsa.generate_private_key(65537, 2048)).token()
    nameless = jwt.encode(claims, signer.key, algorithm="ES256")
    for token in (forged, unsigned, other, nameless, "x", "e30.e30.e30"):
        assert await refusal(authenticator, token) == "invalid_token", token
        assert await refusal(both, token) == "invalid_token", token


def _signed_by_hand(header: JSON, claims: JSON, *, secret: bytes) -> str:
    """PyJWT makes no such token."""
    signed = b".".join(base64url_encode(json.dumps(part).encode()) for part in (header, claims))
    return (signed + b"." + base64url_encode(hmac.digest(secret, signed, "sha256"))).decode()


async def test_while_the_provider_moves_its_secret_and_its_keys_are_both_good(
    provider: Provider, signer: Signer, settings_with: SettingsWith, make_token: Callable[..., str]
) -> None:
    provider.publish(signer.jwk())
    both = Authenticator(settings_with(auth_jwks_url=provider.url))
    async with background(*both.work()):
        assert await user_of(both, make_token(sub=USER)) == USER
        assert await user_of(both, signer.token()) == USER
    only_keys = Authenticator(settings_with(auth_jwt_secret=None, auth_jwks_url=provider.url))
    async with background(*only_keys.work()):
        assert await refusal(only_keys, make_token(sub=USER)) == "invalid_token"


async def test_a_new_key_is_good_at_once_and_a_withdrawn_one_no_longer(
    provider: Provider, signer: Signer
) -> None:
    jwks, second = Jwks(provider.url, ask_again_seconds=0), Signer("second")
    provider.publish(signer.jwk())
    assert await jwks.key("first")
    provider.publish(signer.jwk(), second.jwk())
    assert await jwks.key("second")
    provider.publish(second.jwk())
    assert await jwks.key("third") is None
    assert await jwks.key("first") is None


async def test_a_storm_of_names_that_nobody_knows_asks_the_provider_once(
    provider: Provider, authenticator: Authenticator, signer: Signer
) -> None:
    provider.publish(signer.jwk())
    assert await user_of(authenticator, signer.token()) == USER
    asked = provider.asked
    storm = [Signer(f"guess {number}", signer.key).token() for number in range(200)]
    assert {await refusal(authenticator, token) for token in storm} == {"invalid_token"}
    assert await user_of(authenticator, signer.token()) == USER
    assert provider.asked == asked == 1


async def test_many_who_wait_for_the_provider_ask_it_once_and_the_rest_comes_again(
    provider: Provider, signer: Signer
) -> None:
    jwks = Jwks(provider.url)
    provider.publish(signer.jwk())
    provider.answers.clear()
    waiting = [asyncio.create_task(jwks.key("first")) for _ in range(100)]
    done, pending = await asyncio.wait(waiting, timeout=0.5)
    assert {type(task.exception()) for task in done} == {KeysUnavailable}
    assert len(pending) == 32
    # One who goes away takes nobody's answer along.
    waiting[0].cancel()
    provider.answers.set()
    found = await asyncio.gather(*waiting[1:], return_exceptions=True)
    assert sum(isinstance(key, jwt.PyJWK) for key in found) == 31
    assert provider.asked == 1


@pytest.mark.parametrize("trouble", ["garbage", "no keys", "too large", "an error", "silence"])
async def test_while_the_provider_is_in_trouble_the_old_keys_are_good(
    provider: Provider, signer: Signer, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks_module, "_FETCH_SECONDS", 0.3)
    jwks = Jwks(provider.url, ask_again_seconds=0)
    provider.publish(signer.jwk())
    assert await jwks.key("first")
    match trouble:
        case "garbage":
            provider.body = b"<html>"
        case "no keys":
            provider.publish()
        case "too large":
            provider.publish(signer.jwk(), {"padding": "x" * 70_000})
        case "an error":
            provider.status = 500
        case "silence":
            provider.answers.clear()
    with capture_logs() as logs:
        for _ in range(2):
            # Whether there is such a key cannot be told now: no reason to send anybody away for good.
            with pytest.raises(KeysUnavailable):
                await jwks.key("second")
        assert await jwks.key("first")
        provider.answers.set()
        provider.status = 200
        provider.publish(Signer("second").jwk())
        assert await jwks.key("second")
    assert [entry["event"] for entry in logs] == ["jwks.away", "jwks.back"]


async def test_old_keys_are_not_good_for_ever(provider: Provider, signer: Signer) -> None:
    jwks = Jwks(provider.url, ask_again_seconds=0, keep_seconds=0.2)
    provider.publish(signer.jwk())
    assert await jwks.key("first")
    provider.status = 500
    with pytest.raises(KeysUnavailable):
        await _until_gone(jwks, "first")


async def _until_gone(jwks: Jwks, kid: str) -> None:
    async with asyncio.timeout(5):
        while await jwks.key(kid):
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    "odd",
    [
        {"use": "enc"},
        {"key_ops": ["encrypt"]},
        {"alg": "HS256"},
        {"alg": "RS256"},
        {"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"},
        {"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA"},
        {"kty": ["EC"]},
        {"crv": "P-384"},
        {"x": None},
        {"x": 7},
        {"x": "AAAA"},
        {"d": "AAAA"},
        {"kid": None},
        {"kid": ""},
        {"kid": 7},
        {"key_ops": 7},
        {"key_ops": None, "use": None, "alg": None, "kty": None},
    ],
    ids=str,
)
async def test_a_key_for_something_else_is_no_key(provider: Provider, signer: Signer, odd: JSON) -> None:
    jwks = Jwks(provider.url)
    provider.publish(signer.jwk(**odd), Signer("good").jwk())
    assert await jwks.key("good")
    assert await jwks.key(str(odd.get("kid", "first"))) is None


async def test_weak_and_private_keys_are_no_keys(provider: Provider) -> None:
    weak = Signer("weak", rsa.generate_private_key(65537, 1024))
    private = ec.generate_private_key(ec.SECP256R1())
    leaked = {**ECAlgorithm.to_jwk(private, as_dict=True), "kid": "private"}
    provider.publish(weak.jwk(), leaked, Signer("good").jwk())
    jwks = Jwks(provider.url)
    assert [await jwks.key(kid) is not None for kid in ("weak", "private", "good")] == [False, False, True]


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[]", b'{"keys": {}}', b'{"keys": null}', b'{"keys": [7, null, [], {}]}', b"[" * 60_000],
    ids=lambda body: repr(body[:20]),
)
async def test_what_is_no_key_set_is_none(provider: Provider, body: bytes) -> None:
    provider.body = body
    with pytest.raises(KeysUnavailable):
        await Jwks(provider.url).key("first")


async def test_redirects_are_not_followed(provider: Provider, signer: Signer) -> None:
    provider.publish(signer.jwk())
    provider.status = 302
    with pytest.raises(KeysUnavailable):
        await Jwks(provider.url).key("first")


async def test_a_gateway_that_starts_while_the_provider_is_away_is_not_ready_and_says_so(
    provider: Provider,
    backends: Backends,
    signer: Signer,
    settings_with: SettingsWith,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(jwks_module, "_RETRY_SECONDS", 0.1)
    provider.publish(signer.jwk())
    provider.status = 503
    settings = settings_with(auth_jwt_secret=None, auth_jwks_url=provider.url)
    api = create_api(settings, backends)
    transport = httpx.ASGITransport(guarded(api, settings))
    signed = {"Authorization": f"Bearer {signer.token()}"}
    async with (
        httpx.AsyncClient(transport=transport, base_url="http://shop.test") as http,
        background(*api.state.authenticator.work()),
    ):
        refused = await http.get("/api/nothing", headers=signed)
        assert refused.status_code == 404, "a route that needs no token"
        refused = await http.get("/api/orders/x", headers=signed)
        assert (refused.status_code, refused.json()["code"]) == (503, "keys_unavailable")
        assert refused.headers["Retry-After"] == "2"
        unready = await http.get("/readyz")
        assert (unready.status_code, unready.json()["unavailable"]) == (503, ["identity provider"])
        assert (await http.get("/healthz")).status_code == 200
        provider.status = 200
        async with asyncio.timeout(10):
            while (await http.get("/api/orders/x", headers=signed)).status_code != 404:
                await asyncio.sleep(0.05)
        assert (await http.get("/readyz")).json()["unavailable"] == ["wallet", "orders", "payments"]


@pytest.mark.parametrize(
    ("url", "is_safe"),
    [
        ("https://x.supabase.co/auth/v1/.well-known/jwks.json", True),
        ("http://127.0.0.1:9/jwks.json", True),
        ("http://x.supabase.co/auth/v1/.well-known/jwks.json", False),
        ("file:///etc/passwd", False),
        ("x.supabase.co", False),
    ],
)
def test_keys_come_by_a_way_that_nobody_can_tamper_with(
    settings_with: SettingsWith, url: str, is_safe: bool
) -> None:
    if is_safe:
        assert settings_with(auth_jwks_url=url).auth_jwks_url == url
        return
    with pytest.raises(ValidationError, match="https"):
        settings_with(auth_jwks_url=url)


def test_without_a_secret_and_without_keys_nothing_starts(settings_with: SettingsWith) -> None:
    with pytest.raises(ValidationError, match="AUTH_JWT_SECRET or AUTH_JWKS_URL"):
        settings_with(auth_jwt_secret=None)
