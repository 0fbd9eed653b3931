"""The sandbox's environment variables."""

from pathlib import Path

from pydantic import SecretStr

from services.chassis.setting_values import Listen
from services.chassis.settings import ProcessSettings


class SandboxSettings(ProcessSettings):
    sandbox_listen: Listen = "127.0.0.1:8082"
    # The origin of the payment pages' addresses.
    sandbox_public_url: str = "http://127.0.0.1:8082"
    # Where events are delivered; comma separated: replicas, one after the other.
    sandbox_webhook_url: str
    # Folder of the SQLite file.
    sandbox_data: Path
    # The only key that is let in.
    stripe_secret_key: SecretStr
    stripe_webhook_secret: SecretStr
    # The id of the account; without it one is drawn, and stays with the data.
    sandbox_account: str = ""
