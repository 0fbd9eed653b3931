"""The environment of the one-shot that makes databases and roles."""

from pydantic import SecretStr

from deploy.postgres.roles import LOGINS, SERVICES, role
from services.chassis.setting_values import PostgresUrl
from services.chassis.settings import ProcessSettings


class BootstrapSettings(ProcessSettings):
    # postgresql://postgres:…: the superuser, to any database.
    database_admin_url: PostgresUrl
    wallet_owner_password: SecretStr
    wallet_app_password: SecretStr
    wallet_worker_password: SecretStr
    orders_owner_password: SecretStr
    orders_app_password: SecretStr
    orders_worker_password: SecretStr
    payments_owner_password: SecretStr
    payments_app_password: SecretStr
    payments_worker_password: SecretStr

    def passwords(self) -> dict[str, str]:
        """By the name of the role."""
        names = [role(service, login) for service in SERVICES for login in LOGINS]
        return {name: getattr(self, f"{name}_password").get_secret_value() for name in names}
