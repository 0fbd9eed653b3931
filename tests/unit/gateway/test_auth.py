"""Who is let in, and what the others hear."""

import base64
import json
import time
from collections.abc import Callable
from uuid import uuid4

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.auth import Authenticator, Customer
from gateway.problems import ProblemError
from gateway.settings import GatewaySettings

USER = "018f0c3e-0000-7000-8000-00000000abcd"

TokenMaker = Callable[..., str]


async def refusal(settings: GatewaySettings, authorization: str | None) -> ProblemError:
    with pytest.raises(ProblemError) as refused:
        await Authenticator(settings).verify(authorization)
    return refused.value


async def test_a_valid_token_names_the_customer(settings: GatewaySettings, make_token: TokenMaker) -> None:
    exp = int(time.time()) + 60
    token = make_token(sub=USER.upper(), email="ada@example.com", exp=exp, role="authenticated")
    ada = Customer(USER, "ada@example.com", expires_at=exp)
    assert await Authenticator(settings).verify(f"Bearer {token}") == ada
    assert await Authenticator(settings).verify(f"bearer  {token} ") == ada


async def test_app_metadata_makes_an_operator(settings: GatewaySettings, make_token: TokenMaker) -> None:
    token = make_token(sub=USER, app_metadata={"role": "operator", "provider": "email"})
    operator = await Authenticator(settings).verify(f"Bearer {token}")
    assert (operator.user_id, operator.is_operator) == (USER, True)


@pytest.mark.parametrize("role", ["anon", "service_role", "supabase_admin"])
async def test_the_projects_own_keys_are_nobody_also_with_a_subject(
    settings: GatewaySettings, make_token: TokenMaker, role: str
) -> None:
    for claims in ({}, {"app_metadata": {"role": "operator"}}):
        token = make_token(role=role, **claims)
        assert (await refusal(settings, f"Bearer {token}")).code == "invalid_token"


async def test_a_token_beyond_8_kib_is_refused_before_it_is_decoded(
    settings: GatewaySettings, make_token: TokenMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    authenticator = Authenticator(settings)
    token = f"Bearer {make_token(note='x' * 8_000)}"
    assert len(token) > 8 * 1024
    with monkeypatch.context() as patched:
        patched.setattr(authenticator, "_key", None)
        with pytest.raises(ProblemError) as refused:
            await authenticator.verify(token)
    assert refused.value.code == "invalid_token"
    assert await authenticator.verify(f"Bearer {make_token(note='x' * 5_000)}")


@pytest.mark.parametrize(
    ("demands", "claims", "code"),
    [
        ({"auth_email_verified": True}, {}, "email_not_verified"),
        ({"auth_email_verified": True}, {"email_verified": "true"}, "email_not_verified"),
        # The customer's own to write.
        ({"auth_email_verified": True}, {"user_metadata": {"email_verified": True}}, "email_not_verified"),
        ({"auth_email_verified": True}, {"email_verified": True}, None),
        ({"auth_aal": "aal2"}, {}, "second_factor_required"),
        ({"auth_aal": "aal2"}, {"aal": "aal1"}, "second_factor_required"),
        ({"auth_aal": "aal2"}, {"aal": ["aal2"]}, "second_factor_required"),
        ({"auth_aal": "aal2"}, {"aal": "aal2"}, None),
        ({"auth_operator_aal": "aal2"}, {"aal": "aal1"}, None),
        ({"auth_operator_aal": "aal2"}, {"app_metadata": {"role": "operator"}}, "second_factor_required"),
        ({"auth_operator_aal": "aal2"}, {"aal": "aal2", "app_metadata": {"role": "operator"}}, None),
    ],
    ids=str,
)
async def test_a_shop_may_demand_a_better_sign_in(
    settings_with: Callable[..., GatewaySettings],
    make_token: TokenMaker,
    demands: dict[str, object],
    claims: dict[str, object],
    code: str | None,
) -> None:
    authorization = f"Bearer {make_token(**claims)}"
    if code:
        assert (await refusal(settings_with(**demands), authorization)).code == code
    else:
        assert await Authenticator(settings_with(**demands)).verify(authorization)


@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"role": "operator"},
        {"user_metadata": {"role": "operator"}},
        {"user_metadata": {"app_metadata": {"role": "operator"}}},
        {"user_role": "operator", "is_operator": True, "operator": True},
        {"app_metadata": "operator"},
        {"app_metadata": ["operator"]},
        {"app_metadata": [["role", "operator"]]},
        {"app_metadata": {"roles": ["operator"]}},
        *(
            {"app_metadata": {"role": role}}
            for role in (
                "Operator",
                " operator",
                "operator\0",
                "admin",
                "",
                ["operator"],
                {"operator": 1},
                1,
                True,
            )
        ),
    ],
    ids=str,
)
async def test_nothing_else_makes_an_operator(
    settings: GatewaySettings, make_token: TokenMaker, claims: dict[str, object]
) -> None:
    assert not (await Authenticator(settings).verify(f"Bearer {make_token(**claims)}")).is_operator


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Bearer ", "Basic YTpi", "Token x"])
async def test_without_a_bearer_token_it_is_missing(
    settings: GatewaySettings, authorization: str | None
) -> None:
    error = await refusal(settings, authorization)
    assert (error.code, error.headers) == ("missing_token", {"WWW-Authenticate": "Bearer"})


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "anon"},
        {"aud": None},
        {"sub": None},
        {"sub": "not-a-uuid"},
        {"exp": None},
        {"exp": "soon"},
        {"exp": float("inf")},
        {"nbf": 4_000_000_000},
        {"iat": 4_000_000_000},
        {"secret": "another secret, which is not that of the shop but has its length"},
        {"algorithm": "HS384"},
        {"algorithm": "none", "secret": ""},
    ],
    ids=str,
)
async def test_a_token_that_is_not_ours_is_refused(
    settings: GatewaySettings, make_token: TokenMaker, claims: dict[str, object]
) -> None:
    error = await refusal(settings, f"Bearer {make_token(**claims)}")
    assert (error.code, error.headers) == (
        "invalid_token",
        {"WWW-Authenticate": 'Bearer error="invalid_token"'},
    )


