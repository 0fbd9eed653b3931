"""What every service reads from its environment. No secret has a default."""

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class ProcessSettings(BaseSettings):
    """Any process of ours."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True, env_ignore_empty=True)

    log_level: str = "INFO"
    # Named crash points, see failpoints.py; unset in production.
    failpoints: str = ""
    failpoints_fired: Path | None = None


class ServiceSettings(ProcessSettings):
    """A gRPC service with a database and a seat on the bus."""

    # postgresql://<service>_app:…: customer requests, under row-level security.
    database_app_url: SecretStr
    # postgresql://<service>_worker:…: consumers, relays and sagas.
    database_worker_url: SecretStr
    database_pool_size: int = 10
    nats_url: SecretStr
    grpc_listen: str
    # How soon a fact is published whose commit nobody here was told of; other commits wake the relay.
    relay_poll_seconds: float = Field(default=0.02, gt=0)
    # How soon a fact comes again whose handler died with its process.
    consumer_ack_wait_seconds: float = Field(default=10, ge=1)
    # host:port of /metrics for Prometheus; none when empty.
    metrics_listen: str = ""
    # kid:base64url(32 bytes)[,kid:…]; the first one encrypts, all of them decrypt.
    data_encryption_keys: SecretStr


class MigrationSettings(ProcessSettings):
    """The one-shot that migrates a service's own database."""

    # postgresql://<service>_owner:…: owns the tables, never used at run time.
    database_owner_url: SecretStr


class SeedSettings(ProcessSettings):
    """The one-shot that puts the sample catalogue in."""

    database_worker_url: SecretStr
