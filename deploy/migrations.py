"""Whether processes of the version before can work on what newer migrations leave, and nobody waits for them:
`python -m deploy.migrations`, by `make lint`.

Expand, deploy, contract (docs/upgrade.md): a version may add what the one before does not know, and takes
away only what the one before no longer uses. squawk knows which statements break that, or hold a lock for
long; one that is meant carries `-- squawk-ignore <rule>` in a line before it, with the reason.
"""

import json
import subprocess
import sys
from pathlib import Path

from deploy.release import newest
from services.chassis.migrate import sql_of

_SERVICES = Path(__file__).resolve().parent.parent / "services"
_MATTERS_OF_TASTE = (
    "prefer-robust-stmts",
    "prefer-bigint-over-int",
    "prefer-identity",
    # migrate.py sets them for every migration.
    "require-timeout-settings",
)


def released() -> dict[str, str]:
    """The newest revision of each database that was released: what comes after it meets processes of then."""
    revisions: dict[str, str] = json.loads((newest() / "migrations.json").read_text())
    return revisions


def complaints(sql: str) -> str:
    """What squawk says of statements; empty when it has nothing to say."""
    done = subprocess.run(
        [
            str(Path(sys.executable).parent / "squawk"),
            "--pg-version=18",
            *(f"--exclude={rule}" for rule in _MATTERS_OF_TASTE),
            "--stdin-filepath=migration.sql",
        ],
        input=sql,
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


def main() -> int:
    found = {
        service: complaints(sql_of(_SERVICES / service / "migrations", since=revision))
        for service, revision in released().items()
    }
    for service, said in found.items():
        if said:
            print(f"migrations of {service}:\n{said}")
    return 1 if any(found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
