"""The sandbox's environment."""

from pathlib import Path

from pydantic import SecretStr
from pydantic_settings import BaseSettings


class SandboxSettings(BaseSettings):
    sandbox_listen: str
    # The origin in session.url.
    sandbox_public_url: str
    sandbox_webhook_url: str
    sandbox_data: Path
    # The only key it lets in.
    stripe_secret_key: SecretStr
    stripe_webhook_secret: SecretStr
