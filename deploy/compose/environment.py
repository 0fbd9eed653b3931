"""`make env`: writes `.env` for docker-compose.yml, with secrets drawn at random, once.

Every value is letters, digits, "_", "-", ":" and "/": nothing that a shell, a URL or compose would read
otherwise. Passwords begin with a letter, since NATS reads them as values of its configuration file.
"""

import os
import secrets
import sys
from pathlib import Path

from deploy.local.parts import ROOT
from deploy.postgres.roles import LOGINS, SERVICES, role

_HEAD = """\
# Secrets and choices of docker-compose.yml, drawn by `make env`. Keep it out of version control.
#
# Profiles: `sandbox` brings a Stripe stand-in and a mailbox, so that no account is needed anywhere;
# `observability` Prometheus, Grafana and Jaeger. Both: sandbox,observability
COMPOSE_PROFILES=sandbox

# The names of containers and volumes begin with it, wherever this folder lies: `docker volume ls` shows them.
COMPOSE_PROJECT_NAME=aishop

# Which images run, `aishop/<service>:<version>`. Here and not exported, or the next `up` takes others.
AISHOP_VERSION=dev

# Where customers find the shop: Stripe sends them back there.
SHOP_URL=http://127.0.0.1:8080

# The mark of this shop on what it makes at Stripe, so that other programs and other copies of the shop can
# use the same account. It stays when data are restored; a copy that runs beside the shop gets another.
SHOP_ID={shop_id}

# The addresses of the reverse proxy with TLS, once there is one, as containers see them: 172.16.0.0/12 for
# one on this machine. Without it everybody behind the proxy counts as one address.
TRUSTED_PROXIES=

# true: Stripe's page takes promotion codes for points and card orders (docs/payments.md).
ALLOW_PROMOTION_CODES=

# The sandbox. For Stripe itself: take `sandbox` out of the profiles, set its key and the secrets of its
# webhook endpoint (comma separated while one is rolled), and leave STRIPE_API_BASE empty.
STRIPE_API_BASE=http://stripe:8082
STRIPE_SECRET_KEY={stripe_key}
STRIPE_WEBHOOK_SECRETS={webhook_secret}

# The mailbox. For real mail: smtps://user:password@host:465
SMTP_URL=smtp://mailbox:8025
MAIL_FROM=shop@aishop.local

# What proves the customers' tokens: this secret with `aishop token`, the one of the Supabase project, or (and
# an empty secret) its keys, AUTH_JWKS_URL=https://<project>.supabase.co/auth/v1/.well-known/jwks.json
# With AUTH_ISSUER=https://<project>.supabase.co/auth/v1 no other project's tokens are believed.
AUTH_JWT_SECRET={jwt_secret}
AUTH_JWKS_URL=
AUTH_ISSUER=

# Origins of frontends on other hosts that may ask from a browser, comma separated: https://shop.example
CORS_ORIGINS=

# Where spans go, http://jaeger:4318 with the profile `observability`; none are recorded while it is empty.
OTEL_EXPORTER_OTLP_ENDPOINT=
"""


def text() -> str:
    """The file's text, with new secrets."""
    head = _HEAD.format(
        shop_id=f"shop-{secrets.token_hex(16)}",
        stripe_key=f"sk_test_{secrets.token_hex(16)}",
        webhook_secret=f"whsec_{secrets.token_hex(16)}",
        jwt_secret=secrets.token_urlsafe(48),
    )
    keys = {f"{service}_DATA_ENCRYPTION_KEYS": f"k1:{secrets.token_urlsafe(32)}" for service in SERVICES}
    keys["EMAIL_HMAC_KEY"] = secrets.token_urlsafe(32)
    users = ["POSTGRES", *(role(service, login) for service in SERVICES for login in LOGINS)]
    users += [*(f"NATS_{service}" for service in SERVICES), "VALKEY", "GRAFANA"]
    passwords = {f"{user}_PASSWORD": f"p{secrets.token_hex(16)}" for user in users}
    drawn = [f"{name.upper()}={value}" for name, value in (keys | passwords).items()]
    return "\n".join([head, "# Keys at rest, and passwords between containers.", *drawn, ""])


def variables() -> dict[str, str]:
    """The file's variables, with new secrets."""
    lines = [line for line in text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def write(path: Path) -> None:
    """FileExistsError rather than another file's secrets lost."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text())


def main() -> int:
    path = ROOT / ".env"
    try:
        write(path)
    except FileExistsError:
        print(f"{path} is there already, and its secrets are in use: it stays as it is", file=sys.stderr)
        return 1
    print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
