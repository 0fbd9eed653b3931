"""The environment of an audit without a stack.json: its databases, for a role that may read them."""

from services.chassis.setting_values import PostgresUrl
from services.chassis.settings import ProcessSettings


class AuditSettings(ProcessSettings):
    wallet_database_url: PostgresUrl
    orders_database_url: PostgresUrl
    payments_database_url: PostgresUrl

    def urls(self) -> dict[str, str]:
        """By the name of the database."""
        return {
            "wallet": self.wallet_database_url.get_secret_value(),
            "orders": self.orders_database_url.get_secret_value(),
            "payments": self.payments_database_url.get_secret_value(),
        }