async def test_an_expired_token_says_so_and_two_seconds_are_forgiven(
    settings: GatewaySettings, make_token: TokenMaker
) -> None:
    now = int(time.time())
    assert (await refusal(settings, f"Bearer {make_token(exp=now - 4)}")).code == "token_expired"
    assert await Authenticator(settings).verify(f"Bearer {make_token(sub=USER, exp=now)}")


async def test_the_issuer_counts_when_it_is_configured(
    settings_with: Callable[..., GatewaySettings], make_token: TokenMaker
) -> None:
    settings = settings_with(auth_issuer="https://id.example/auth/v1")
    for claims in ({}, {"iss": "https://evil.example"}):
        assert (await refusal(settings, f"Bearer {make_token(**claims)}")).code == "invalid_token"
    token = make_token(sub=USER, iss="https://id.example/auth/v1")
    assert (await Authenticator(settings).verify(f"Bearer {token}")).user_id == USER


@pytest.mark.parametrize("email", [None, 7, "no-mailbox", "a@" + "x" * 400, "a@b\r\nBcc: c@d", ["a@b"]])
async def test_an_unusable_email_is_left_out(
    settings: GatewaySettings, make_token: TokenMaker, email: object
) -> None:
    assert (await Authenticator(settings).verify(f"Bearer {make_token(email=email)}")).email == ""


def segment(value: object) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


@pytest.mark.parametrize(
    "header",
    [
        b"[" * 30_000,
        b"{" + b'"a":{' * 20_000,
        {"alg": ["HS256"]},
        {"alg": "HS256", "crit": ["b64"], "b64": False},
        {"alg": "HS256", "kid": 7},
        [],
        None,
        b"\xff",
    ],
    ids=lambda header: str(header)[:30],
)
async def test_a_hostile_header_is_a_401_and_never_a_500(settings: GatewaySettings, header: object) -> None:
    token = f"{segment(header)}.{segment({'sub': str(uuid4())})}.{segment(b'x' * 32)}"
    assert (await refusal(settings, f"Bearer {token}")).code == "invalid_token"


@given(st.text(min_size=1).filter(lambda text: text.strip()) | st.binary(min_size=1).map(segment))
async def test_garbage_is_a_401_and_never_a_500(garbage: str) -> None:
    settings = GatewaySettings(
        listen="x:1",
        wallet_target="x",
        orders_target="x",
        payments_target="x",
        auth_jwt_secret="unit-test-secret-of-32-characters",
    )
    assert (await refusal(settings, f"Bearer {garbage}")).code in ("invalid_token", "missing_token")
    assert (await refusal(settings, f"Bearer {garbage}.{garbage}.{garbage}")).code == "invalid_token"


def test_a_short_secret_is_refused_at_start(settings_with: Callable[..., GatewaySettings]) -> None:
    with pytest.raises(ValidationError, match="at least 32 bytes"):
        settings_with(auth_jwt_secret="x" * 31)


async def test_a_stranger_hears_401_before_anything_is_said_of_body_or_id(client: httpx.AsyncClient) -> None:
    for content in (b"{", b"x" * 100_000, b""):
        answer = await client.post("/api/checkout", content=content)
        assert (answer.status_code, answer.json()["code"]) == (401, "missing_token")
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    for path in ("/api/orders/nonsense", "/api/orders?limit=0"):
        assert (await client.get(path)).status_code == 401


@pytest.mark.parametrize("path", ["/api/products", "/api/points/packages"])
async def test_the_catalogue_needs_no_token(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path)).json()["code"] == "service_unavailable"
