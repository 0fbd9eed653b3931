"""The environment of an audit without a stack.json: its databases, for a role that may read them."""

from pydantic import SecretStr

from services.chassis.settings import ProcessSettings


class AuditSettings(ProcessSettings):
    wallet_database_url: SecretStr
    orders_database_url: SecretStr
    payments_database_url: SecretStr

    def urls(self) -> dict[str, str]:
        """By the name of the database."""
        return {
            "wallet": self.wallet_database_url.get_secret_value(),
            "orders": self.orders_database_url.get_secret_value(),
            "payments": self.payments_database_url.get_secret_value(),
        }
