"""PgBouncer in transaction mode before the shared Postgres."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from deploy.local import ports, postgres
from deploy.local.ephemeral import wait_until

_SECONDS = 15.0


def required_program() -> str:
    """PyPI does not have it; CI does not do without it (.ci/run)."""
    found = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        why = "pgbouncer is missing: it comes with Debian's package of that name"
        if os.environ.get("AISHOP_REQUIRE_PGBOUNCER"):
            pytest.fail(why)
        pytest.skip(why)
    return found


@contextmanager
def pgbouncer(folder: Path, upstream: str, passwords: Mapping[str, str]) -> Iterator[int]:
    """Its port; `upstream` is a URL of the server, `passwords` are by role."""
    program = required_program()
    server = urlsplit(upstream)
    with ports.free_offset() as offset:
        port = next(iter(ports.shifted(offset).values()))
        users = folder / "userlist.txt"
        users.write_text("".join(f'"{role}" "{password}"\n' for role, password in passwords.items()))
        config = folder / "pgbouncer.ini"
        config.write_text(
            f"[databases]\n* = host={server.hostname} port={server.port}\n"
            f"[pgbouncer]\nlisten_addr = {ports.HOST}\nlisten_port = {port}\nunix_socket_dir =\n"
            f"auth_type = scram-sha-256\nauth_file = {users}\npool_mode = transaction\n"
            "default_pool_size = 3\nlogfile =\n"
        )
        with (folder / "pgbouncer.log").open("wb") as log:
            running = subprocess.Popen(
                [*postgres.as_user(), program, "--quiet", str(config)], stdout=log, stderr=log
            )
        try:
            wait_until(lambda: _listens(port), seconds=_SECONDS, what="pgbouncer")
            yield port
        finally:
            running.terminate()
            running.wait(_SECONDS)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((ports.HOST, port)) == 0
