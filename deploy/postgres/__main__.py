"""Makes databases and roles: `python -m deploy.postgres`. Run again, it sets the passwords anew."""

from deploy.postgres.bootstrap import bootstrap
from deploy.postgres.settings import BootstrapSettings
from services.chassis.settings import load


def main() -> None:
    settings = load(BootstrapSettings)
    bootstrap(settings.database_admin_url.get_secret_value(), settings.passwords())


if __name__ == "__main__":
    main()
