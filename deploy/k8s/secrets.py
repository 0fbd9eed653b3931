"""Draws every Secret that an overlay names, once: `python -m deploy.k8s.secrets dev | kubectl create -f -`.

`create`, not `apply`: the passwords of a shop that runs are never replaced by new ones. `production` takes
what Stripe and the mail server gave from the environment. Nothing is written to disk. Keys have the names of
the variables that they become.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deploy.compose import environment
from deploy.k8s.manifests import OVERLAYS
from deploy.k8s.settings import OutsideSettings
from deploy.postgres.roles import LOGINS, SERVICES, role
from services.chassis.settings import load

NAMESPACE = "aishop"
_SUPERUSER = "postgres"


@dataclass(frozen=True)
class Places:
    """Where an overlay has its stores."""

    postgres: str
    postgres_options: str
    nats: str = "nats:4222"
    valkey: str = "valkey:6379"

    def database(self, user: str, password: str, database: str) -> str:
        return f"postgresql://{user}:{password}@{self.postgres}/{database}{self.postgres_options}"


PLACES: Mapping[str, Places] = {
    "dev": Places("postgres:5432", ""),
    # CloudNativePG's service for whoever writes; the authority is mounted by components/postgres-ca.
    "production": Places("postgres-rw:5432", "?sslmode=verify-full&sslrootcert=/postgres/ca.crt"),
}


def secrets(overlay: str, drawn: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """{name of the Secret: its data}, from the variables of deploy/compose/environment.py."""
    places = PLACES[overlay]
    superuser = drawn["POSTGRES_PASSWORD"]
    valkey_url = f"valkey://:{drawn['VALKEY_PASSWORD']}@{places.valkey}"
    found = {service: _of_service(service, places, drawn) for service in SERVICES}
    found["wallet"] |= {"EMAIL_HMAC_KEY": drawn["EMAIL_HMAC_KEY"]}
    found["orders"] |= {"SMTP_URL": drawn["SMTP_URL"], "VALKEY_URL": valkey_url}
    found["payments"] |= {name: drawn[name] for name in ("STRIPE_SECRET_KEY", "STRIPE_WEBHOOK_SECRETS")}
    found["gateway"] = {"VALKEY_URL": valkey_url}
    if drawn["AUTH_JWT_SECRET"]:
        found["gateway"] |= {"AUTH_JWT_SECRET": drawn["AUTH_JWT_SECRET"]}
    owners = {service: role(service, "owner") for service in SERVICES}
    for service, owner in owners.items():
        url = places.database(owner, drawn[_password(owner)], service)
        found[f"{service}-owner"] = {"DATABASE_OWNER_URL": url}
    found["postgres-superuser"] = {"username": _SUPERUSER, "password": superuser}
    found["postgres-admin"] = {"DATABASE_ADMIN_URL": places.database(_SUPERUSER, superuser, "postgres")}
    roles = [_password(role(service, login)) for service in SERVICES for login in LOGINS]
    found["postgres-roles"] = {name: drawn[name] for name in roles}
    found["nats"] = {name: drawn[name] for name in (_password(f"nats_{service}") for service in SERVICES)}
    found["valkey"] = {"VALKEY_PASSWORD": drawn["VALKEY_PASSWORD"]}
    return found


def _of_service(service: str, places: Places, drawn: Mapping[str, str]) -> dict[str, str]:
    app, worker = role(service, "app"), role(service, "worker")
    return {
        "DATABASE_APP_URL": places.database(app, drawn[_password(app)], service),
        "DATABASE_WORKER_URL": places.database(worker, drawn[_password(worker)], service),
        "NATS_URL": f"nats://{service}:{drawn[_password(f'nats_{service}')]}@{places.nats}",
        "DATA_ENCRYPTION_KEYS": drawn[f"{service.upper()}_DATA_ENCRYPTION_KEYS"],
    }


def _password(user: str) -> str:
    return f"{user.upper()}_PASSWORD"


def manifests(found: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """A List for kubectl."""
    items = [
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "type": "kubernetes.io/basic-auth" if "username" in data else "Opaque",
            "stringData": data,
        }
        for name, data in found.items()
    ]
    return {"apiVersion": "v1", "kind": "List", "items": items}


def _given() -> dict[str, str]:
    """Production's own; customers' tokens are proved by the provider's keys there."""
    settings = load(OutsideSettings)
    return {
        "STRIPE_SECRET_KEY": settings.stripe_secret_key.get_secret_value(),
        "STRIPE_WEBHOOK_SECRETS": settings.stripe_webhook_secrets.get_secret_value(),
        "SMTP_URL": settings.smtp_url.get_secret_value(),
        "AUTH_JWT_SECRET": "",
    }


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or arguments[0] not in OVERLAYS:
        print(f"usage: python -m deploy.k8s.secrets {'|'.join(OVERLAYS)}", file=sys.stderr)
        return 2
    [overlay] = arguments
    given = _given() if overlay == "production" else {}
    print(json.dumps(manifests(secrets(overlay, environment.variables() | given)), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
