"""Three Postgres nodes under Patroni and etcd, each of which may die, hang, and come back.

Patroni comes with the group `failover` (`make chaos` installs it), etcd with Debian's package `etcd-server`.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from deploy.local import ports, postgres
from deploy.local.ephemeral import wait_until
from deploy.local.parts import base_environment
from deploy.postgres.roles import HBA_KEEPS_OUT

NODES = ("a", "b", "c")
_PASSWORD = "secret"
_SECONDS = 120.0
# Patroni's least: how long a leader that is not heard of stays leader.
_TTL_SECONDS = 20


def required_programs() -> tuple[str, str]:
    """Patroni's and etcd's; skips where they are missing."""
    patroni, etcd = Path(sys.executable).parent / "patroni", shutil.which("etcd")
    if not patroni.exists() or etcd is None:
        pytest.skip("missing: patroni (`make chaos` installs it) or etcd (Debian's etcd-server)")
    return str(patroni), etcd


class Cluster:
    """Use `patroni_cluster`. URLs name all nodes, and lead to the one that takes writes."""

    def __init__(self, folder: Path, free: Sequence[int]) -> None:
        self._folder = folder
        self._etcd_ports = free[:2]
        self._sql = dict(zip(NODES, free[2:5], strict=True))
        self._rest = dict(zip(NODES, free[5:8], strict=True))
        self._patronis: dict[str, subprocess.Popen[bytes]] = {}
        self._etcd: subprocess.Popen[bytes] | None = None

    def url(self, database: str, login: str = "postgres", password: str = _PASSWORD) -> str:
        hosts = ",".join(f"{ports.HOST}:{port}" for port in self._sql.values())
        return f"postgresql://{login}:{password}@{hosts}/{database}?target_session_attrs=read-write"

    def begin(self) -> None:
        _, etcd = required_programs()
        client, peer = (f"http://{ports.HOST}:{port}" for port in self._etcd_ports)
        listening = ["--listen-client-urls", client, "--advertise-client-urls", client]
        peers = ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
        members = ["--initial-cluster", f"default={peer}", "--data-dir", str(self._folder / "etcd")]
        self._etcd = self._spawn("etcd", [etcd, *listening, *peers, *members])
        for node in NODES:
            (self._folder / f"{node}.json").write_text(json.dumps(self._config(node)))
        self.start("a")
        wait_until(lambda: self.leader() == "a", seconds=_SECONDS, what="the first leader")
        for node in ("b", "c"):
            self.start(node)
        self.wait_whole()

    def start(self, node: str) -> None:
        patroni, _ = required_programs()
        command = [*postgres.as_user(), patroni, str(self._folder / f"{node}.json")]
        self._patronis[node] = self._spawn(node, command)

    def _spawn(self, name: str, command: list[str]) -> "subprocess.Popen[bytes]":
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        with (self._folder / f"{name}.log").open("ab") as log:
            environment = base_environment() | {"PATH": path}
            return subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)

    def _config(self, node: str) -> dict[str, Any]:
        sql, rest = f"{ports.HOST}:{self._sql[node]}", f"{ports.HOST}:{self._rest[node]}"
        logins = {"superuser": "postgres", "replication": "replicates", "rewind": "rewinds"}
        local = [f"host {what} all {ports.HOST}/32 scram-sha-256" for what in ("replication", "all")]
        return {
            "scope": "aishop",
            "name": node,
            "etcd3": {"host": f"{ports.HOST}:{self._etcd_ports[0]}"},
            "restapi": {"listen": rest, "connect_address": rest},
            "bootstrap": {
                "dcs": {
                    "ttl": _TTL_SECONDS,
                    "loop_wait": 3,
                    "retry_timeout": 5,
                    "synchronous_mode": "quorum",
                    "postgresql": {
                        "use_pg_rewind": True,
                        "parameters": {"max_connections": 200, "wal_keep_size": "512MB"},
                    },
                },
                "initdb": [{"encoding": "UTF8"}, {"locale": "C.UTF-8"}],
            },
            "postgresql": {
                "listen": sql,
                "connect_address": sql,
                "data_dir": str(self._folder / node),
                "bin_dir": str(postgres.binary("postgres").parent),
                "pgpass": str(self._folder / f"{node}.pgpass"),
                "pg_hba": [HBA_KEEPS_OUT, *local],
                "parameters": {"unix_socket_directories": ""},
                "authentication": {
                    what: {"username": login, "password": _PASSWORD} for what, login in logins.items()
                },
            },
        }

    def leader(self, *, but: str = "") -> str | None:
        """Who takes writes, as the nodes themselves say."""
        return next((node for node in NODES if node != but and self._is_primary(node)), None)

    def _is_primary(self, node: str) -> bool:
        url = f"postgresql://postgres:{_PASSWORD}@{ports.HOST}:{self._sql[node]}/postgres"
        try:
            with psycopg.connect(url, connect_timeout=2, options="-c statement_timeout=2000") as connection:
                return connection.execute("SELECT pg_is_in_recovery()").fetchone() == (False,)
        except psycopg.OperationalError:
            return False

    def standbys(self, leader: str) -> set[str]:
        """Who streams from the leader, and may take its place: commits wait for one of them."""
        try:
            url = f"http://{ports.HOST}:{self._rest[leader]}/cluster"
            members = httpx.get(url, timeout=5, trust_env=False).json()["members"]
        except (httpx.HTTPError, ValueError, KeyError):
            return set()
        return {
            each["name"]
            for each in members
            if (each["role"], each["state"]) == ("quorum_standby", "streaming")
        }

    def wait_whole(self) -> None:
        """Until one leads and both others follow it."""

        def is_whole() -> bool:
            leader = self.leader()
            return leader is not None and self.standbys(leader) == set(NODES) - {leader}

        wait_until(is_whole, seconds=_SECONDS, what="two standbys that stream")

    def _pids(self, node: str) -> list[int]:
        """Patroni's, and those of the Postgres that it started."""
        home = self._folder / node
        found = [self._patronis[node].pid]
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdecimal() and (entry / "cwd").samefile(home):
                    found.append(int(entry.name))
            except OSError:
                continue
        return found

    def kill(self, node: str) -> None:
        """The whole machine, as it were."""
        for pid in self._pids(node):
            _signal(pid, signal.SIGKILL)
        self._patronis[node].wait()

    def freeze(self, node: str) -> None:
        for pid in self._pids(node):
            _signal(pid, signal.SIGSTOP)

    def thaw(self, node: str) -> None:
        for pid in self._pids(node):
            _signal(pid, signal.SIGCONT)

    def switch_over(self) -> None:
        """Asks the leader to hand over; returns when it has."""
        leader = self.leader()
        assert leader is not None, "there is a leader"
        url = f"http://{ports.HOST}:{self._rest[leader]}/switchover"
        httpx.post(url, json={"leader": leader}, timeout=_SECONDS, trust_env=False).raise_for_status()

    def stop(self) -> None:
        for node in self._patronis:
            self.thaw(node)
            self.kill(node)
        if self._etcd:
            self._etcd.kill()
            self._etcd.wait()


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


@contextmanager
def patroni_cluster(folder: Path) -> Iterator[Cluster]:
    required_programs()
    with ports.free_offset() as offset:
        cluster = Cluster(folder, list(ports.shifted(offset).values()))
        try:
            cluster.begin()
            yield cluster
        finally:
            cluster.stop()


def logins(passwords: Mapping[str, str], cluster: Cluster, service: str) -> dict[str, str]:
    """The environment that leads a service to the cluster."""
    return {
        f"DATABASE_{login.upper()}_URL": cluster.url(
            service, f"{service}_{login}", passwords[f"{service}_{login}"]
        )
        for login in ("app", "worker", "owner")
    }
