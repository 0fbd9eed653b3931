"""The names of databases and logins."""

SERVICES = ("wallet", "orders", "payments")
LOGINS = ("owner", "app", "worker")


def role(service: str, login: str) -> str:
    return f"{service}_{login}"
