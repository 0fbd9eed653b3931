"""stack.json: where a running stack is and how to get in. Tests and outside tools read it."""

import os
from pathlib import Path

from pydantic import BaseModel

from deploy.local.secret_store import write_private

NAME = "stack.json"
STOPPED = "no stack runs here"


class StackFile(BaseModel):
    """The fields are a contract (docs/operate.md)."""

    gateway_url: str
    webhook_url: str
    stripe_url: str
    mailbox_url: str
    nats_url: str
    valkey_url: str
    database_urls: dict[str, str]
    grpc: dict[str, str]
    # Where each process answers Prometheus.
    metrics_urls: dict[str, str]
    auth_jwt_secret: str
    stripe_secret_key: str
    stripe_webhook_secret: str
    pids: dict[str, int | None]

    def write(self, folder: Path) -> None:
        write_private(folder / NAME, self.model_dump_json(indent=2))

    @classmethod
    def read(cls, path: Path) -> "StackFile":
        """FileNotFoundError with a hint when there is no such stack."""
        file = path / NAME if path.is_dir() else path
        if not file.exists():
            raise FileNotFoundError(f"{STOPPED} ({os.fspath(file)} is missing): start one with `aishop up`")
        return cls.model_validate_json(file.read_text())
