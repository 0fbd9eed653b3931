"""Who is asking: Supabase-shaped JWTs."""

from typing import NamedTuple
from uuid import UUID

import jwt
from jwt.utils import base64url_encode

from gateway.problems import ProblemError
from gateway.settings import GatewaySettings

_ALGORITHM = "HS256"
_AUDIENCE = "authenticated"
_LEEWAY_SECONDS = 2
# RFC 5321: 64 of the local part, @, 255 of the domain.
_MAX_EMAIL = 320
_OPERATOR = "operator"


class Customer(NamedTuple):
    """The verified caller. `email` is empty when the token bears none that is usable."""

    user_id: str
    email: str
    is_operator: bool = False


class Authenticator:
    """Turns an Authorization header into a Customer, or raises the 401 that says why not."""

    def __init__(self, settings: GatewaySettings) -> None:
        secret = settings.auth_jwt_secret.get_secret_value().encode()
        # A JWK is bound to its algorithm: a second wall behind the pinned one.
        self._key = jwt.PyJWK({"kty": "oct", "k": base64url_encode(secret).decode(), "alg": _ALGORITHM})
        self._issuer = settings.auth_issuer
        self._jwt = jwt.PyJWT({"require": ["exp", "aud", "sub", *(["iss"] if self._issuer else [])]})

    async def verify(self, authorization: str | None) -> Customer:
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise _refused("missing_token", "")
        try:
            claims = self._jwt.decode(
                token.strip(),
                self._key,
                algorithms=[_ALGORITHM],
                audience=_AUDIENCE,
                issuer=self._issuer,
                leeway=_LEEWAY_SECONDS,
            )
            user_id = str(UUID(claims["sub"]))
            return Customer(user_id, _email(claims.get("email")), _is_operator(claims.get("app_metadata")))
        except jwt.ExpiredSignatureError as error:
            raise _refused("token_expired", "invalid_token") from error
        # A subject that is no UUID fails outside PyJWT's own errors.
        except (jwt.PyJWTError, ValueError) as error:
            raise _refused("invalid_token", "invalid_token") from error


def _email(claim: object) -> str:
    """The token's e-mail when it is one line of a mailbox's length, else nothing."""
    if isinstance(claim, str) and len(claim) <= _MAX_EMAIL and "@" in claim and claim.isprintable():
        return claim
    return ""


def _is_operator(claim: object) -> bool:
    """`app_metadata.role` alone: the customer writes `user_metadata`, and `role` is Postgres' in Supabase."""
    return isinstance(claim, dict) and claim.get("role") == _OPERATOR


def _refused(code: str, bearer_error: str) -> ProblemError:
    """RFC 6750: no error attribute when no token came at all."""
    challenge = f'Bearer error="{bearer_error}"' if bearer_error else "Bearer"
    return ProblemError(code, headers={"WWW-Authenticate": challenge})
