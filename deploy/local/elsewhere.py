"""A shop that this machine did not start: in containers, or in a cluster."""

import os
from collections.abc import Mapping

import httpx
from rich.console import Console
from rich.table import Table

from deploy.local.claim import StackError
from services.chassis.settings import load

_SECONDS = 10.0
_SERVICES = ("wallet", "orders", "payments")


def status(url: str) -> int:
    """Prints whether the gateway and what is behind it serve; 1 when something does not."""
    table = Table("part", "state", "address")
    try:
        with httpx.Client(base_url=url, timeout=_SECONDS) as http:
            alive, ready = http.get("/healthz"), http.get("/readyz")
            away = [] if ready.is_success else list(ready.json().get("unavailable", ["gateway"]))
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise StackError(f"no shop answers at {url}: {error}") from error
    for part in ("gateway", *_SERVICES):
        serves = alive.is_success and part not in away
        table.add_row(part, "[green]serves[/]" if serves else "[red]does not serve[/]", url)
    Console(highlight=False).print(table)
    return 0 if alive.is_success and ready.is_success else 1


def database_urls() -> Mapping[str, str] | None:
    """Those of the environment; None where it names none. Who is told of a shop elsewhere and of none of its
    databases hears how its books are looked at: they are not for the gateway to tell."""
    from deploy.local.audit.settings import AuditSettings

    if any(f"{service.upper()}_DATABASE_URL" in os.environ for service in _SERVICES):
        return load(AuditSettings).urls()
    if url := os.environ.get("AISHOP_URL"):
        raise StackError(
            f"the audit of {url} reads its databases: set WALLET_DATABASE_URL, ORDERS_DATABASE_URL and"
            " PAYMENTS_DATABASE_URL, or run `docker compose run --rm audit` beside them"
        )
    return None
