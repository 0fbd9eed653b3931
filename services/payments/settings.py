"""The environment of payments."""

from pydantic import SecretStr, field_validator

from services.chassis.client_address import TrustedProxies
from services.chassis.rates import Rate, RateSetting
from services.chassis.setting_values import Listen
from services.chassis.settings import ServiceSettings


class Settings(ServiceSettings):
    stripe_secret_key: SecretStr
    # Comma separated: while a secret is rolled, the old and the new one are both accepted.
    stripe_webhook_secrets: SecretStr
    stripe_api_base: str = "https://api.stripe.com"
    # host:port of the webhook endpoint.
    webhook_listen: Listen
    # How often one address may deliver (rates.py), and the proxies that are believed about the address.
    rate_limit_webhooks: RateSetting = Rate(2000, 500)
    trusted_proxies: TrustedProxies = ()
    # How long a worker may be silent about an event before another takes it over: reading one may take
    # several calls to Stripe.
    event_lease_seconds: float = 30.0
    # How often payments compares itself with Stripe.
    reconcile_seconds: int = 300
    # Origin of the shop's pages: Stripe sends the customer back there.
    shop_url: str
    # How many may follow a checkout at once at this replica, and for how long before they ask again.
    max_watchers: int = 1000
    watch_seconds: float = 300.0

    @field_validator("stripe_webhook_secrets")
    @classmethod
    def _names_one(cls, value: SecretStr) -> SecretStr:
        if not _listed(value):
            raise ValueError("names no secret")
        return value

    @property
    def livemode(self) -> bool:
        """Whether the key moves real money (sk_live_…, rk_live_…)."""
        return self.stripe_secret_key.get_secret_value().split("_")[1:2] == ["live"]

    def webhook_secrets(self) -> tuple[str, ...]:
        return _listed(self.stripe_webhook_secrets)


def _listed(secrets: SecretStr) -> tuple[str, ...]:
    return tuple(secret.strip() for secret in secrets.get_secret_value().split(",") if secret.strip())
