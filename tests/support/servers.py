"""Postgres, NATS and Valkey of their own for tests of one service: databases, roles, nothing migrated."""

from dataclasses import dataclass

from deploy.local.ephemeral import RunningStack
from deploy.local.secret_store import load_or_draw
from deploy.postgres.roles import role


@dataclass(frozen=True)
class Servers:
    """Addresses of running servers. `stack` may kill and hold them."""

    stack: RunningStack

    @property
    def nats_url(self) -> str:
        return self.stack.file.nats_url

    @property
    def valkey_url(self) -> str:
        return self.stack.file.valkey_url

    def admin_url(self, database: str = "postgres") -> str:
        """The superuser, who reads past row-level security."""
        known = self.stack.file.database_urls["wallet"]
        return f"{known.rpartition('/')[0]}/{database}"

    def url(self, service: str, login: str) -> str:
        """One login (owner, app, worker) of one service, to its own database."""
        name = role(service, login)
        password = load_or_draw(self.stack.data).role_passwords[name]
        address = self.admin_url(service).rpartition("@")[2]
        return f"postgresql://{name}:{password}@{address}"
