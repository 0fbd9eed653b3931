"""The gateway's environment variables, nothing else."""

from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import NoDecode

from gateway.origins import is_origin
from services.chassis.rates import Rate, RateSetting
from services.chassis.setting_values import Listen, ValkeyUrl, WebUrl
from services.chassis.settings import GrpcSettings, HttpSettings

_MIN_SECRET_BYTES = 32


class GatewaySettings(GrpcSettings, HttpSettings):
    """Where to listen, whom to call, whom to believe, and how much at once."""

    listen: Listen
    wallet_target: str
    orders_target: str
    payments_target: str
    # What proves tokens, one of the two or, while the provider moves, both. Its HS256 secret, whose UTF-8
    # bytes are the key;
    auth_jwt_secret: SecretStr | None = None
    # or where it publishes its keys (jwks.py).
    auth_jwks_url: str | None = None
    # When set, a token must name it as `iss`.
    auth_issuer: str | None = None
    # In bytes, of the Authorization header: beyond it nothing is decoded.
    max_token_bytes: int = Field(default=8 * 1024, ge=512)
    # Whether a token must say `email_verified`, and how sure it must be who signed in (`aal`): of anybody,
    # and of operators.
    auth_email_verified: bool = False
    auth_aal: Literal["aal1", "aal2"] = "aal1"
    auth_operator_aal: Literal["aal1", "aal2"] = "aal1"
    # Origin of the shop's pages; where it is https, browsers are told to stay with that.
    shop_url: WebUrl | None = None
    # Comma separated; no cross-origin answers when empty.
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()

    # valkey://[:password@]host:port[/database], where all replicas count together; each by itself without.
    valkey_url: ValkeyUrl | None = None
    # How often (rates.py): a signed-in user, of that buying and downloading; everybody else by address;
    # webhooks by the address that delivers them.
    rate_limit_user: RateSetting = Rate(300, 50)
    rate_limit_checkout: RateSetting = Rate(300, 20)
    rate_limit_download: RateSetting = Rate(200, 10)
    rate_limit_address: RateSetting = Rate(300, 50)
    rate_limit_webhooks: RateSetting = Rate(2000, 500)

    # How many requests run at once, and how many more may wait for a place, before 503.
    max_running_requests: int = Field(default=128, ge=1)
    max_waiting_requests: int = Field(default=64, ge=0)
    # How many may be under way at once, from the first byte of a body to the last one of the answer: a
    # user's, and those of an address that show no valid token.
    max_requests_per_user: int = Field(default=100, ge=1)
    max_requests_per_address: int = Field(default=100, ge=1)
    # How long a body may take.
    body_seconds: float = Field(default=10.0, gt=0)
    # Webhooks have a lane of their own: a burst from Stripe never locks customers out.
    # Few relays at once: payments stores about as many.
    max_running_webhooks: int = Field(default=8, ge=1)
    max_waiting_webhooks: int = Field(default=2_000, ge=0)
    # Fewer than may wait: no source takes the whole queue.
    max_webhooks_per_source: int = Field(default=1_000, ge=1)
    webhook_body_seconds: float = Field(default=3.0, gt=0)
    # Files take as long as customers' lines: a lane of their own, without a queue.
    max_running_downloads: int = Field(default=32, ge=1)
    max_downloads_per_user: int = Field(default=4, ge=1)
    # How much of a file its reader takes on the whole, or the download ends.
    min_download_bytes_per_second: int = Field(default=16_384, ge=1)
    # Those who follow an order or a checkout cost little while there is no news.
    max_streams: int = Field(default=1_000, ge=1)
    max_streams_per_user: int = Field(default=8, ge=1)
    # Between "not ready" and closing the port, so that a load balancer notices in time.
    drain_delay_seconds: float = Field(default=0.0, ge=0)

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(origin.strip() for origin in value.split(",") if origin.strip())
        return value

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(map(is_origin, value)):
            raise ValueError("must be origins such as https://shop.example, without a path and without *")
        return value

    @field_validator("auth_issuer", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: object) -> object:
        return value or None

    @field_validator("auth_jwks_url")
    @classmethod
    def _cannot_be_tampered_with(cls, value: str | None) -> str | None:
        parts = urlsplit(value or "")
        is_here = parts.hostname in ("localhost", "127.0.0.1", "::1")
        if value is not None and not (parts.scheme == "https" or (parts.scheme == "http" and is_here)):
            raise ValueError("must be an https URL")
        return value

    @model_validator(mode="after")
    def _tokens_can_be_checked(self) -> Self:
        if self.auth_jwt_secret is None and self.auth_jwks_url is None:
            raise ValueError(
                "AUTH_JWT_SECRET or AUTH_JWKS_URL must be set: what proves the customers' tokens"
            )
        return self

    @model_validator(mode="after")
    def _no_source_takes_the_whole_queue(self) -> Self:
        if self.max_webhooks_per_source >= self.max_waiting_webhooks:
            raise ValueError(
                "MAX_WEBHOOKS_PER_SOURCE must be smaller than MAX_WAITING_WEBHOOKS:"
                " one source would keep all others out of the queue"
            )
        return self

    @field_validator("auth_jwt_secret")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value().encode()) < _MIN_SECRET_BYTES:
            raise ValueError(f"must have at least {_MIN_SECRET_BYTES} bytes")
        return value
