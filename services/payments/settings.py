"""The environment of payments."""

import re
from ipaddress import ip_address
from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from services.chassis.rates import Rate, RateSetting
from services.chassis.server_url import server_url
from services.chassis.setting_values import Listen, WebUrl
from services.chassis.settings import HttpSettings, ServiceSettings

# Whole or restricted keys; a publishable one (pk_…) may do nothing that we ask.
_SECRET_KEY = re.compile(r"(sk|rk)_(test|live)_\w+")
# What signs webhooks is 32 characters and more: with less, anybody's guess makes points.
_WEBHOOK_SECRET = re.compile(r"whsec_[\w+/=-]{32,}")

_SHOP_ID = re.compile(r"[\w.:\[\]-]{1,64}", re.ASCII)


class Settings(ServiceSettings, HttpSettings):
    stripe_secret_key: SecretStr
    # Comma separated: while a secret is rolled, the old and the new one are both accepted.
    stripe_webhook_secrets: SecretStr
    # The account of the key, where a restricted key may not read it.
    stripe_account_id: str = ""
    stripe_api_base: WebUrl = "https://api.stripe.com"
    # host:port of the webhook endpoint.
    webhook_listen: Listen
    # How often one address may deliver (rates.py), and how many of its deliveries may be under way at once.
    rate_limit_webhooks: RateSetting = Rate(2000, 500)
    max_webhooks_per_source: int = Field(default=1_000, ge=1)
    # How long the body of a delivery may take.
    webhook_body_seconds: float = Field(default=3.0, gt=0)
    # How long a worker may be silent about an event before another takes it over: reading one may take
    # several calls to Stripe.
    event_lease_seconds: float = 30.0
    # How often payments compares itself with Stripe.
    reconcile_seconds: int = 300
    # Origin of the shop's pages: Stripe sends the customer back there.
    shop_url: WebUrl
    # The mark of this shop on what it makes at Stripe: other programs, and other copies of this shop, may use
    # the same account. Of the configuration and not of the database, so that a restored copy of the data is
    # another shop when it is told so. Without it the host of SHOP_URL.
    shop_id: str = ""
    # Whether the pages of points and card orders take promotion codes; of each it is kept, so that a change
    # concerns new ones.
    allow_promotion_codes: bool = False
    # How many may follow a checkout at once at this replica, and for how long before they ask again.
    max_watchers: int = 1000
    watch_seconds: float = 300.0
    # How many pages of one customer may be open at Stripe at once, whatever they sell.
    max_open_checkouts: int = Field(default=10, ge=1, le=50)

    @field_validator("stripe_secret_key")
    @classmethod
    def _may_ask_stripe(cls, value: SecretStr) -> SecretStr:
        if not _SECRET_KEY.fullmatch(value.get_secret_value()):
            raise ValueError(
                "must be a secret key, sk_test_... or sk_live_..., or a restricted one, rk_...:"
                " take it from the dashboard, Developers, API keys"
            )
        return value

    @field_validator("stripe_webhook_secrets")
    @classmethod
    def _sign_webhooks(cls, value: SecretStr) -> SecretStr:
        secrets = _listed(value)
        if not secrets or not all(map(_WEBHOOK_SECRET.fullmatch, secrets)):
            raise ValueError(
                "must be whsec_... and whole, comma separated while one is rolled: take it from the"
                " endpoint in the dashboard, Developers, Webhooks, or from `stripe listen --print-secret`"
            )
        return value

    @model_validator(mode="after")
    def _live_key_is_not_overheard(self) -> Self:
        base = server_url(self.stripe_api_base)
        if self.livemode and base.scheme != "https" and not _is_loopback(base.hosts[0].name):
            raise ValueError(
                "STRIPE_API_BASE: a live key goes to Stripe by https only: leave it empty, or take a test key"
            )
        return self

    @model_validator(mode="after")
    def _has_a_mark(self) -> Self:
        if not _SHOP_ID.fullmatch(self.shop_mark):
            raise ValueError("SHOP_ID: must be 1 to 64 letters, digits, dots, colons, underscores or hyphens")
        return self

    @property
    def shop_mark(self) -> str:
        """What objects at Stripe bear."""
        return self.shop_id or urlsplit(self.shop_url).netloc

    @property
    def livemode(self) -> bool:
        """Whether the key moves real money (sk_live_…, rk_live_…)."""
        return self.stripe_secret_key.get_secret_value().split("_")[1:2] == ["live"]

    def webhook_secrets(self) -> tuple[str, ...]:
        return _listed(self.stripe_webhook_secrets)


def _listed(secrets: SecretStr) -> tuple[str, ...]:
    return tuple(secret.strip() for secret in secrets.get_secret_value().split(",") if secret.strip())


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
