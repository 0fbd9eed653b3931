"""The environment of the orders service."""

from pydantic import Field, SecretStr

from services.chassis.setting_values import SmtpUrl, ValkeyUrl, WebUrl
from services.chassis.settings import ProcessSettings, SeedSettings, ServiceSettings


class AssetSettings(ProcessSettings):
    """The asset store."""

    # Where the pictures are: file:///folder, or s3://bucket with the fields below.
    asset_store_url: str
    # Another S3 than Amazon's; presigned links lead there, so customers must reach it.
    asset_store_endpoint: str | None = None
    asset_store_region: str = "us-east-1"
    # Without a key: what the machine's role allows.
    asset_store_access_key_id: SecretStr | None = None
    asset_store_secret_access_key: SecretStr | None = None


class OrdersSeedSettings(SeedSettings, AssetSettings):
    """The one-shot that puts the sample catalogue in, with its pictures."""


class OrdersSettings(ServiceSettings, AssetSettings):
    # host:port; for every replica dns:///headless-name:port, or ipv4:host:port,host:port.
    wallet_target: str
    payments_target: str
    # smtp://[user:password@]host:port, or smtps:// for TLS.
    smtp_url: SmtpUrl
    mail_from: str
    # valkey://[:password@]host:port[/database]; without it the catalogue is read from the database.
    valkey_url: ValkeyUrl | None = None
    # Origin of the shop's pages: mails link there.
    shop_url: WebUrl
    # What a bought picture allows: for how long, how often, how often again, and for how long one link.
    download_grant_days: int = Field(default=30, ge=1)
    downloads_per_grant: int = Field(default=5, ge=1)
    reissues_per_grant: int = Field(default=3, ge=0)
    download_link_seconds: int = Field(default=900, ge=1)
    # What one customer may hold unpaid: orders by card, and pieces of one product that those reserve.
    max_open_orders: int = Field(default=5, ge=1, le=50)
    max_reserved_pieces: int = Field(default=100, ge=1)
    # How many checkouts of a customer may fail within a day for want of points or stock.
    max_failed_checkouts: int = Field(default=100, ge=1)
    # How long a request or the runner may be silent about a saga before another takes it over.
    saga_lease_seconds: float = 10.0
    # How long whoever completed an order, or claimed its mail, has to send it.
    mail_lease_seconds: float = 60.0
    # How many may follow an order at once at this replica, and for how long before they ask again.
    max_watchers: int = 1000
    watch_seconds: float = 300.0
