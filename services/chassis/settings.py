"""What every service reads from its environment. No secret has a default."""

import sys
from pathlib import Path
from typing import Self, TypeVar

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.chassis.client_address import TrustedProxies
from services.chassis.setting_values import EncryptionKeys, Listen, LogLevel, NatsUrl, Pooling, PostgresUrl
from services.chassis.transport import TlsFiles, Transport
from services.chassis.wire_limits import WireLimits


class ProcessSettings(BaseSettings):
    """Any process of ours."""

    model_config = SettingsConfigDict(
        extra="ignore",
        frozen=True,
        env_ignore_empty=True,
        # A value that is wrong may be a secret in the wrong place.
        hide_input_in_errors=True,
    )

    log_level: LogLevel = "INFO"
    # Named crash points, see failpoints.py; unset in production.
    failpoints: str = ""
    failpoints_fired: Path | None = None


_Settings = TypeVar("_Settings", bound=ProcessSettings)
BAD_SETTINGS = 2


def load(kind: type[_Settings]) -> _Settings:
    """The process's settings. Ends the process with a line for each variable that is missing or wrong."""
    try:
        return kind()
    except ValidationError as error:
        for problem in error.errors(include_url=False, include_input=False):
            print(_told(problem["loc"], problem["type"], problem["msg"]), file=sys.stderr)
        sys.exit(BAD_SETTINGS)


def _told(location: tuple[int | str, ...], kind: str, message: str) -> str:
    told = "is required" if kind == "missing" else message.removeprefix("Value error, ")
    # What is wrong between several variables names them itself.
    return f"{str(location[0]).upper()}: {told}" if location else told


class TracedSettings(ProcessSettings):
    """Any process whose work is part of a customer's trace (trace_export.py)."""

    # Base URL of an OTLP/HTTP collector, http://collector:4318 say; no spans are recorded when empty.
    otel_exporter_otlp_endpoint: str = ""
    # The share of new traces that is recorded.
    otel_traces_sampler_arg: float = Field(default=1.0, ge=0, le=1)


class HttpSettings(ProcessSettings):
    """Who serves HTTP to the world (http_protocol.py): what one connection, and one address, may hold."""

    # Addresses and networks of our own proxies, comma separated: they alone are believed about who asks.
    trusted_proxies: TrustedProxies = ()
    # The request line and the headers, in bytes: beyond it 431, and after so many seconds 408.
    max_head_bytes: int = Field(default=32 * 1024, ge=1024)
    head_seconds: float = Field(default=10.0, gt=0)
    # How long an answer that was written waits to be read, before its connection is cut.
    send_seconds: float = Field(default=30.0, gt=0)
    # Connections that one address (a /64 of IPv6) may hold, unless it is a proxy of ours.
    max_connections_per_address: int = Field(default=1_100, ge=1)

    # Bodies of requests under way in all, half of it from one source; customers' and webhooks' by themselves.
    max_bodies_mib: int = Field(default=64, ge=2)

    @property
    def wire_limits(self) -> WireLimits:
        return WireLimits(
            head_bytes=self.max_head_bytes,
            head_seconds=self.head_seconds,
            send_seconds=self.send_seconds,
            connections_per_address=self.max_connections_per_address,
            trusted=self.trusted_proxies,
        )


class GrpcSettings(TracedSettings):
    """Who serves or calls gRPC: three PEM files for mTLS, all or none (transport.py); and its metrics."""

    # host:port of /metrics for Prometheus; none when empty.
    metrics_listen: str = ""
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


class DatabaseSettings(ProcessSettings):
    """Who connects to Postgres."""

    # `transaction` behind PgBouncer in that mode: another session for each transaction (connections.py).
    database_pooling: Pooling = "session"


class ServiceSettings(GrpcSettings, DatabaseSettings):
    """A gRPC service with a database and a seat on the bus."""

    # postgresql://<service>_app:…: customer requests, under row-level security.
    database_app_url: PostgresUrl
    # postgresql://<service>_worker:…: consumers, relays and sagas.
    database_worker_url: PostgresUrl
    database_pool_size: int = Field(default=10, ge=1)
    # nats://[user:password@]host:port[,host:port]: the servers of one cluster.
    nats_url: NatsUrl
    # On how many NATS servers the service's own stream is kept: 3 in a cluster of three.
    nats_stream_replicas: int = Field(default=1, ge=1, le=5)
    grpc_listen: Listen
    # How soon a fact is published whose commit nobody here was told of; other commits wake the relay.
    relay_poll_seconds: float = Field(default=0.02, gt=0)
    # How soon a fact comes again whose handler died with its process.
    consumer_ack_wait_seconds: float = Field(default=10, ge=1)
    # kid:base64url(32 bytes)[,kid:…]; the first one encrypts, all of them decrypt.
    data_encryption_keys: EncryptionKeys


class MigrationSettings(DatabaseSettings):
    """The one-shot that migrates a service's own database."""

    # postgresql://<service>_owner:…: owns the tables, never used at run time.
    database_owner_url: PostgresUrl


class RekeySettings(DatabaseSettings):
    """The one-shot that seals what is stored with the newest key (rekey.py)."""

    database_worker_url: PostgresUrl
    data_encryption_keys: EncryptionKeys


class RepublishSettings(DatabaseSettings):
    """The one-shot that publishes again what the outbox holds (republish.py)."""

    database_worker_url: PostgresUrl


class SeedSettings(DatabaseSettings):
    """The one-shot that puts the sample catalogue in."""

    database_worker_url: PostgresUrl
