"""Findings that an operator has accepted: a difference that is known, decided and settled otherwise.

After one database was restored to an older state than the others, some of what they tell of each other can
never agree again. Booked by `aishop adjust` or `aishop refund` where somebody is owed something, the rest is
accepted here: it stands in the audit log of orders, with who and why, is shown as accepted, and no longer
hides the next finding. What is accepted is one finding as it stands: another row, or other values, is red.
"""

import asyncio
import getpass
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from hashlib import sha256

from pydantic import SecretStr

from deploy.local.audit.snapshot import Finding, Snapshots
from services.chassis import audit_log
from services.chassis.db import Database

ACTION = "audit.accepted"
# Whose log it is in: of the three it is the one that most of the edges end at.
_DATABASE = "orders"
_ACCEPTED = f"SELECT actor, reason, details FROM audit_log WHERE action = '{ACTION}' ORDER BY seq"


def accepted(databases: Snapshots) -> dict[Finding, str]:
    """Each accepted finding, and who accepted it why."""
    return {
        Finding(**row["details"]): f"{row['actor']}: {row['reason']}"
        for row in databases.rows(_DATABASE, _ACCEPTED)
    }


def accept(database_urls: Mapping[str, str], findings: Iterable[Finding], reason: str) -> None:
    """Writes each of them down; whoever is at the keyboard answers for it."""
    asyncio.run(_accept(SecretStr(database_urls[_DATABASE]), findings, reason))


async def _accept(url: SecretStr, findings: Iterable[Finding], reason: str) -> None:
    database = Database(app_url=url, worker_url=url, pool_size=1, name="audit")
    try:
        async with database.worker() as connection:
            for finding in findings:
                details = asdict(finding)
                named = sha256(json.dumps(details, sort_keys=True).encode()).hexdigest()
                await audit_log.append(
                    connection,
                    actor=f"cli:{getpass.getuser()}",
                    action=ACTION,
                    subject=named,
                    reason=reason,
                    details=details,
                )
    finally:
        await database.dispose()
