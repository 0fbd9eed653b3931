"""Who is asking: Supabase-shaped JWTs."""

import math
from collections.abc import Coroutine
from typing import Any, NamedTuple
from uuid import UUID

import jwt
from jwt.utils import base64url_encode
from pydantic import SecretStr

from gateway.jwks import Jwks, KeysUnavailable
from gateway.problems import ProblemError
from gateway.settings import GatewaySettings
from services.chassis.mailbox import mailbox_of

_HMAC = "HS256"
_AUDIENCE = "authenticated"
_LEEWAY_SECONDS = 2
_OPERATOR = "operator"
# Roles of Supabase's that are no person's: its public key, and the one that may do everything.
_NOBODYS_ROLES = frozenset({"anon", "service_role", "supabase_admin"})


class Customer(NamedTuple):
    """The verified caller. `email` is empty when the token bears none that is usable; `expires_at` is a Unix
    timestamp."""

    user_id: str
    email: str
    is_operator: bool = False
    expires_at: float = math.inf


class Authenticator:
    """Turns an Authorization header into a Customer, or raises the problem that says why not: 401, or 503
    where it cannot be told."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._secret = None if settings.auth_jwt_secret is None else _secret_key(settings.auth_jwt_secret)
        self._jwks = None if settings.auth_jwks_url is None else Jwks(settings.auth_jwks_url)
        self._issuer = settings.auth_issuer
        self._max_bytes = settings.max_token_bytes
        self._needs_verified_email = settings.auth_email_verified
        self._aal = {False: settings.auth_aal, True: max(settings.auth_aal, settings.auth_operator_aal)}
        self._jwt = jwt.PyJWT({"require": ["exp", "aud", "sub", *(["iss"] if self._issuer else [])]})

    @property
    def is_ready(self) -> bool:
        """Whether tokens can be checked; once they could, the provider may be away."""
        return self._jwks is None or self._jwks.was_fetched

    def work(self) -> list[Coroutine[Any, Any, None]]:
        """What the process runs in the background meanwhile."""
        return [] if self._jwks is None else [self._jwks.run()]

    async def verify(self, authorization: str | None) -> Customer:
        if len(authorization or "") > self._max_bytes:
            # Before anything is decoded.
            raise _refused("invalid_token", "invalid_token")
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise _refused("missing_token", "")
        try:
            key = await self._key(token.strip())
            claims = self._jwt.decode(
                token.strip(),
                key,
                algorithms=[key.algorithm_name],
                audience=_AUDIENCE,
                issuer=self._issuer,
                leeway=_LEEWAY_SECONDS,
            )
            return self._customer(claims)
        except KeysUnavailable as error:
            raise ProblemError("keys_unavailable") from error
        except jwt.ExpiredSignatureError as error:
            raise _refused("token_expired", "invalid_token") from error
        # A subject that is no UUID fails outside PyJWT's own errors.
        except (jwt.PyJWTError, ValueError) as error:
            raise _refused("invalid_token", "invalid_token") from error

    def _customer(self, claims: dict[str, Any]) -> Customer:
        """ValueError for a subject that is nobody; the problem of a sign-in that is not enough."""
        if claims.get("role") in _NOBODYS_ROLES:
            raise ValueError("a role of the project's own")
        user_id, is_operator = str(UUID(claims["sub"])), _is_operator(claims.get("app_metadata"))
        # At the top, where the project writes: `user_metadata` is the customer's own.
        if self._needs_verified_email and claims.get("email_verified") is not True:
            raise ProblemError("email_not_verified")
        if self._aal[is_operator] == "aal2" and claims.get("aal") != "aal2":
            raise ProblemError("second_factor_required")
        return Customer(user_id, _email(claims.get("email")), is_operator, float(claims["exp"]))

    async def _key(self, token: str) -> jwt.PyJWK:
        """The one that may have signed the token, with the one algorithm that goes with it."""
        if self._jwks is None:
            assert self._secret is not None, "settings.py demands one of the two"
            return self._secret
        header = jwt.get_unverified_header(token)
        if header.get("alg") == _HMAC and self._secret is not None:
            return self._secret
        key = await self._jwks.key(str(header.get("kid", "")))
        if key is None:
            raise jwt.InvalidTokenError("no such key")
        return key


def _secret_key(secret: SecretStr) -> jwt.PyJWK:
    """A JWK is bound to its algorithm: a second wall behind the pinned one."""
    encoded = base64url_encode(secret.get_secret_value().encode()).decode()
    return jwt.PyJWK({"kty": "oct", "k": encoded, "alg": _HMAC})


def _email(claim: object) -> str:
    """The token's e-mail when it is a mailbox, else nothing."""
    return mailbox_of(claim) if isinstance(claim, str) else ""


def _is_operator(claim: object) -> bool:
    """`app_metadata.role` alone: the customer writes `user_metadata`, and `role` is Postgres' in Supabase."""
    return isinstance(claim, dict) and claim.get("role") == _OPERATOR


def _refused(code: str, bearer_error: str) -> ProblemError:
    """RFC 6750: no error attribute when no token came at all."""
    challenge = f'Bearer error="{bearer_error}"' if bearer_error else "Bearer"
    return ProblemError(code, headers={"WWW-Authenticate": challenge})
