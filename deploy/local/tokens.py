"""JWTs as Supabase issues them, for trying the shop out without Supabase."""

import time
from uuid import UUID

import jwt


def mint(*, secret: str, user_id: UUID, email: str | None, operator: bool, ttl_seconds: int) -> str:
    """An HS256 token: `sub` is the user, `aud` authenticated; operators by `app_metadata.role` alone."""
    now = int(time.time())
    claims: dict[str, object] = {
        "sub": str(user_id),
        "aud": "authenticated",
        "role": "authenticated",
        "iat": now,
        "exp": now + ttl_seconds,
        "app_metadata": {"role": "operator"} if operator else {},
    }
    if email:
        claims["email"] = email
    return jwt.encode(claims, secret, algorithm="HS256")
