"""What every service reads from its environment. No secret has a default."""

from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.chassis.transport import TlsFiles, Transport


class ProcessSettings(BaseSettings):
    """Any process of ours."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True, env_ignore_empty=True)

    log_level: str = "INFO"
    # Named crash points, see failpoints.py; unset in production.
    failpoints: str = ""
    failpoints_fired: Path | None = None


class TracedSettings(ProcessSettings):
    """Any process whose work is part of a customer's trace (trace_export.py)."""

    # Base URL of an OTLP/HTTP collector, http://collector:4318 say; no spans are recorded when empty.
    otel_exporter_otlp_endpoint: str = ""
    # The share of new traces that is recorded.
    otel_traces_sampler_arg: float = Field(default=1.0, ge=0, le=1)


class GrpcSettings(TracedSettings):
    """Who serves or calls gRPC: three PEM files for mTLS, all or none (transport.py)."""

    grpc_tls_cert: Path | None = None
    grpc_tls_key: Path | None = None
    # Whose certificates are believed, of callers and of servers.
    grpc_tls_ca: Path | None = None
    # Plain text beyond loopback, every caller allowed: for tests, and where a mesh encrypts.
    grpc_plaintext: bool = False

    @property
    def transport(self) -> Transport:
        cert, key, ca = self.grpc_tls_cert, self.grpc_tls_key, self.grpc_tls_ca
        files = TlsFiles(cert, key, ca) if cert and key and ca else None
        return Transport(files, is_plaintext_allowed=self.grpc_plaintext)

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        given = [path is not None for path in (self.grpc_tls_cert, self.grpc_tls_key, self.grpc_tls_ca)]
        if any(given) and not all(given):
            raise ValueError("GRPC_TLS_CERT, GRPC_TLS_KEY and GRPC_TLS_CA go together: set all or none")
        if any(given) and self.grpc_plaintext:
            raise ValueError("GRPC_PLAINTEXT contradicts GRPC_TLS_CERT")
        return self


class ServiceSettings(GrpcSettings):
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


class RekeySettings(ProcessSettings):
    """The one-shot that seals what is stored with the newest key (rekey.py)."""

    database_worker_url: SecretStr
    data_encryption_keys: SecretStr


class SeedSettings(ProcessSettings):
    """The one-shot that puts the sample catalogue in."""

    database_worker_url: SecretStr
