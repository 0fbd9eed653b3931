"""The environment of the orders service."""

from pydantic import SecretStr

from services.chassis.settings import ServiceSettings


class OrdersSettings(ServiceSettings):
    # host:port, or dns:///headless-name:port for every replica.
    wallet_target: str
    payments_target: str
    # smtp://[user:password@]host:port, or smtps:// for TLS.
    smtp_url: SecretStr
    mail_from: str
    # valkey://[:password@]host:port[/database]; without it the catalogue is read from the database.
    valkey_url: SecretStr | None = None
    # How long a request or the runner may be silent about a saga before another takes it over.
    saga_lease_seconds: float = 10.0
    # How long whoever completed an order, or claimed its mail, has to send it.
    mail_lease_seconds: float = 60.0
