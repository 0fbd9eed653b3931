"""The gateway in this process, with nothing behind it: what it decides by itself."""

import time
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import uuid4

import httpx
import jwt
import pytest
from fastapi import FastAPI

from gateway.app import create_api, guarded
from gateway.backends import Backends, connect
from gateway.settings import GatewaySettings
from tests.support.plain_http import NO_TLS

SECRET = "a secret of the unit tests that is long enough for HS384 as well"
# Nothing listens on port 1.
NOWHERE = "127.0.0.1:1"

TokenMaker = Callable[..., str]


@pytest.fixture
def settings() -> GatewaySettings:
    return make_settings()


def make_settings(**changes: Any) -> GatewaySettings:
    values: dict[str, Any] = {
        "listen": "127.0.0.1:0",
        "wallet_target": NOWHERE,
        "orders_target": NOWHERE,
        "payments_target": NOWHERE,
        "auth_jwt_secret": SECRET,
    }
    return GatewaySettings(**{**values, **changes})


@pytest.fixture
def settings_with() -> Callable[..., GatewaySettings]:
    return make_settings


@pytest.fixture
def make_token() -> TokenMaker:
    """A valid token; claims given as None are left out, others replace the valid ones."""

    def make(secret: str = SECRET, algorithm: str = "HS256", **claims: Any) -> str:
        valid = {"sub": str(uuid4()), "aud": "authenticated", "exp": int(time.time()) + 60}
        merged = {name: value for name, value in {**valid, **claims}.items() if value is not None}
        return jwt.encode(merged, secret, algorithm=algorithm)

    return make


@pytest.fixture
def signed_in(make_token: TokenMaker) -> dict[str, str]:
    return {"Authorization": f"Bearer {make_token()}"}


@pytest.fixture
async def backends(settings: GatewaySettings) -> AsyncIterator[Backends]:
    async with connect(settings) as connected:
        yield connected


@pytest.fixture
def api(settings: GatewaySettings, backends: Backends) -> FastAPI:
    return create_api(settings, backends)


@pytest.fixture
async def client(api: FastAPI, settings: GatewaySettings) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(guarded(api, settings), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://shop.test", verify=NO_TLS) as http:
        yield http
