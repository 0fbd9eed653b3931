"""Makes databases and roles: `python -m deploy.postgres`. Run again, it sets the passwords anew."""

import sys

from deploy.postgres.bootstrap import bootstrap
from deploy.postgres.settings import BootstrapSettings
from services.chassis.settings import load
from services.chassis.usage import end_with_usage


def main() -> None:
    if sys.argv[1:]:
        end_with_usage("deploy.postgres")
    settings = load(BootstrapSettings)
    bootstrap(settings.database_admin_url.get_secret_value(), settings.passwords())


if __name__ == "__main__":
    main()
