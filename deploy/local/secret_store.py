"""Secrets of a local stack: drawn once, kept in its data folder, readable by their owner only."""

import hashlib
import json
import os
import secrets
from pathlib import Path

from pydantic import BaseModel

from deploy.postgres.roles import LOGINS, SERVICES, role


class Secrets(BaseModel):
    """Everything that a stack must not share with another stack."""

    postgres_password: str
    role_passwords: dict[str, str]
    nats_password: str
    valkey_password: str
    auth_jwt_secret: str
    stripe_secret_key: str
    stripe_webhook_secret: str
    data_encryption_keys: str
    email_hmac_key: str

    @property
    def shop_id(self) -> str:
        """Public, and another one for each data folder: several may use one account of Stripe."""
        return f"local-{hashlib.sha256(self.email_hmac_key.encode()).hexdigest()[:16]}"


def load_or_draw(folder: Path) -> Secrets:
    """The folder's secrets; those that it has not yet, of a newer version say, are drawn."""
    path = folder / "secrets.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    drawn = Secrets.model_validate(_draw().model_dump() | known)
    if drawn.model_dump() != known:
        write_private(path, drawn.model_dump_json(indent=2))
    return drawn


def write_private(path: Path, text: str) -> None:
    """Replaces a file atomically with mode 0600."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)


def _draw() -> Secrets:
    return Secrets(
        postgres_password=secrets.token_hex(16),
        role_passwords={
            role(service, login): secrets.token_hex(16) for service in SERVICES for login in LOGINS
        },
        nats_password=secrets.token_hex(16),
        valkey_password=secrets.token_hex(16),
        auth_jwt_secret=secrets.token_urlsafe(48),
        stripe_secret_key=f"sk_test_{secrets.token_hex(16)}",
        stripe_webhook_secret=f"whsec_{secrets.token_hex(16)}",
        data_encryption_keys=f"k1:{secrets.token_urlsafe(32)}",
        email_hmac_key=secrets.token_urlsafe(32),
    )
