"""Databases and broker are lost, and brought back from a backup: docs/backup.md, really done."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from deploy.compose.containers import Project, docker

# As the image has it, Postgres 18 and later.
_PGDATA = "/var/lib/postgresql/18/docker"
_UNPACK = f"mkdir -p {_PGDATA} && tar -x -C {_PGDATA} && chown -R postgres:postgres /var/lib/postgresql"
_SERVICES = ("wallet", "orders", "payments")
# Facts of before the backup may not have been heard at the time.
_MARGIN = timedelta(hours=1)
_COPY_SECONDS = 600.0


def back_up(project: Project, into: Path) -> None:
    """One file that holds the three databases at one moment, taken while they are written to."""
    project.save(
        into,
        *("exec", "-T", "--user", "postgres", "postgres"),
        *("pg_basebackup", "-U", "postgres", "-D", "-", "--format=tar", "--wal-method=fetch"),
        "--checkpoint=fast",
        seconds=_COPY_SECONDS,
    )


def lose(project: Project) -> None:
    """The volumes of Postgres and NATS are gone, with everything since the backup."""
    project.run("stop", "gateway", "orders", "payments", "wallet", "postgres", "nats", seconds=180)
    project.run("rm", "--force", "postgres", "nats")
    docker("volume", "rm", f"{project.name}_postgres", f"{project.name}_nats")


def restore(project: Project, backup: Path) -> None:
    """Into an empty volume; nothing runs yet."""
    project.feed(
        backup,
        *("run", "--rm", "--no-deps", "-T", "--entrypoint", "sh", "postgres", "-c", _UNPACK),
        seconds=_COPY_SECONDS,
    )


def republish(project: Project, since: datetime) -> None:
    """Every fact goes out once more, into the empty broker."""
    moment = (since - _MARGIN).astimezone(UTC).isoformat()
    for service in _SERVICES:
        command = ("python", "-m", f"services.{service}", "republish", "--since", moment)
        project.run("run", "--rm", "--no-deps", "-T", service, *command)
