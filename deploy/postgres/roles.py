"""The names of databases and logins."""

SERVICES = ("wallet", "orders", "payments")
LOGINS = ("owner", "app", "worker")
# Has all of them as its members, and no rights.
LOGINS_GROUP = "aishop_logins"
# The line of pg_hba.conf that keeps them out of the databases that are everybody's, before any that lets
# them in. Not by REVOKE … FROM PUBLIC: pg_rewind and CloudNativePG's streaming_replica connect there, too.
HBA_KEEPS_OUT = f"host postgres,template1 +{LOGINS_GROUP} all reject"


def role(service: str, login: str) -> str:
    return f"{service}_{login}"
